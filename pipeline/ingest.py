"""Import PLINK, VCF and BGEN files to VCF Zarr.

Finds the files, and hands them to the module of their format. The invariant: a store
appears at its destination complete or not at all, and an import that was interrupted
can go on.
"""

import dataclasses
import hashlib
import importlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline import provenance, source_files, unfinished
from pipeline.config import IMPORT_DEFAULTS, SourceConfig
from pipeline.errors import InputError, install_extra
from pipeline.location import Location
from pipeline.source_files import SourceFiles, needs_import

__all__ = ["ingest", "needs_import", "source_digest"]

logger = logging.getLogger(__name__)

# Module of each format, and the extra of this package that its reader is of.
_MODULES = {
    source_files.BED: ("ingest_bed", None),
    source_files.VCF: ("ingest_vcf", None),
    source_files.PGEN: ("ingest_pgen", "pgen"),
    source_files.BGEN: ("ingest_bgen", "bgen"),
}


def ingest(
    sources: str | Path | Sequence[str | Path],
    destination: str | Location,
    *,
    config: SourceConfig = IMPORT_DEFAULTS,
    n_workers: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    digest: str | None = None,
) -> None:
    """Import files of a cohort to a VCF Zarr store.

    Parameters
    ----------
    sources
        PREFIX.bed, PREFIX.pgen, PREFIX.bgen, or files ending in .vcf.gz, .vcf.bgz or
        .bcf, with what belongs to them beside; or a pattern of the shell.
    destination
        Folder for the store.
    config
        What is read of the files.
    n_workers
        Processes to use, by default one a core; 0 works in this one.
    resume
        Continue an import that was interrupted.
    overwrite
        Start afresh, and replace a Zarr store that is already at the destination.
    digest
        What `source_digest` gave for the sources, if it is known.

    Raises
    ------
    InputError
        If a file is missing, damaged, unindexed or holds no genotypes, or if the
        destination exists.
    ClusterError
        If a process died.
    """
    named = [sources] if isinstance(sources, (str, Path)) else list(sources)
    found = source_files.find_files(named)
    module = _module(found)
    if n_workers is None:
        n_workers = len(os.sched_getaffinity(0))

    def make(folder: Path) -> None:
        module.ingest(found, folder, n_workers, config)

    unfinished.build_store(
        destination,
        _with_settings(digest or _digest(found), config),
        make,
        resume=resume,
        overwrite=overwrite,
    )
    logger.info("imported %s to %s", found, destination)


def source_digest(source: str | Path) -> str:
    """SHA-256 of the files that an import would read, in hexadecimal.

    Raises
    ------
    InputError
        If a file is missing.
    """
    return _digest(source_files.find_files([source]))


def _with_settings(digest: str, config: SourceConfig) -> str:
    """Digest of files and of what is read of them."""
    if config == IMPORT_DEFAULTS:
        return digest
    return provenance.digest([digest, dataclasses.asdict(config)])


def _digest(found: SourceFiles) -> str:
    digests = []
    for path in (*found.files, *found.companions):
        try:
            with path.open("rb") as file:
                digests.append(hashlib.file_digest(file, "sha256").hexdigest())
        except OSError as error:
            raise InputError(
                f"{path} cannot be read ({error.strerror}); check permissions"
            ) from error
    return provenance.digest(digests)


def _module(found: SourceFiles) -> Any:
    """The module of a format, whose reader may be an extra that is not installed."""
    name, extra = _MODULES[found.kind]
    try:
        return importlib.import_module(f"pipeline.{name}")
    except ImportError as error:
        if extra is None:
            raise
        raise InputError(
            f"{found} cannot be read ({error}); {install_extra(extra)}"
        ) from error
