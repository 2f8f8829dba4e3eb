"""Counts of packed genotypes: of every variant, of every person.

Plain numpy on the bits as they are packed (`packing`); nothing is unpacked.
"""

import numpy as np
import numpy.typing as npt

from estimator.packing import (
    DOSAGES,
    GENOTYPES,
    VARIANTS_PER_BYTE,
    Encoding,
    PackedArray,
    encoding_of,
)

# People counted at a time: their genotypes stay in cache.
_COUNTED_TOGETHER = 16
# The lower bits of one call in each of eight bytes, of one after the other.
_LOWEST_OF_OCTETS = np.uint64(0x0101010101010101) << np.arange(0, 8, 2, np.uint64)


def count_called(packed: PackedArray) -> npt.NDArray[np.int64]:
    """Count the called genotypes of each person, of one allele or two alike.

    >>> count_called(np.array([[0b11100100, 0b11111110]], np.uint8))
    array([4])
    """
    encoding = encoding_of(packed.dtype)
    if encoding is DOSAGES:
        codes = np.ascontiguousarray(packed).view(encoding.code_dtype)
        return np.count_nonzero(codes != encoding.missing, axis=1)
    n_missing = np.zeros(len(packed), np.int64)
    for first in range(0, len(packed), _COUNTED_TOGETHER):
        people = slice(first, first + _COUNTED_TOGETHER)
        octets = np.ascontiguousarray(packed[people]).view(np.uint8)
        # Eight at a time, then those left over.
        whole = octets.shape[1] // 8 * 8
        n_missing[people] = _count_missing(octets[:, :whole].view(np.uint64), encoding)
        n_missing[people] += _count_missing(octets[:, whole:], encoding)
    return packed.shape[1] * VARIANTS_PER_BYTE - n_missing


def count_genotypes(elements: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Count the diploid genotypes of each variant, of calls packed at two bits.

    Parameters
    ----------
    elements
        Packed calls the other way round: one row for four variants, one column for a
        person.

    Returns
    -------
    Shape (4 x rows, 3): people with 0, 1 and 2 alternate alleles.

    >>> count_genotypes(np.array([[0b11100100, 0b11000100]], np.uint8))
    array([[2, 0, 0],
           [0, 2, 0],
           [1, 0, 1],
           [0, 0, 0]])
    """
    n_rows, n_people = elements.shape
    # Eight people at a time. Those filled up with have no bits set.
    filled = -(-n_people // 8) * 8
    if filled != n_people:
        elements = np.pad(elements, [(0, 0), (0, filled - n_people)])
    octets = np.ascontiguousarray(elements).view(np.uint64)
    sums = np.empty((3, VARIANTS_PER_BYTE, n_rows), np.int64)
    # A product adds up whole numbers as fast as they are read, and exactly.
    ones = np.ones(octets.shape[1], np.float32)
    upper = octets >> np.uint64(1)
    for total, bits in zip(sums, (octets, upper, octets & upper), strict=True):
        for place, mask in enumerate(_LOWEST_OF_OCTETS):
            total[place] = np.bitwise_count(bits & mask).astype(np.float32) @ ones
    lower, upper, missing = sums
    counts = (n_people - lower - upper + missing, lower - missing, upper - missing)
    return np.stack([each.T.ravel() for each in counts], axis=1)


def count_called_columns(elements: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Count the called genotypes of each person, of calls packed at two bits.

    Parameters
    ----------
    elements
        As those of `count_genotypes`; `count_called` is for rows of people.

    >>> count_called_columns(np.array([[0b11100100], [0b11111110]], np.uint8))
    array([4])
    """
    missing = elements >> np.uint8(1)
    missing &= elements
    missing &= np.uint8(0x55)
    n_missing = np.bitwise_count(missing).sum(axis=0, dtype=np.int64)
    return elements.shape[0] * VARIANTS_PER_BYTE - n_missing


def _count_missing(
    bits: npt.NDArray[np.uint8] | npt.NDArray[np.uint64], encoding: Encoding
) -> npt.NDArray[np.int64]:
    # A call is missing where all of its bits are set: the lowest then stands for it.
    for shift in (1, 2)[: encoding.bits // 2]:
        bits = bits & (bits >> bits.dtype.type(shift))
    octet = 0x55 if encoding is GENOTYPES else 0x11
    lowest = int.from_bytes([octet] * bits.dtype.itemsize)
    found = np.bitwise_count(bits & bits.dtype.type(lowest))
    return found.sum(axis=1, dtype=np.int64)
