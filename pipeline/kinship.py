"""Kinship of pairs of people, from bits: which pairs are close relatives.

Takes genotypes as bit planes, one row a person; reads and writes nothing. Runs inside
the workers. The KING-robust estimator compares the genotypes of a pair with one another
and with no population's frequencies, so that structure is not taken for kinship. It
falls short for relatives of different ancestry, and is measured by heterozygotes: it
tells nothing of inbred people. Copies of one genotype are known by their identity too,
whether anything is heterozygous or not.

References
----------
Manichaikul et al. (2010), Bioinformatics 26:2867-2873, equation 11.
"""

import numpy as np
import numpy.typing as npt

from pipeline.bit_planes import (
    WORD_BITS,
    BitPlanes,
    Words,
    bit_planes,
    compile_function,
    count_bits,
)

# Kinship of the same person twice, or of twins, and halfway from there to the first
# degree as a power of two, as halfway between degrees.
SAME_PERSON = 0.5
DUPLICATE = 2.0**-1.5
# Share of the genotypes called in both that copies have in common. Of inbred lines,
# unrelated ones have 0.905 and siblings 0.95 in common at a minor allele frequency of
# 0.05, and less at a higher one.
MIN_IDENTITY = 0.99
# Share of the calls of a person, at common variants, from which on a coefficient tells:
# outbred people have 0.1 to 0.5 and lines after five generations of selfing 0.01.
MIN_HETEROZYGOUS = 0.05
# Calls in both below which chance is as large as what is looked for.
MIN_SHARED_CALLS = 1_024

Integers = npt.NDArray[np.int64]
Coefficients = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int32]


def planes_of_people(dosage: npt.NDArray[np.int8]) -> BitPlanes:
    """Bit planes of alternate alleles counted, variants x people: a row a person."""
    return bit_planes(dosage.T)


def related_pairs(
    left: BitPlanes,
    right: BitPlanes,
    first_left: int,
    first_right: int,
    min_kinship: float,
) -> tuple[Integers, Integers, Coefficients]:
    """Pairs across two groups of people whose kinship reaches a threshold.

    `first_left` and `first_right` are the positions of the groups' first people. Of
    two people, only the pair with the earlier on the left is returned. Copies that
    have too few heterozygotes for a coefficient get that of the same person twice.
    """
    coefficient, differing = _compare(*left, *right)
    # What both have called takes a count more: few pairs are near enough to need it.
    most = (1 - MIN_IDENTITY) * left.reference.shape[1] * WORD_BITS
    alike = differing <= most
    row, column = np.nonzero((coefficient >= min_kinship) | alike)
    once = first_left + row < first_right + column
    row, column = row[once], column[once]
    shared = _shared_calls(*left, *right, row, column)
    found, different = coefficient[row, column], differing[row, column]
    copies = (found < DUPLICATE) & (different <= (1 - MIN_IDENTITY) * shared)
    found = np.where(copies, np.float32(SAME_PERSON), found)
    kept = (found >= min_kinship) & (shared >= MIN_SHARED_CALLS)
    return first_left + row[kept], first_right + column[kept], found[kept]


def few_heterozygotes(planes: BitPlanes) -> npt.NDArray[np.bool_]:
    """True for people too inbred for a coefficient: hardly a call is heterozygous."""
    n_het = _count_rows(planes.heterozygous)
    n_called = n_het + _count_rows(planes.reference) + _count_rows(planes.alternate)
    return (n_called > 0) & (n_het < MIN_HETEROZYGOUS * n_called)


def kinship(left: BitPlanes, right: BitPlanes) -> Coefficients:
    """KING-robust kinship coefficient of each person on the left with each other.

    Over the variants called in both: 0.5 for twins or the same person twice, about
    0.25 for first-degree relatives, 0.125 for second-degree ones, and zero or less
    for unrelated people; zero where nothing is heterozygous.

    Parameters
    ----------
    left, right
        The same variants of two groups of people.

    Returns
    -------
    Shape (people on the left, people on the right).
    """
    return _compare(*left, *right)[0]


@compile_function
def _compare(
    left_het: Words,
    left_ref: Words,
    left_alt: Words,
    right_het: Words,
    right_ref: Words,
    right_alt: Words,
) -> tuple[Coefficients, Counts]:
    """Coefficient of each pair, and at how many calls the two differ."""
    shape = (left_het.shape[0], right_het.shape[0])
    coefficient = np.zeros(shape, np.float32)
    differing = np.zeros(shape, np.int32)
    for i in range(left_het.shape[0]):
        for j in range(right_het.shape[0]):
            both = np.uint64(0)
            only_left = np.uint64(0)
            only_right = np.uint64(0)
            opposite = np.uint64(0)
            for word in range(left_het.shape[1]):
                h, r, a = left_het[i, word], left_ref[i, word], left_alt[i, word]
                x, y, z = right_het[j, word], right_ref[j, word], right_alt[j, word]
                both += count_bits(h & x)
                only_left += count_bits(h & (y | z))
                only_right += count_bits(x & (r | a))
                opposite += count_bits((r & z) | (a & y))
            differing[i, j] = np.int32(only_left + only_right + opposite)
            fewer = both + min(only_left, only_right)
            if fewer > 0:
                apart = np.float64(only_left + only_right + 4 * opposite)
                coefficient[i, j] = 0.5 - apart / (4.0 * np.float64(fewer))
    return coefficient, differing


@compile_function
def _shared_calls(
    left_het: Words,
    left_ref: Words,
    left_alt: Words,
    right_het: Words,
    right_ref: Words,
    right_alt: Words,
    row: Integers,
    column: Integers,
) -> Counts:
    """Calls that both of some pairs have."""
    result = np.zeros(len(row), np.int32)
    for pair in range(len(row)):
        i, j = row[pair], column[pair]
        shared = np.uint64(0)
        for word in range(left_het.shape[1]):
            h, r, a = left_het[i, word], left_ref[i, word], left_alt[i, word]
            x, y, z = right_het[j, word], right_ref[j, word], right_alt[j, word]
            shared += count_bits((h | r | a) & (x | y | z))
        result[pair] = np.int32(shared)
    return result


@compile_function
def _count_rows(words: Words) -> Integers:
    result = np.zeros(words.shape[0], np.int64)
    for row in range(words.shape[0]):
        total = np.uint64(0)
        for word in range(words.shape[1]):
            total += count_bits(words[row, word])
        result[row] = np.int64(total)
    return result
