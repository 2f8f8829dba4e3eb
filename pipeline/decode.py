"""Decode a cohort's genotypes into the people-major, two-bit layout.

Runs inside the workers. Reads call_genotype of a VCF Zarr store chunk by chunk, each
once, and packs rows. A genotype counts its alternate alleles; one with any missing
allele is missing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from estimator.packing import (
    MISSING_CODE,
    VARIANTS_PER_BYTE,
    count_called,
    packed_width,
)
from pipeline import store, zarr_files
from pipeline.errors import InputError
from pipeline.location import Location
from pipeline.plan import Rows
from pipeline.prepared import open_store

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
    size = store.open_genotypes(url).chunks[0]
    packed = np.empty((len(rows), packed_width(len(columns))), np.uint8)
    window = max(WINDOW_CELLS // max(len(rows), 1), 1)
    window = -(-window // VARIANTS_PER_BYTE) * VARIANTS_PER_BYTE
    chunk = _Chunk(-1, np.empty((0, 0), np.uint8))
    for start in range(0, len(columns), window):
        index = columns.index[start : start + window]
        width = packed_width(len(index)) * VARIANTS_PER_BYTE
        codes = np.full((width, len(rows)), MISSING_CODE, np.uint8)
        for first in _chunks_needed(index, size):
            if first != chunk.start:
                chunk = _read_chunk(url, first, first + size, rows)
            targets = np.flatnonzero(index // size * size == first)
            codes[targets] = chunk.codes[index[targets] - chunk.start]
        _check_alleles(url, index, codes)
        swapped = np.flatnonzero(columns.swapped[start : start + window])
        codes[swapped] = _SWAPPED_CODES[codes[swapped]]
        byte = start // VARIANTS_PER_BYTE
        packed[:, byte : byte + width // VARIANTS_PER_BYTE] = _pack_variants(codes)
    return packed


# Two alternate alleles become none and the other way round; missing stays missing.
_SWAPPED_CODES = np.array([2, 1, 0, MISSING_CODE], np.uint8)


def _chunks_needed(index: npt.NDArray[np.int64], chunk_size: int) -> Iterator[int]:
    present = index[index >= 0]
    return (int(number) * chunk_size for number in np.unique(present // chunk_size))


def read_calls(
    url: str, variants: slice, people: slice
) -> npt.NDArray[np.signedinteger]:
    """Calls of some variants in some people, shape (variants, people, 2).

    Raises
    ------
    InputError
        If a chunk cannot be decoded.
    """
    return zarr_files.read(url, store.open_genotypes(url), (variants, people))


def _read_chunk(url: str, start: int, stop: int, rows: Rows) -> _Chunk:
    calls = read_calls(url, slice(start, stop), rows.slice)
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


@dataclass(frozen=True)
class BlockTask:
    """A block of people to decode.

    Attributes
    ----------
    url
        The cohort.
    path
        The prepared store, laid out.
    block
        Number of the block.
    rows
        Its people.
    """

    url: str
    path: Location
    block: int
    rows: Rows


def decode_block(task: BlockTask) -> None:
    """Fill one block of a prepared store, and mark it done."""
    store = open_store(task.path, writable=True)
    index = store.read("variant_index")
    swapped = np.zeros(len(index), bool)
    if "variant_swapped" in store:
        swapped = store.read("variant_swapped")
    packed = decode_rows(task.url, task.rows, Columns(index, swapped))
    store.write_rows("call_genotype_packed", task.rows, packed)
    store.write_rows("sample_n_called", task.rows, count_called(packed))
    store.mark_done(task.block)
