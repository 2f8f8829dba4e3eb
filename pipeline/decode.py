"""Decode a cohort's genotypes into the people-major, two-bit layout.

Reads call_genotype of a VCF Zarr store chunk by chunk, each once, and returns packed
rows. A genotype counts its alternate alleles; one with any missing allele is missing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from estimator.packing import MISSING_CODE, VARIANTS_PER_BYTE, packed_width
from pipeline import store
from pipeline.errors import InputError
from pipeline.plan import Rows

# Genotypes held unpacked at a time, one byte each.
WINDOW_CELLS = 64 * 2**20
# A call with a third allele, which only variants that nobody asks for may have.
_INVALID_CODE = MISSING_CODE + 1


@dataclass(frozen=True)
class Columns:
    """Where each variant of a prepared store comes from.

    Attributes
    ----------
    index
        Row of the variant in the cohort's call_genotype; -1 where the cohort does
        not have it, which makes everybody's genotype missing.
    swapped
        True where the cohort's reference and alternate allele are the other way
        round, so that reference alleles are counted.
    """

    index: npt.NDArray[np.int64]
    swapped: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.index)


class _Chunk(NamedTuple):
    start: int
    codes: npt.NDArray[np.uint8]


def decode_rows(url: str, rows: Rows, columns: Columns) -> npt.NDArray[np.uint8]:
    """Pack the genotypes of a run of people at the given variants.

    Parameters
    ----------
    url
        A VCF Zarr store.
    rows
        People, by position in the cohort.
    columns
        Variants, in the order wanted.

    Returns
    -------
    Shape (people, ceil(variants / 4)), as `estimator.packing` defines it.

    Raises
    ------
    InputError
        If a chunk cannot be decoded, or a call names an allele that a biallelic
        variant does not have.
    """
    genotypes = store.open_genotypes(url)
    packed = np.empty((len(rows), packed_width(len(columns))), np.uint8)
    window = max(WINDOW_CELLS // max(len(rows), 1), 1)
    window = -(-window // VARIANTS_PER_BYTE) * VARIANTS_PER_BYTE
    chunk = _Chunk(-1, np.empty((0, 0), np.uint8))
    for start in range(0, len(columns), window):
        index = columns.index[start : start + window]
        width = packed_width(len(index)) * VARIANTS_PER_BYTE
        codes = np.full((width, len(rows)), MISSING_CODE, np.uint8)
        for number in _chunks_needed(index, genotypes.chunks[0]):
            if number * genotypes.chunks[0] != chunk.start:
                chunk = _read_chunk(url, genotypes, number, rows)
            targets = np.flatnonzero(index // genotypes.chunks[0] == number)
            codes[targets] = chunk.codes[index[targets] - chunk.start]
        _check_alleles(url, index, codes)
        swapped = np.flatnonzero(columns.swapped[start : start + window])
        codes[swapped] = _SWAPPED_CODES[codes[swapped]]
        first = start // VARIANTS_PER_BYTE
        packed[:, first : first + width // VARIANTS_PER_BYTE] = _pack_variants(codes)
    return packed


# Two alternate alleles become none and the other way round; missing stays missing.
_SWAPPED_CODES = np.array([2, 1, 0, MISSING_CODE], np.uint8)


def _chunks_needed(index: npt.NDArray[np.int64], chunk_size: int) -> Iterator[int]:
    present = index[index >= 0]
    return (int(number) for number in np.unique(present // chunk_size))


def _read_chunk(
    url: str, genotypes: store.Genotypes, number: int, rows: Rows
) -> _Chunk:
    start = number * genotypes.chunks[0]
    try:
        calls = genotypes[start : start + genotypes.chunks[0], rows.slice]
    except InputError:
        raise
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(
            f"{url}: call_genotype cannot be read in the chunk of variants from "
            f"{start}, people {rows.start} to {rows.stop}: {error}; restore that chunk"
        ) from error
    first, second = calls[..., 0], calls[..., 1]
    either = first | second
    codes = (first + second).astype(np.uint8)
    codes[either > 1] = _INVALID_CODE
    codes[either < 0] = MISSING_CODE
    return _Chunk(start, codes)


def _check_alleles(
    url: str, index: npt.NDArray[np.int64], codes: npt.NDArray[np.uint8]
) -> None:
    if codes.max(initial=0) < _INVALID_CODE:
        return
    variant = index[np.flatnonzero((codes == _INVALID_CODE).any(axis=1))[0]]
    raise InputError(
        f"{url}: call_genotype has an allele above 1 at variant {variant}, for which "
        "variant_allele lists two; convert it again"
    )


def _pack_variants(codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Pack variant-major codes, then transpose a quarter of the bytes."""
    packed = codes[0::4].copy()
    for position in range(1, VARIANTS_PER_BYTE):
        packed |= codes[position::4] << np.uint8(2 * position)
    return packed.T
