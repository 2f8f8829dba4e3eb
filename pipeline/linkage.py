"""Linkage disequilibrium: which pairs of variants are correlated.

Takes counts of alternate alleles as a dask array; reads and writes no store.
Invariant: the pairs do not depend on blocks or workers, because the sums behind every
correlation are whole numbers, exact in whatever order they are made.
"""

import itertools

import dask
import dask.array as da
import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Dosage = npt.NDArray[np.int8]
Floats = npt.NDArray[np.floating]

# Most int8 dosages, and most variants, of a block. A task holds two blocks.
_BLOCK_BYTES = 2**22
_BLOCK_ROWS = 4_096
# Variants of a block correlated at a time: few, so that little is computed of pairs
# beyond the window, but enough for matrix products to be fast.
_TILE_ROWS = 128
# Beyond this, float32 does not hold every whole number.
_MAX_FLOAT32_COUNT = 2**24


def window_ends(contigs: Integers, positions: Integers, window_bp: int) -> Integers:
    """Index after the last variant at most `window_bp` beyond each, on its contig.

    Parameters
    ----------
    contigs
        Number of each variant's contig; equal ones are adjacent.
    positions
        Base-pair positions, ascending on each contig.
    window_bp
        Width of the window; two variants exactly this far apart share one.

    >>> window_ends(np.array([0, 0, 0, 1]), np.array([1, 6, 7, 7]), 5)
    array([2, 3, 3, 4])
    """
    ends = np.empty(positions.size, dtype=np.int64)
    changes = (np.flatnonzero(np.diff(contigs)) + 1).tolist()
    for start, stop in itertools.pairwise([0, *changes, positions.size]):
        contig = positions[start:stop]
        reach = np.searchsorted(contig, contig + window_bp, side="right")
        ends[start:stop] = start + reach
    return ends


def linked_pairs(
    dosage: da.Array, ends: Integers, min_r2: float
) -> tuple[Integers, Integers]:
    """Pairs of variants in a window whose r2 reaches a threshold, the earlier first.

    sgkit's ld_matrix finds the same pairs one at a time, in several times the CPU
    time where windows hold many variants. The tests hold this one to it.

    Parameters
    ----------
    dosage, ends
        As for `prune`.
    min_r2
        Smallest r2; pairs that are not correlated at all are never linked.
    """
    rows = max(1, min(_BLOCK_ROWS, _BLOCK_BYTES // dosage.shape[1]))
    blocks = dosage.rechunk((rows, -1)).to_delayed()[:, 0]
    threshold = max(min_r2, np.finfo(np.float64).tiny)
    link = dask.delayed(_link_blocks, pure=False)
    tasks = []
    for start in range(0, ends.size, rows):
        block_ends = ends[start : start + rows]
        for other in range(start, int(block_ends[-1]), rows):
            pair = blocks[start // rows], blocks[other // rows]
            tasks.append(link(*pair, block_ends, start, other, threshold))
    first, second = np.concatenate(dask.compute(*tasks), axis=1)
    return first, second


def _link_blocks(
    rows: Dosage,
    columns: Dosage,
    ends: Integers,
    first_row: int,
    first_column: int,
    threshold: float,
) -> Integers:
    """Link the variants of one block to those of the same or a later block.

    `first_row` and `first_column` are the indices of the blocks' first variants.
    """
    pairs = [np.empty((2, 0), dtype=np.int64)]
    for start in range(0, len(rows), _TILE_ROWS):
        tile = slice(start, start + _TILE_ROWS)
        row = first_row + np.arange(start, start + len(rows[tile]))
        # A window begins after its own variant, and the last one reaches furthest.
        left = max(int(row[0]) + 1 - first_column, 0)
        right = min(int(ends[tile][-1]) - first_column, len(columns))
        if left >= right:
            continue
        column = first_column + np.arange(left, right)
        linked = squared_correlation(rows[tile], columns[left:right]) >= threshold
        linked &= column > row[:, np.newaxis]
        linked &= column < ends[tile, np.newaxis]
        first, second = np.nonzero(linked)
        pairs.append(np.stack([row[first], column[second]]))
    return np.concatenate(pairs, axis=1)


def squared_correlation(rows: Dosage, columns: Dosage) -> npt.NDArray[np.float64]:
    """Squared correlation r2 of every row's dosages with every column's, in [0, 1].

    Over the people called at both variants; 0 where one of the two does not vary
    among them.

    Parameters
    ----------
    rows, columns
        Alternate alleles, variants x people, 0 to 2 and missing -1.

    References
    ----------
    Rogers and Huff (2009), Genetics 182:839-844.

    >>> squared_correlation(np.array([[0, 1, 2]]), np.array([[2, 1, 0], [0, 0, 2]]))
    array([[1.  , 0.75]])
    """
    # Sums of whole numbers, each exact in its type, so that an r2 of 0 is 0.
    exact = 4 * rows.shape[1] <= _MAX_FLOAT32_COUNT
    dtype = np.float32 if exact else np.float64
    x: Floats = np.maximum(rows, 0).astype(dtype)
    y: Floats = np.maximum(columns, 0).astype(dtype)
    in_x, in_y = _called(rows, dtype), _called(columns, dtype)
    n = _product(in_x, in_y)
    sum_x, sum_y = _product(x, in_y), _product(in_x, y)
    covariance = n * _product(x, y) - sum_x * sum_y
    variance_x = n * _product(x * x, in_y) - sum_x * sum_x
    variance_y = n * _product(in_x, y * y) - sum_y * sum_y
    variances = variance_x * variance_y
    r2 = np.zeros_like(covariance)
    return np.divide(covariance * covariance, variances, out=r2, where=variances > 0)


def _called(dosage: Dosage, dtype: type[np.floating]) -> Floats:
    """1 where a call is there, else 0; a single row, to broadcast, if all are."""
    called = dosage >= 0
    return (called[:1] if called.all() else called).astype(dtype)


def _product(first: Floats, second: Floats) -> npt.NDArray[np.float64]:
    return (first @ second.T).astype(np.float64)
