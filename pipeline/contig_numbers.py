"""The contig of every variant, where the store leaves chunks out.

Reads `variant_contig` and bio2zarr's `region_index`; writes nothing. zarr 3 writes no
chunk whose values are all 0, as those of the first contig are, and bio2zarr 0.2 gives
no fill value for them, so that zarr 2 reads whatever is in memory. Invariant: an absent
chunk is taken for the first contig only where the index says so.
"""

import numpy as np
import numpy.typing as npt

from pipeline import store, zarr_files
from pipeline.errors import InputError

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
    positions = store.open_array(url, "variant_position")
    if positions.fill_value is None:
        zarr_files.check_present(url, positions)
    contigs = store.open_array(url, "variant_contig")
    if contigs.fill_value is not None or contigs.nchunks_initialized == contigs.nchunks:
        return None
    (size,) = contigs.chunks
    on_first = _chunks_of_first_contig(url, len(contigs), size)
    numbers = np.zeros(len(contigs), contigs.dtype)
    for chunk in range(contigs.nchunks):
        part = slice(chunk * size, (chunk + 1) * size)
        if zarr_files.is_present(contigs, (chunk,)):
            numbers[part] = contigs[part]
        elif chunk not in on_first:
            raise InputError(
                f"{url}: chunk {chunk} of array variant_contig is absent; copy or "
                "write the store again"
            )
    return numbers


def _chunks_of_first_contig(url: str, n_variants: int, size: int) -> set[int]:
    """Chunks of variants all of which the index puts on contig 0."""
    stored = store.find_array(url, _INDEX)
    if stored is None:
        return set()
    index = zarr_files.read(url, stored, ())
    rows = index[index[:, _CONTIG] == 0]
    found = dict(zip(rows[:, _CHUNK].tolist(), rows[:, _COUNT].tolist(), strict=True))
    return {
        chunk
        for chunk, count in found.items()
        if count == min(size, n_variants - chunk * size)
    }
