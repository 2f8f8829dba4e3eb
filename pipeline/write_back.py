"""Add the ancestry of a cohort to the cohort's own VCF Zarr store.

Writes `sample_ancestry_proportion`, and `population_id` where populations have names,
and changes nothing else but the consolidated metadata, by these arrays' entries.
Invariant: a reader finds each array whole or not at all. An array is built in a hidden
folder of the store and renamed into place; on an object store its .zarray, without
which no array is there, is written last. Consolidated metadata name an array only
while it is there.
"""

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import ingest, lock, publication, schema, stopping
from pipeline.errors import InputError
from pipeline.location import Location, RemotePath, delete_tree, locate, replacing
from pipeline.plan import Rows
from pipeline.store import Store, find_array, open_genotypes

ANCESTRY = "sample_ancestry_proportion"
_NAMES = "population_id"
_SPECS = {_NAMES: schema.POPULATION_ID, ANCESTRY: schema.ANCESTRY[ANCESTRY]}
_DIMENSIONS = "_ARRAY_DIMENSIONS"
# Attribute of the arrays written here: the fingerprint of what they come from.
_STAMP = "streamixture_stamp"
_WORK = ".streamixture"
_CONSOLIDATED = ".zmetadata"


@dataclass(frozen=True)
class WriteBack:
    """What is asked for: results that go to the cohort's own store too.

    Attributes
    ----------
    overwrite
        Replace those that it has.
    resume
        Finish an interrupted run, which may have written them.
    """

    overwrite: bool = False
    resume: bool = False

    def check_source(self, source: str) -> None:
        """Refuse a cohort that is no store of the user's.

        Raises
        ------
        InputError
            If it is files to be imported.
        """
        if ingest.needs_import(source):
            raise InputError(
                f"{source} is no store, so no ancestry can be written to it; make one "
                "with `streamixture import`, and run on that"
            )

    def check(
        self, source: str, stamp: str, n_populations: int, *, named: bool
    ) -> None:
        """Refuse, before any work, a store that cannot be written to.

        Parameters
        ----------
        source
            The cohort, as the user gave it.
        stamp
            Fingerprint of the results.
        n_populations
            K of the results.
        named
            Whether the populations have names.

        Raises
        ------
        InputError
            If the cohort has ancestry already, has another number of populations, or
            may not be written to.
        """
        path = publication.resolve(locate(source))
        found = {name: _stamp_of(path, name) for name in _SPECS}
        is_own = self.resume and found[ANCESTRY] == stamp
        if found[ANCESTRY] is not None and not (self.overwrite or is_own):
            raise InputError(
                f"{source} has {ANCESTRY} already; pass --overwrite to replace it, or "
                "leave --write-to-cohort out"
            )
        if named and found[_NAMES] == "":
            raise InputError(
                f"{source} has a {_NAMES} that is not of streamixture, and is not "
                "touched; rename it, or leave --write-to-cohort out"
            )
        _check_populations(path, n_populations)
        _check_writable(path)

    def write(self, source: str, ancestry: Location) -> None:
        """Add the results of an ancestry store to the cohort's.

        Raises
        ------
        InputError
            If `check` would raise it now, or the people are not the cohort's.
        """
        path = publication.resolve(locate(source))
        found = Store.open(publication.resolve(ancestry), "ancestry")
        stamp = found.attrs["stamp"]
        named = _NAMES in found
        n_populations = found.shape(ANCESTRY)[1]
        self.check(source, stamp, n_populations, named=named)
        with _hold(path, source):
            _check_people(path, found)
            names = [name for name in _SPECS if name in found]
            with stopping.scratch_folder() as scratch:
                work = Path(scratch) if isinstance(path, RemotePath) else path / _WORK
                built = _build(work / "built", found, names, path)
                _replace(path, built, work)


def _stamp_of(path: Location, name: str) -> str | None:
    """Fingerprint in an array's attributes; "" in another's, None without the array."""
    if not (path / name / ".zarray").exists():
        return None
    attributes = path / name / ".zattrs"
    found = json.loads(attributes.read_text()) if attributes.exists() else {}
    return str(found.get(_STAMP, ""))


def _check_populations(path: Location, n_populations: int) -> None:
    """Refuse other arrays by whose number of populations no reader could open both."""
    (dim,) = schema.POPULATION_ID.dims
    for name, dims, shape in _arrays(path):
        sizes = dict(zip(dims, shape, strict=False))
        if name not in _SPECS and sizes.get(dim, n_populations) != n_populations:
            raise InputError(
                f"{path} has {sizes[dim]} {dim} in {name}, and {n_populations} are to "
                "be written; rename that dimension, or leave --write-to-cohort out"
            )


def _arrays(path: Location) -> Iterator[tuple[str, list[str], list[int]]]:
    """Name, dimensions and shape of every array at the top of a store."""
    metadata = _metadata(path)
    for key, layout in metadata.items():
        name, _, part = key.partition("/")
        if part == ".zarray":
            attributes = metadata.get(f"{name}/.zattrs", {})
            yield name, attributes.get(_DIMENSIONS, []), layout["shape"]


def _metadata(path: Location) -> dict[str, Any]:
    """The .zarray and .zattrs of every array at the top of a store."""
    if isinstance(path, RemotePath) and (path / _CONSOLIDATED).is_file():
        # One request instead of some for each array.
        return dict(json.loads((path / _CONSOLIDATED).read_text())["metadata"])
    files = [f / part for f in path.iterdir() for part in (".zarray", ".zattrs")]
    return {
        f"{file.parent.name}/{file.name}": json.loads(file.read_text())
        for file in files
        if file.is_file()
    }


def _check_writable(path: Location) -> None:
    """Write something hidden and delete it: nothing else tells whether one may."""
    try:
        if isinstance(path, RemotePath):
            probe = path / f"{_WORK}-probe"
            probe.write_bytes(b"")
            probe.unlink()
        else:
            with tempfile.TemporaryDirectory(prefix=f"{_WORK}-probe-", dir=path):
                pass
    except OSError as error:
        raise InputError(
            f"{path} may not be written to ({error.strerror}); ask its owner, or "
            "leave --write-to-cohort out"
        ) from error


def _check_people(path: Location, found: Store) -> None:
    stored = find_array(str(path), "sample_id")
    ids = [] if stored is None else stored[...].astype(str).tolist()
    if ids != found.read("sample_id").tolist():
        raise InputError(
            f"{path} no longer has the people of {found.path}; nothing was written to "
            "it; run again"
        )


@contextlib.contextmanager
def _hold(path: Location, source: str) -> Iterator[None]:
    """Keep two runs that write to one cohort apart; leave nothing behind."""
    if isinstance(path, RemotePath):
        with lock.hold(path / f"{_WORK}.lock", path):
            yield
        return
    work = path / _WORK
    work.mkdir(exist_ok=True)
    with lock.hold(work / "lock", path):
        try:
            yield
        finally:
            delete_tree(work)


def _build(folder: Path, found: Store, names: list[str], path: Location) -> Path:
    """Arrays as they will be in the cohort, in the chunks of its people."""
    store = Store.create(folder, "cohort")
    rows = open_genotypes(str(path)).chunks[1]
    for name in names:
        values, spec = found.read(name), _SPECS[name]
        chunks = (rows if "samples" in spec.dims else len(values), *values.shape[1:])
        store.lay_out(name, spec, values.shape, chunks, {_STAMP: found.attrs["stamp"]})
        store.write_rows(name, Rows(0, len(values)), values)
    return folder


def _replace(path: Location, built: Path, work: Path) -> None:
    """Take what was there out of the store, and put what was built in.

    In this order, each step by itself: metadata without the arrays, the arrays, and
    metadata with them. Killed in between, the store lacks them, or has them where
    readers without consolidated metadata look.
    """
    gone = [name for name in _SPECS if _stamp_of(path, name) is not None]
    if _stamp_of(path, _NAMES) == "":
        # Names that are somebody else's, of populations that have none here.
        gone.remove(_NAMES)
    if gone:
        _edit_metadata(path, gone, {})
    for name in gone:
        if isinstance(path, RemotePath):
            (path / name / ".zarray").unlink()
            delete_tree(path / name)
        else:
            delete_tree(work / f"old-{name}")
            (path / name).rename(work / f"old-{name}")
    added: dict[str, Any] = {}
    for name in _SPECS:
        if (built / name).exists():
            _place(built / name, path / name)
            for part in (".zarray", ".zattrs"):
                added[f"{name}/{part}"] = json.loads((path / name / part).read_text())
    _edit_metadata(path, [], added)


def _place(built: Path, target: Location) -> None:
    if isinstance(target, Path):
        built.rename(target)
        return
    # What an interrupted run left, without .zarray.
    delete_tree(target)
    files = sorted(built.iterdir(), key=lambda file: file.name == ".zarray")
    for file in files:
        (target / file.name).write_bytes(file.read_bytes())


def _edit_metadata(path: Location, gone: list[str], added: Mapping[str, Any]) -> None:
    """Rewrite consolidated metadata, if the store has them, in one step."""
    file = path / _CONSOLIDATED
    if not file.is_file():
        return
    content = json.loads(file.read_text())
    entries = content["metadata"]
    kept = {k: v for k, v in entries.items() if k.partition("/")[0] not in gone}
    content["metadata"] = kept | dict(added)
    # As zarr writes them.
    text = json.dumps(content, indent=4, sort_keys=True, separators=(",", ": "))
    with replacing(file) as stream:
        stream.write(text.encode())
