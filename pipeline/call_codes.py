"""Codes of calls as they are decoded: what a cohort's array says of each genotype.

Pure arithmetic on chunks; no input or output. Calls of whole alleles become the codes
of `estimator.packing.CALLS` and dosages those of `estimator.packing.DOSAGES`, each
with one more code for what a biallelic variant cannot have. A missing call has the
code of `GENOTYPES`, so that those of most cohorts can be packed as they are; `narrow`
takes all of them to the encoding of a store.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from estimator.packing import (
    CALLS,
    DOSAGE_BITS,
    DOSAGE_UNITS,
    DOSAGES,
    GENOTYPES,
    SINGLE_CALL,
    Codes,
    Encoding,
)

MISSING_CALL = GENOTYPES.missing
# A third allele, or a dosage outside [0, 2].
INVALID_CALL = CALLS.missing - 1
# Dimensions of dosages of each alternate allele.
_WITH_ALLELES = 3
INVALID_DOSAGE = DOSAGES.missing - 1
# Rows converted at a time, so that temporary arrays stay in cache.
_TILE_ROWS = 128

RawCalls = npt.NDArray[np.signedinteger[Any]]
Dosages = npt.NDArray[np.floating[Any]]
Pairs = npt.NDArray[np.uint16]


class NeedsWiderError(Exception):
    """Calls that the encoding of a store cannot hold.

    Attributes
    ----------
    encoding
        The narrowest that can.
    """

    def __init__(self, encoding: Encoding) -> None:
        super().__init__(encoding)
        self.encoding = encoding


def _code_of_every_pair() -> npt.NDArray[np.uint8]:
    first, second = np.arange(1 << 16, dtype=np.uint16).view(np.int8).reshape(-1, 2).T
    n_unknown = (first < 0).astype(int) + (second < 0)
    observed = np.maximum(first, second)
    code = np.choose(
        n_unknown,
        [first.astype(int) + second, SINGLE_CALL + observed, MISSING_CALL],
        mode="clip",
    )
    return np.where(observed > 1, INVALID_CALL, code).astype(np.uint8)


# The code of two int8 alleles, by the 16 bits that they are together. Symmetric, so
# the order of the bytes does not matter.
_CODE_OF_PAIR = _code_of_every_pair()


def allele_pairs(calls: RawCalls) -> Pairs:
    """Both alleles of each call as one number; of a haploid store, one is unknown.

    Parameters
    ----------
    calls
        Shape (variants, people, 1 or 2); any negative allele is unknown.
    """
    if calls.dtype != np.int8:
        # 2 stands for any allele that a biallelic variant cannot have.
        calls = np.clip(calls, -1, 2).astype(np.int8)
    if calls.shape[2] == 1:
        calls = np.concatenate([calls, np.full_like(calls, -2)], axis=2)
    return np.ascontiguousarray(calls).view(np.uint16)[..., 0]


def codes_of_pairs(pairs: Pairs) -> Codes:
    """Codes of calls of whole alleles.

    >>> codes_of_pairs(allele_pairs(np.array([[[0, 1], [1, -1], [-1, -1], [2, 0]]])))
    array([[ 1,  5,  3, 14]], dtype=uint8)
    """
    codes = np.empty(pairs.shape, np.uint8)
    for start in range(0, len(pairs), _TILE_ROWS):
        rows = slice(start, start + _TILE_ROWS)
        # No index is out of range; "wrap" is the mode that does not check.
        _CODE_OF_PAIR.take(pairs[rows], out=codes[rows], mode="wrap")
    return codes


def codes_of_dosages(dosages: Dosages) -> Codes:
    """Codes of expected alternate alleles, NaN being missing.

    >>> codes_of_dosages(np.array([[0.0, 0.5, 2.0, np.nan, 2.5]]))
    array([[    0,  8192, 32768, 65535, 65534]], dtype=uint16)
    """
    if dosages.ndim == _WITH_ALLELES:
        # Of one value for each alternate allele, that of the first.
        dosages = dosages[..., 0]
    codes = np.empty(dosages.shape, DOSAGES.code_dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(dosages), _TILE_ROWS):
            tile = dosages[start : start + _TILE_ROWS]
            # Of half precision, the units would overflow.
            wide = np.promote_types(tile.dtype, np.float32)
            units = np.rint(tile.astype(wide, copy=False) * DOSAGE_UNITS)
            # False for NaN. What rounds to the bounds is taken as rounded to them.
            inside = (units >= 0) & (units <= 2 * DOSAGE_UNITS)
            found = np.where(inside, units, INVALID_DOSAGE).astype(codes.dtype)
            found[np.isnan(tile)] = DOSAGES.missing
            codes[start : start + _TILE_ROWS] = found
    return codes


def codes_of(values: npt.NDArray[Any]) -> Codes:
    """Codes of a part of call_genotype, or of dosages."""
    if values.dtype.kind == "f":
        return codes_of_dosages(values)
    return codes_of_pairs(allele_pairs(values))


def without_placeholders(
    calls: npt.NDArray[Any], slots: npt.NDArray[np.int8]
) -> npt.NDArray[Any]:
    """Calls of biallelic variants, of which some list alleles that stand for none.

    Parameters
    ----------
    calls
        A part of call_genotype, or of call_dosage, which stays as it is.
    slots
        Number of the alternate allele of each variant, 0 where there is none, and -1
        where all calls are as they should be. It becomes 1, and a call that names
        another one is missing.

    >>> calls = np.array([[[0, 2], [1, 0]], [[0, 1], [1, 1]]], np.int8)
    >>> without_placeholders(calls, np.array([2, -1], np.int8)).tolist()
    [[[0, 1], [-1, -1]], [[0, 1], [1, 1]]]
    """
    rows = np.flatnonzero(slots >= 0)
    if calls.dtype.kind == "f" or not rows.size:
        return calls
    told = calls[rows]
    alternate = slots[rows, np.newaxis, np.newaxis]
    others = ((told > 0) & (told != alternate)).any(axis=2)
    told = np.minimum(told, 1)
    told[others] = -1
    changed = calls.copy()
    changed[rows] = told
    return changed


def missing_code(codes: Codes) -> int:
    """Code of a missing call among calls, or among dosages."""
    return DOSAGES.missing if _are_dosages(codes) else MISSING_CALL


def _are_dosages(codes: Codes) -> bool:
    return codes.dtype == DOSAGES.code_dtype


def find_invalid(codes: Codes) -> npt.NDArray[np.intp]:
    """Row and column of the first invalid code; empty if there is none."""
    invalid = codes == (INVALID_DOSAGE if _are_dosages(codes) else INVALID_CALL)
    return np.argwhere(invalid)[:1].ravel() if invalid.any() else np.empty(0, np.intp)


_SWAPPED_CALLS = np.arange(CALLS.missing + 1, dtype=np.uint8)
_SWAPPED_CALLS[[0, 2, SINGLE_CALL, SINGLE_CALL + 1]] = [
    2,
    0,
    SINGLE_CALL + 1,
    SINGLE_CALL,
]


def swap_alleles(codes: Codes) -> Codes:
    """Codes that count the other allele of each variant."""
    if not _are_dosages(codes):
        return _SWAPPED_CALLS[codes]
    two = codes.dtype.type(2 * DOSAGE_UNITS)
    return np.where(codes <= two, two - codes, codes)


def narrow(codes: Codes, encoding: Encoding) -> Codes:
    """Codes in the encoding of a store.

    Raises
    ------
    NeedsWiderError
        If it cannot hold one of them.
    """
    if _are_dosages(codes):
        if encoding is DOSAGES:
            return codes
        fractional = (codes & (DOSAGE_UNITS - 1)) != 0
        fractional &= codes != DOSAGES.missing
        if encoding is not GENOTYPES or fractional.any():
            raise NeedsWiderError(DOSAGES)
        # Whole alleles are left over, and of a missing dosage two bits set.
        return (codes >> DOSAGE_BITS).astype(np.uint8)
    if encoding is CALLS:
        return np.where(codes == MISSING_CALL, np.uint8(CALLS.missing), codes)
    if encoding is not GENOTYPES or codes.max(initial=0) > GENOTYPES.missing:
        raise NeedsWiderError(CALLS)
    return codes


def nearest_counts(codes: Codes) -> npt.NDArray[np.int8]:
    """Whole numbers of alternate alleles nearest to dosages; missing or invalid -1."""
    nearest = (codes + np.uint16(DOSAGE_UNITS // 2)) >> DOSAGE_BITS
    return np.where(codes <= 2 * DOSAGE_UNITS, nearest, -1).astype(np.int8)


def nearest_of(
    values: npt.NDArray[Any], people: slice | npt.NDArray[np.int64]
) -> npt.NDArray[np.int8]:
    """Alternate alleles of two, as whole numbers; missing or invalid -1.

    A call of one allele counts as two of the same, and a dosage as the nearest number.

    Parameters
    ----------
    values
        A part of call_genotype, or of call_dosage.
    people
        Which of its people.
    """
    if values.dtype.kind == "f":
        return nearest_counts(codes_of_dosages(values[:, people]))
    pairs = allele_pairs(values)
    nearest = np.empty((len(pairs), pairs[:0, people].shape[1]), np.int8)
    # Chosen and looked up in cache, in place of one after the other for all.
    for start in range(0, len(pairs), _TILE_ROWS):
        rows = slice(start, start + _TILE_ROWS)
        _NEAREST_OF_PAIR.take(pairs[rows, people], out=nearest[rows], mode="wrap")
    return nearest


_NEAREST_OF_CODE = np.full(CALLS.missing + 1, -1, np.int8)
_NEAREST_OF_CODE[[0, 1, 2, SINGLE_CALL, SINGLE_CALL + 1]] = [0, 1, 2, 0, 2]
_NEAREST_OF_PAIR = _NEAREST_OF_CODE[_CODE_OF_PAIR]
