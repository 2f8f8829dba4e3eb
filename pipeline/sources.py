"""Open what a command was given: a VCF Zarr store, or files that are imported first."""

import contextlib
import json
from collections.abc import Iterator

from pipeline import provenance, publication
from pipeline.cohort import Cohort, open_cohort
from pipeline.config import FID_IID, IMPORT_DEFAULTS, SourceConfig
from pipeline.distinct import check_distinct
from pipeline.errors import InputError
from pipeline.ingest import ingest, needs_import, source_digest
from pipeline.location import Location, locate
from pipeline.store import check_genotypes, kind_of

_IMPORTED = "cohort.vcz"


def open_source(
    source: str, folder: Location, config: SourceConfig = IMPORT_DEFAULTS
) -> Cohort:
    """Open a cohort, importing it into a folder first if it is no VCF Zarr store.

    The processes of an import are one a core of this machine.

    Raises
    ------
    InputError
        If it cannot be used, or if files that were imported there have changed.
    """
    path = locate(source)
    if needs_import(source):
        path = folder / _IMPORTED
        _import_once(source, path, folder / "cohort.json", config)
    elif config.sample_id == FID_IID:
        raise InputError(
            f"{source} is a store, whose people are known by sample_id alone; import "
            "its files again with --sample-id fid_iid, or leave that out"
        )
    cohort = open_stored(path)
    check_genotypes(cohort.url)
    if config.dosages and not cohort.has_dosages:
        raise InputError(
            f"{source} has genotypes (call_genotype), which are used; --dosages says "
            "what is read of files: import these with it, or leave it out"
        )
    return cohort


def open_stored(path: str | Location) -> Cohort:
    """Open a VCF Zarr store.

    Raises
    ------
    InputError
        If it cannot be used, or is a store or a directory that a run made.
    """
    _check_no_result(locate(path))
    return open_cohort(publication.resolve(locate(path)))


_NEXT = {
    "prepared": "fit a model to it with `streamixture fit {} --output MODEL`",
    "model": "project a cohort on it with `streamixture apply {} COHORT`",
    "ancestry": "write text of it with `streamixture export {} PREFIX`",
}


def _check_no_result(path: Location) -> None:
    """Refuse what a run made in place of a cohort, and say what takes it."""
    kind = kind_of(publication.resolve(path))
    if kind in _NEXT:
        raise InputError(
            f"{path} is no cohort but a streamixture {kind} store; "
            f"{_NEXT[kind].format(path)}, or give the cohort that it was made of"
        )
    if kind is None and publication.find_result(path, "ancestry.zarr") != (
        publication.resolve(path)
    ):
        raise InputError(
            f"{path} is no cohort but the results of a run; give the cohort that they "
            "were made of"
        )


@contextlib.contextmanager
def named_as_given(source: str, folder: Location) -> Iterator[None]:
    """Name in messages the files that the user gave, not the store made of them.

    Raises
    ------
    InputError
        As the block does.
    """
    try:
        yield
    except InputError as error:
        made = str(folder / _IMPORTED)
        if not needs_import(source) or made not in str(error):
            raise
        raise type(error)(str(error).replace(made, source)) from error


def open_to_fit(
    source: str, folder: Location, config: SourceConfig = IMPORT_DEFAULTS
) -> Cohort:
    """Open a cohort as `open_source` does, for a model of its own.

    Where people are projected on a model, the matching chooses among duplicates.

    Raises
    ------
    InputError
        Also if it has a variant twice.
    """
    cohort = open_source(source, folder, config)
    check_distinct(cohort)
    return cohort


def _import_once(
    source: str, path: Location, kept: Location, config: SourceConfig
) -> None:
    """Import to a path, unless it is there already, and keep the files' digest."""
    digest = source_digest(source)
    if not path.exists():
        provenance.write_json(kept, digest)
        # What is to be done with an import that was begun, the workspace decides.
        ingest(source, path, config=config, resume=True, digest=digest)
    elif json.loads(kept.read_text()) != digest:
        raise InputError(
            f"{source} has changed since the unfinished run imported it; restore it "
            "to --resume, or --overwrite to start afresh"
        )
