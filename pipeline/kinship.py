"""Kinship of pairs of people, from bits: which pairs are close relatives.

Takes genotypes as bit planes, one row a person; reads and writes nothing. Runs inside
the workers. The KING-robust estimator compares the genotypes of a pair with one another
and with no population's frequencies, so that structure is not taken for kinship. It
falls short for relatives of different ancestry.

References
----------
Manichaikul et al. (2010), Bioinformatics 26:2867-2873, equation 11.
"""

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
Coefficients = npt.NDArray[np.float32]


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
    two people, only the pair with the earlier on the left is returned.
    """
    coefficient = kinship(left, right)
    row, column = np.nonzero(coefficient >= min_kinship)
    first, second = first_left + row, first_right + column
    once = first < second
    return first[once], second[once], coefficient[row, column][once]


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
    return np.asarray(
        _kinship(
            left.heterozygous,
            left.reference,
            left.alternate,
            right.heterozygous,
            right.reference,
            right.alternate,
        )
    )


@compile_function
def _kinship(
    left_het: Words,
    left_ref: Words,
    left_alt: Words,
    right_het: Words,
    right_ref: Words,
    right_alt: Words,
) -> Coefficients:
    result = np.zeros((left_het.shape[0], right_het.shape[0]), np.float32)
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
            fewer = both + min(only_left, only_right)
            if fewer > 0:
                apart = np.float64(only_left + only_right + 4 * opposite)
                result[i, j] = 0.5 - apart / (4.0 * np.float64(fewer))
    return result
