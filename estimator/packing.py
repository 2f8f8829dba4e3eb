"""Genotypes at two bits each, people-major: four consecutive variants to a byte.

Codes 0, 1, 2 count alternate alleles and 3 is missing. The first variant of a byte
lies in its two lowest bits. The last byte of a row is filled up with missing.
"""

import numpy as np
import numpy.typing as npt

VARIANTS_PER_BYTE = 4
MISSING_CODE = 3
ALL_MISSING_BYTE = 0xFF

_BYTE_VALUES = np.arange(256)
# Called genotypes in each value of a byte; the filling of the last byte is missing.
_CALLED_IN_BYTE = sum(
    ((_BYTE_VALUES >> 2 * position) & 3) != MISSING_CODE
    for position in range(VARIANTS_PER_BYTE)
).astype(np.uint8)


def packed_width(n_variants: int) -> int:
    """Bytes that hold ``n_variants`` genotypes.

    >>> packed_width(9)
    3
    """
    return -(-n_variants // VARIANTS_PER_BYTE)


def pack_genotypes(genotypes: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """Pack alternate-allele counts.

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
    n_people, n_variants = genotypes.shape
    codes = np.full(
        (n_people, packed_width(n_variants) * VARIANTS_PER_BYTE),
        MISSING_CODE,
        np.uint8,
    )
    # The two lowest bits of a negative int8 are not 3 for every negative value.
    np.copyto(codes[:, :n_variants], genotypes.view(np.uint8), where=genotypes >= 0)
    packed = codes[:, 0::4].copy()
    for position in range(1, VARIANTS_PER_BYTE):
        packed |= codes[:, position::4] << np.uint8(2 * position)
    return packed


def unpack_genotypes(
    packed: npt.NDArray[np.uint8], n_variants: int
) -> npt.NDArray[np.int8]:
    """Undo `pack_genotypes`: counts 0, 1, 2 and -1 for missing, as int8.

    >>> unpack_genotypes(np.array([[228, 254]], np.uint8), 5)
    array([[ 0,  1,  2, -1,  2]], dtype=int8)
    """
    codes = np.empty((packed.shape[0], packed.shape[1] * VARIANTS_PER_BYTE), np.int8)
    for position in range(VARIANTS_PER_BYTE):
        codes[:, position::4] = (packed >> (2 * position)) & 3
    codes[codes == MISSING_CODE] = -1
    return codes[:, :n_variants]


def count_called(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Count the called genotypes of each person.

    >>> count_called(np.array([[0b11100100, 0b11111110]], np.uint8))
    array([4])
    """
    return _CALLED_IN_BYTE[packed].sum(axis=1, dtype=np.int64)
