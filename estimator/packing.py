"""Packed genotypes, people-major: four consecutive variants to an element.

The dtype of the elements says how many bits a call has, and with that what it can be:

======  =====  ==============  ================================================
dtype   bits   encoding        codes
======  =====  ==============  ================================================
uint8   2      ``GENOTYPES``   0, 1, 2 count the alternate alleles of two
uint16  4      ``CALLS``       the same; 4, 5 count those of one allele (half
                               and haploid calls)
uint64  16     ``DOSAGES``     g 2**14 of two alleles, or 0x9000 + g 2**14 of
                               one, for a fractional count g
======  =====  ==============  ================================================

All bits set is missing. The first variant of an element lies in its lowest bits, and
the last element of a row is filled up with missing. So shapes, tiles and strides are
the same for every encoding, and an element with all bits set is padding in each.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

VARIANTS_PER_BYTE = 4
MISSING_CODE = 3

PackedArray: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]
Codes: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]

# Added to the number of alternate alleles where only one allele was observed.
SINGLE_CALL = 4
SINGLE_DOSAGE = 0x9000
# Dosages are whole multiples of 1 / DOSAGE_UNITS of an allele.
DOSAGE_BITS = 14
DOSAGE_UNITS = 1 << DOSAGE_BITS


@dataclass(frozen=True)
class Encoding:
    """How calls are packed.

    Attributes
    ----------
    name
        What the calls can be.
    bits
        Bits of a call.
    """

    name: str
    bits: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the elements, of four calls each."""
        return np.dtype(f"u{self.itemsize}")

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return self.bits * VARIANTS_PER_BYTE // 8

    @property
    def missing(self) -> int:
        """Code of a missing call, and the mask of a code: all bits set."""
        return (1 << self.bits) - 1

    @property
    def code_dtype(self) -> np.dtype[Any]:
        """Type of codes that are not packed."""
        return np.dtype(np.uint8 if self.bits <= 8 else np.uint16)


GENOTYPES = Encoding("genotypes", 2)
CALLS = Encoding("calls", 4)
DOSAGES = Encoding("dosages", 16)
ENCODINGS = (GENOTYPES, CALLS, DOSAGES)
_BY_DTYPE = {encoding.dtype: encoding for encoding in ENCODINGS}


def encoding_of(dtype: Any) -> Encoding:
    """Encoding of packed genotypes of some dtype.

    Raises
    ------
    ValueError
        If it has none. Packed dosages whose dtype is uint32 were put on a device
        without `jax_enable_x64`, which halves them.
    """
    found = _BY_DTYPE.get(np.dtype(dtype))
    if found is None:
        known = ", ".join(str(each) for each in _BY_DTYPE)
        raise ValueError(
            f"packed genotypes have dtype {np.dtype(dtype)}; it must be one of "
            f"{known}, and uint64 needs jax_enable_x64"
        )
    return found


def all_missing(dtype: Any) -> int:
    """Element of four missing calls."""
    return int(np.iinfo(encoding_of(dtype).dtype).max)


def packed_width(n_variants: int) -> int:
    """Elements that hold ``n_variants`` calls.

    >>> packed_width(9)
    3
    """
    return -(-n_variants // VARIANTS_PER_BYTE)


def pack_codes(codes: Codes, encoding: Encoding) -> PackedArray:
    """Pack codes.

    Parameters
    ----------
    codes
        Codes of the encoding, shape (people, variants). Nothing is checked.
    encoding
        How to pack them.

    Returns
    -------
    Shape (people, ceil(variants / 4)), in the same order of memory as the codes.

    >>> pack_codes(np.array([[0, 1, 5, 15, 2]], np.uint8), CALLS)
    array([[62736, 65522]], dtype=uint16)
    """
    filling = -codes.shape[1] % VARIANTS_PER_BYTE
    if filling:
        padding = [(0, 0), (0, filling)]
        codes = np.pad(codes, padding, constant_values=encoding.missing)
    packed = codes[:, 0::VARIANTS_PER_BYTE].astype(encoding.dtype)
    for position in range(1, VARIANTS_PER_BYTE):
        shifted = codes[:, position::VARIANTS_PER_BYTE].astype(encoding.dtype)
        shifted <<= encoding.dtype.type(encoding.bits * position)
        packed |= shifted
    return packed


def unpack_codes(packed: PackedArray, n_variants: int) -> Codes:
    """Undo `pack_codes`."""
    encoding = encoding_of(packed.dtype)
    shape = (packed.shape[0], packed.shape[1] * VARIANTS_PER_BYTE)
    codes = np.empty(shape, encoding.code_dtype)
    kind = encoding.dtype.type
    for position in range(VARIANTS_PER_BYTE):
        shifted = packed >> kind(encoding.bits * position)
        codes[:, position::VARIANTS_PER_BYTE] = shifted & kind(encoding.missing)
    return codes[:, :n_variants]


def pack_genotypes(genotypes: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """Pack alternate-allele counts of diploid calls at two bits.

    Parameters
    ----------
    genotypes
        Counts 0, 1 or 2, shape (people, variants); anything negative is missing.

    Returns
    -------
    Shape (people, ceil(variants / 4)), uint8.

    Raises
    ------
    ValueError
        If a count is above 2.

    >>> pack_genotypes(np.array([[0, 1, 2, -1, 2]], np.int8))
    array([[228, 254]], dtype=uint8)
    """
    if genotypes.size and genotypes.max() > 2:
        raise ValueError(
            f"genotypes count at most 2 alternate alleles; found {genotypes.max()}"
        )
    # The two lowest bits of a negative int8 are not 3 for every negative value.
    codes = np.where(genotypes >= 0, genotypes, np.int8(MISSING_CODE)).view(np.uint8)
    return pack_codes(codes, GENOTYPES).astype(np.uint8, copy=False)


def unpack_genotypes(
    packed: npt.NDArray[np.uint8], n_variants: int
) -> npt.NDArray[np.int8]:
    """Undo `pack_genotypes`: counts 0, 1, 2 and -1 for missing, as int8.

    >>> unpack_genotypes(np.array([[228, 254]], np.uint8), 5)
    array([[ 0,  1,  2, -1,  2]], dtype=int8)
    """
    codes = unpack_codes(packed, n_variants).view(np.int8)
    codes[codes == MISSING_CODE] = -1
    return codes


class AlleleCounts(NamedTuple):
    """Alleles of some calls.

    Attributes
    ----------
    alternate
        Alternate alleles, in [0, observed], fractional for dosages; 0 where missing.
    observed
        Alleles observed: 2, 1 or, where missing, 0.
    """

    alternate: npt.NDArray[np.float64]
    observed: npt.NDArray[np.int8]


def encode_alleles(counts: AlleleCounts, encoding: Encoding) -> Codes:
    """Codes of some calls; dosages are rounded to 2**-14 of an allele.

    Raises
    ------
    ValueError
        If the encoding cannot hold a call, or more alleles are alternate than were
        observed.
    """
    alternate, observed = counts
    single, missing = observed == 1, observed == 0
    if np.any((alternate < 0) | (alternate > observed)):
        raise ValueError("alternate alleles must lie between 0 and those observed")
    if encoding is DOSAGES:
        codes = np.rint(alternate * DOSAGE_UNITS) + SINGLE_DOSAGE * single
    else:
        if encoding is GENOTYPES and single.any():
            raise ValueError("two bits cannot hold a call of a single allele")
        if np.any(alternate != np.rint(alternate)):
            raise ValueError("only dosages can be fractional")
        codes = alternate + SINGLE_CALL * single
    return np.where(missing, encoding.missing, codes).astype(encoding.code_dtype)


def decode_alleles(codes: Codes, encoding: Encoding) -> AlleleCounts:
    """Undo `encode_alleles`."""
    missing = codes == encoding.missing
    first_single, units = (
        (SINGLE_DOSAGE, DOSAGE_UNITS) if encoding is DOSAGES else (SINGLE_CALL, 1)
    )
    single = (codes >= first_single) & ~missing
    alternate = (codes - first_single * single.astype(np.float64)) / units
    return AlleleCounts(
        np.where(missing, 0.0, alternate),
        np.where(missing, 0, np.where(single, 1, 2)).astype(np.int8),
    )


def unpack_alleles(packed: PackedArray, n_variants: int) -> AlleleCounts:
    """Alleles of packed calls of any encoding, shape (people, variants) each.

    >>> alternate, observed = unpack_alleles(np.array([[62736]], np.uint16), 4)
    >>> alternate, observed
    (array([[0., 1., 1., 0.]]), array([[2, 2, 1, 0]], dtype=int8))
    """
    codes = unpack_codes(packed, n_variants)
    return decode_alleles(codes, encoding_of(packed.dtype))
