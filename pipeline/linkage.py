"""Linkage disequilibrium: which pairs of variants are correlated.

Takes counts of alternate alleles as a dask array; reads and writes no store. The sums
behind every correlation are counts of bits. Invariant: the pairs do not depend on
blocks or workers, because whole numbers are exact in whatever order they are added.
"""

import itertools

import dask
import dask.array as da
import numpy as np
import numpy.typing as npt

from pipeline.bit_planes import (
    BitPlanes,
    Words,
    bit_planes,
    compile_function,
    count_bits,
)

Integers = npt.NDArray[np.int64]

# Most calls, and most variants, of a block: three bits a call, a task holding two
# blocks.
_BLOCK_CALLS = 2**22
_BLOCK_ROWS = 4_096
# Variants of a block correlated at a time: a row of numbers for each of a window.
_TILE_ROWS = 128


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

    sgkit's ld_matrix finds the same pairs one at a time, in many times the CPU time.
    The tests hold this one to it.

    Parameters
    ----------
    dosage, ends
        As for `prune`.
    min_r2
        Smallest r2; pairs that are not correlated at all are never linked.
    """
    rows = max(1, min(_BLOCK_ROWS, _BLOCK_CALLS // dosage.shape[1]))
    blocks = dosage.rechunk((rows, -1)).to_delayed()[:, 0]
    pack = dask.delayed(bit_planes, pure=False)
    planes = [pack(block) for block in blocks]
    threshold = max(min_r2, np.finfo(np.float64).tiny)
    link = dask.delayed(_link_blocks, pure=False)
    tasks = []
    for start in range(0, ends.size, rows):
        block_ends = ends[start : start + rows]
        for other in range(start, int(block_ends[-1]), rows):
            pair = planes[start // rows], planes[other // rows]
            tasks.append(link(*pair, block_ends, start, other, threshold))
    first, second = np.concatenate(dask.compute(*tasks), axis=1)
    return first, second


def _link_blocks(
    rows: BitPlanes,
    columns: BitPlanes,
    ends: Integers,
    first_row: int,
    first_column: int,
    threshold: float,
) -> Integers:
    """Link the variants of one block to those of the same or a later block.

    `first_row` and `first_column` are the indices of the blocks' first variants.
    """
    # A window begins after its own variant.
    begins = np.maximum(first_row + 1 + np.arange(rows.n_rows) - first_column, 0)
    stops = np.minimum(ends - first_column, columns.n_rows)
    pairs = [np.empty((2, 0), dtype=np.int64)]
    for start in range(0, rows.n_rows, _TILE_ROWS):
        tile = slice(start, start + _TILE_ROWS)
        left, right = int(begins[start]), int(stops[tile][-1])
        if left >= right:
            continue
        r2 = squared_correlation(
            BitPlanes(*(plane[tile] for plane in rows)),
            BitPlanes(*(plane[left:right] for plane in columns)),
            begins[tile] - left,
            stops[tile] - left,
        )
        first, second = np.nonzero(r2 >= threshold)
        shifted = first_row + start + first, first_column + left + second
        pairs.append(np.stack(shifted))
    return np.concatenate(pairs, axis=1)


def squared_correlation(
    rows: BitPlanes,
    columns: BitPlanes,
    begins: Integers | None = None,
    stops: Integers | None = None,
) -> npt.NDArray[np.float64]:
    """Squared correlation r2 of the dosages of pairs of variants, in [0, 1].

    Over the people called at both variants; 0 where one of the two does not vary
    among them, and for pairs that are left out.

    Parameters
    ----------
    rows, columns
        Two groups of variants, in the same people.
    begins, stops
        The columns that each row is correlated with, by default all.

    Returns
    -------
    Shape (rows, columns).

    References
    ----------
    Rogers and Huff (2009), Genetics 182:839-844.

    >>> rows, columns = np.array([[0, 1, 2]]), np.array([[2, 1, 0], [0, 0, 2]])
    >>> squared_correlation(bit_planes(rows), bit_planes(columns))
    array([[1.  , 0.75]])
    """
    if begins is None:
        begins = np.zeros(rows.n_rows, np.int64)
    if stops is None:
        stops = np.full(rows.n_rows, columns.n_rows)
    return np.asarray(_squared_correlation(*rows, *columns, begins, stops))


@compile_function
def _squared_correlation(
    row_het: Words,
    row_ref: Words,
    row_alt: Words,
    column_het: Words,
    column_ref: Words,
    column_alt: Words,
    begins: Integers,
    stops: Integers,
) -> npt.NDArray[np.float64]:
    """With -1, 0 and 1 for the genotypes, of which all sums are counts of bits."""
    result = np.zeros((row_het.shape[0], column_het.shape[0]))
    for i in range(row_het.shape[0]):
        for j in range(begins[i], stops[i]):
            both = np.uint64(0)
            same = np.uint64(0)
            opposite = np.uint64(0)
            row_square = np.uint64(0)
            row_above = np.uint64(0)
            column_square = np.uint64(0)
            column_above = np.uint64(0)
            for word in range(row_het.shape[1]):
                h, r, a = row_het[i, word], row_ref[i, word], row_alt[i, word]
                x, y, z = column_het[j, word], column_ref[j, word], column_alt[j, word]
                in_row, in_column = h | r | a, x | y | z
                both += count_bits(in_row & in_column)
                same += count_bits((r & y) | (a & z))
                opposite += count_bits((r & z) | (a & y))
                row_square += count_bits((r | a) & in_column)
                row_above += count_bits(a & in_column)
                column_square += count_bits((y | z) & in_row)
                column_above += count_bits(z & in_row)
            n = np.float64(both)
            row_sum = 2.0 * np.float64(row_above) - np.float64(row_square)
            column_sum = 2.0 * np.float64(column_above) - np.float64(column_square)
            product = np.float64(same) - np.float64(opposite)
            covariance = n * product - row_sum * column_sum
            row_variance = n * np.float64(row_square) - row_sum * row_sum
            column_variance = n * np.float64(column_square) - column_sum * column_sum
            variances = row_variance * column_variance
            if variances > 0.0:
                result[i, j] = covariance * covariance / variances
    return result
