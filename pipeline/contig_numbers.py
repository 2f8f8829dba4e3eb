"""The contig of every variant, where the store leaves chunks out.

Reads `variant_contig` and bio2zarr's `region_index`; writes nothing. zarr 3 writes no
chunk whose values are all 0, as those of the first contig are, and bio2zarr 0.2 gives
no fill value for them, so that zarr 2 reads whatever is in memory. Invariant: an absent
chunk is taken for the first contig only where the index says so.
"""

import numpy as np
import numpy.typing as npt

from pipeline import store, zarr_files
from pipeline.location import Location

_INDEX = "region_index"
# Columns of the index that are used: chunk, contig, number of variants.
_CHUNK, _CONTIG, _COUNT = 0, 1, 5


def complete_contigs(url: str) -> npt.NDArray[np.integer] | None:
    """Contig numbers of a store of which chunks are absent; None if none is.

    Raises
    ------
    InputError
        If absent chunks have no meaning: of positions ever, of contigs where the index
        does not say that the variants lie on the first.
    """
    zarr_files.check_present(url, store.open_array(url, "variant_position"))
    contigs = store.open_array(url, "variant_contig")
    if contigs.fill_value is not None or zarr_files.absent_chunk(contigs) is None:
        return None
    return zarr_files.read(url, with_first_contig(url, contigs), ())


def with_first_contig(
    where: str | Location, contigs: zarr_files.Array
) -> zarr_files.Array:
    """The numbers of contigs, with the first one where chunks are absent.

    Raises
    ------
    InputError
        If the index does not say that the variants of an absent chunk lie there.
    """
    (size,) = contigs.chunks
    on_first = _chunks_of_first_contig(where, contigs, size)
    others = [n for n in range(contigs.nchunks) if n not in on_first]
    zarr_files.check_present(where, contigs, others)
    return zarr_files.with_zeros(contigs)


def _chunks_of_first_contig(
    where: str | Location, contigs: zarr_files.Array, size: int
) -> set[int]:
    """Chunks of variants all of which the index puts on contig 0."""
    stored = zarr_files.sibling(contigs, _INDEX)
    if stored is None:
        return set()
    index = zarr_files.read(where, stored, ())
    rows = index[index[:, _CONTIG] == 0]
    found = dict(zip(rows[:, _CHUNK].tolist(), rows[:, _COUNT].tolist(), strict=True))
    return {
        chunk
        for chunk, count in found.items()
        if count == min(size, len(contigs) - chunk * size)
    }
