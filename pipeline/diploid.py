"""Diploid calls straight to packed genotypes, with no codes between.

Pure arithmetic on chunks; no input or output. Nearly every call of nearly every cohort
has two known alleles or two unknown ones. These are packed four variants at once, in a
third of the time that codes (`call_codes`) take; other calls are not packed here.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from estimator.packing import VARIANTS_PER_BYTE

# The lower bit of each of four calls, and the upper.
_LOWER, _UPPER = np.uint8(0b01010101), np.uint8(0b10101010)
_TWO_OF_EACH = _UPPER
# Calls packed at a time: they stay in cache.
_TILE_CALLS = 2**17


def pack_diploid(calls: npt.NDArray[Any]) -> npt.NDArray[np.uint8] | None:
    """Pack calls whose two alleles are both known or both unknown.

    Parameters
    ----------
    calls
        A part of call_genotype or call_dosage, of whole elements: the variants are a
        multiple of four.

    Returns
    -------
    Shape (variants / 4, people), at two bits a call (`estimator.packing.GENOTYPES`).
    None if there are other calls, or other types than int8, for `call_codes` to tell.

    >>> calls = np.array([[[1, 1]], [[-1, -2]], [[0, 1]], [[0, 0]]], np.int8)
    >>> pack_diploid(calls), pack_diploid(-calls)
    (array([[30]], dtype=uint8), None)
    """
    if calls.dtype != np.int8 or calls.shape[2] != 2:
        return None
    n_variants, n_people, _ = calls.shape
    packed = np.empty((n_variants // VARIANTS_PER_BYTE, n_people), np.uint8)
    step = max(_TILE_CALLS // (VARIANTS_PER_BYTE * max(n_people, 1)), 1)
    for start in range(0, len(packed), step):
        rows = slice(start * VARIANTS_PER_BYTE, (start + step) * VARIANTS_PER_BYTE)
        elements = _pack_tile(np.ascontiguousarray(calls[rows]))
        if elements is None:
            return None
        packed[start : start + step] = elements
    return packed


def _pack_tile(calls: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8] | None:
    if calls.max(initial=0) > 1 or calls.min(initial=0) < -2:
        return None
    n_variants, n_people, _ = calls.shape
    shape = (n_variants // VARIANTS_PER_BYTE, VARIANTS_PER_BYTE, 2 * n_people)
    alleles = calls.view(np.uint8).reshape(shape)
    # Digits of base four, made positive: 0 and 1 for an unknown allele, 2 and 3 for the
    # reference and the alternate. So the upper bit says whether it is known.
    digits = alleles[:, -1].copy()
    for position in range(VARIANTS_PER_BYTE - 2, -1, -1):
        digits += digits
        digits += digits
        digits += alleles[:, position]
    digits += _TWO_OF_EACH
    pairs = digits.view(np.uint16)
    # In either order of bytes, for a call does not depend on the order of its alleles.
    first, second = pairs.astype(np.uint8), (pairs >> np.uint16(8)).astype(np.uint8)
    different = first ^ second
    if (different & _UPPER).any():
        return None
    # The sum of two lower bits; where both alleles are unknown, both bits set.
    packed = first & second & _LOWER
    packed += packed
    packed |= different & _LOWER
    unknown = ~first & _UPPER
    packed |= unknown
    packed |= unknown >> np.uint8(1)
    return packed
