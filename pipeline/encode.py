"""Write VCF Zarr through bio2zarr, partition by partition, restartable at each step.

Reads what a bio2zarr source gives; writes the store. The invariant: a step that was
cut short is done again from where it was, and whoever does the partitions, the same
genotypes give the same chunks.
"""

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bio2zarr import vcz

from pipeline import pieces

# Partitions that are begun at most: what an interruption costs is one of them.
N_PARTITIONS = 64

_ENCODING_BUFFER_BYTES = 256 * 2**20
# bio2zarr holds genotypes (two bytes), their mask (two) and phase (one) per call.
_ENCODING_BYTES_PER_CALL = 5
_CALLS_PER_CHUNK = 10_000_000
# What takes a process about as long as it takes to start.
_CALLS_PER_PROCESS = 10_000_000


def chunk_sizes(n_samples: int) -> tuple[int, int]:
    """Variants and samples per chunk, for a buffer of whole variants in each process.

    >>> chunk_sizes(2_504), chunk_sizes(500_000)
    ((10000, 1000), (107, 10000))
    """
    bytes_per_variant = _ENCODING_BYTES_PER_CALL * n_samples
    variants = max(100, min(10_000, _ENCODING_BUFFER_BYTES // bytes_per_variant))
    samples = max(1_000, min(10_000, _CALLS_PER_CHUNK // variants))
    return variants, samples


def encode(
    open_source: Callable[[str], vcz.Source],
    source_path: Path,
    folder: Path,
    n_workers: int,
) -> None:
    """Write the store `folder/store` of a source, or go on writing it.

    Parameters
    ----------
    open_source
        A class of bio2zarr, called with the path in each process.
    source_path
        The source.
    folder
        Where the store and the marks of what is done are.
    n_workers
        Most processes; 0 works in this one, as few calls do by themselves.

    Raises
    ------
    LibraryError
        If bio2zarr cannot read the source.
    """
    # Of an earlier import to the same place, whose files may have been others.
    _writer.cache_clear()
    laid_out = folder / "laid_out"
    store = folder / "store"
    if not laid_out.exists():
        shutil.rmtree(store, ignore_errors=True)
        with pieces.listening():
            _lay_out(open_source(str(source_path)), store)
        laid_out.touch()
    if (store / "wip" / "metadata.json").exists():
        writer = _writer(open_source, store)
        n_calls = writer.source.num_records * writer.source.num_samples
        n_workers = min(n_workers, n_calls // _CALLS_PER_PROCESS)
        piece = functools.partial(_encode_partition, open_source, store)
        pieces.complete(piece, writer.num_partitions, folder / "encoded", n_workers)
        _collect(writer, store)
    # Left where an earlier attempt was cut short; bio2zarr makes it only once.
    shutil.rmtree(store / "region_index", ignore_errors=True)
    # Consolidates the metadata too.
    vcz.VcfZarrIndexer(store).create_index()


def _lay_out(source: Any, store: Path) -> None:
    variants, samples = chunk_sizes(source.num_samples)
    schema = source.generate_schema(
        variants_chunk_size=variants, samples_chunk_size=samples
    )
    vcz.VcfZarrWriter(type(source), store).init(
        source, target_num_partitions=N_PARTITIONS, schema=schema
    )


@functools.cache
def _writer(open_source: Callable[[str], vcz.Source], store: Path) -> vcz.VcfZarrWriter:
    """A writer that has read its metadata: of PLINK the whole .bim, so only once."""
    writer = vcz.VcfZarrWriter(open_source, store)
    with pieces.listening():
        writer.load_metadata()
    return writer


def _encode_partition(
    open_source: Callable[[str], vcz.Source], store: Path, number: int
) -> None:
    writer = _writer(open_source, store)
    with pieces.listening():
        writer.encode_partition(number)


def _collect(writer: vcz.VcfZarrWriter, store: Path) -> None:
    """Move the partitions' chunks into the arrays, except where they are already."""
    for field in writer.schema.fields:
        if not (store / field.name).exists():
            writer.finalise_array(field.name)
    shutil.rmtree(writer.wip_path)
