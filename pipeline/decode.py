"""Decode a cohort's calls into the packed, people-major layout.

Runs inside the workers. Reads call_genotype of a VCF Zarr store, or call_dosage, chunk
by chunk, each once, and packs rows. A call counts the alternate alleles among those
observed; one with no allele observed is missing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from estimator.packing import (
    GENOTYPES,
    VARIANTS_PER_BYTE,
    Codes,
    Encoding,
    PackedArray,
    count_called,
    encoding_of,
    pack_codes,
    packed_width,
)
from pipeline import call_codes, store, zarr_files
from pipeline.call_codes import NeedsWiderError
from pipeline.errors import InputError
from pipeline.location import Location
from pipeline.plan import Rows
from pipeline.prepared import open_store

# Calls unpacked at a time, one byte each, or two if they are dosages: they stay in
# cache, where mapping new memory for more would take most of the time.
WINDOW_CELLS = 2**20


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
    codes: Codes


def decode_rows(
    url: str, rows: Rows, columns: Columns, encoding: Encoding = GENOTYPES
) -> PackedArray:
    """Pack the calls of a run of people at the given variants.

    Parameters
    ----------
    url
        A VCF Zarr store.
    rows
        People, by position in the cohort.
    columns
        Variants, in the order wanted.
    encoding
        How to pack them.

    Returns
    -------
    Shape (people, ceil(variants / 4)), as `estimator.packing` defines it.

    Raises
    ------
    InputError
        If a chunk cannot be decoded, a call names an allele that a biallelic variant
        does not have, or a dosage is none of two alleles.
    NeedsWiderError
        If the encoding cannot hold one of the calls.
    """
    calls = store.open_genotypes(url)
    size = calls.chunks[0]
    blank = call_codes.codes_of(np.empty((0, 0, 2)[: calls.ndim], calls.dtype))
    packed = np.empty((len(rows), packed_width(len(columns))), encoding.dtype)
    window = max(WINDOW_CELLS // max(len(rows), 1), 1)
    window = -(-window // VARIANTS_PER_BYTE) * VARIANTS_PER_BYTE
    chunk = _Chunk(-1, blank)
    for start in range(0, len(columns), window):
        index = columns.index[start : start + window]
        width = packed_width(len(index)) * VARIANTS_PER_BYTE
        missing = call_codes.missing_code(blank)
        codes = np.full((width, len(rows)), missing, blank.dtype)
        for first in _chunks_needed(index, size):
            if first != chunk.start:
                chunk = _read_chunk(url, first, first + size, rows)
            targets = np.flatnonzero(index // size * size == first)
            rows_of_chunk = _as_slice(index[targets] - chunk.start)
            codes[_as_slice(targets)] = chunk.codes[rows_of_chunk]
        _check_codes(url, index, rows, codes)
        swapped = np.flatnonzero(columns.swapped[start : start + window])
        codes[swapped] = call_codes.swap_alleles(codes[swapped])
        narrowed = call_codes.narrow(codes, encoding)
        place = start // VARIANTS_PER_BYTE
        packed[:, place : place + width // VARIANTS_PER_BYTE] = pack_codes(
            narrowed.T, encoding
        )
    return packed


def _as_slice(indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | slice:
    """The same elements as a slice where they are neighbours: a plain copy of them.

    >>> _as_slice(np.array([3, 4, 5])), _as_slice(np.array([3, 5]))
    (slice(3, 6, None), array([3, 5]))
    """
    first, stop = int(indices[0]), int(indices[-1]) + 1
    neighbours = stop - first == len(indices) and (np.diff(indices) == 1).all()
    return slice(first, stop) if neighbours else indices


def _chunks_needed(index: npt.NDArray[np.int64], chunk_size: int) -> Iterator[int]:
    present = index[index >= 0]
    return (int(number) * chunk_size for number in np.unique(present // chunk_size))


def read_calls(url: str, variants: slice, people: slice) -> npt.NDArray[Any]:
    """Calls of some variants in some people.

    Returns
    -------
    Alleles, integers of shape (variants, people, 1 or 2), or dosages, floating-point
    numbers of shape (variants, people).

    Raises
    ------
    InputError
        If a chunk cannot be decoded.
    """
    return zarr_files.read(url, store.open_genotypes(url), (variants, people))


def _read_chunk(url: str, start: int, stop: int, rows: Rows) -> _Chunk:
    calls = read_calls(url, slice(start, stop), rows.slice)
    return _Chunk(start, call_codes.codes_of(calls))


def _check_codes(
    url: str, index: npt.NDArray[np.int64], rows: Rows, codes: Codes
) -> None:
    invalid = call_codes.find_invalid(codes)
    if invalid.size:
        row, person = invalid
        raise invalid_call(url, int(index[row]), rows.start + int(person))


def invalid_call(url: str, variant: int, person: int) -> InputError:
    """Error for a call that a biallelic variant cannot have, by its indices."""
    calls = store.open_genotypes(url)
    if calls.dtype.kind == "f":
        value = read_calls(url, slice(variant, variant + 1), slice(person, person + 1))
        return InputError(
            f"{url}: call_dosage is {value[0, 0]} at variant {variant}, sample "
            f"{person}; it must be in [0, 2], or NaN where it is missing"
        )
    return InputError(
        f"{url}: call_genotype has an allele above 1 at variant {variant}, sample "
        f"{person}, for which variant_allele lists two; convert it again"
    )


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
    source
        Where they are in the cohort, if the store has not everybody.
    """

    url: str
    path: Location
    block: int
    rows: Rows
    source: Rows | None = None


def decode_block(task: BlockTask) -> Encoding | None:
    """Fill one block of a prepared store, and mark it done.

    Returns
    -------
    The encoding that the block needs, if that of the store cannot hold its calls, in
    which case nothing is written.
    """
    store = open_store(task.path, writable=True)
    encoding = encoding_of(store.dtype("call_genotype_packed"))
    index = store.read("variant_index")
    swapped = np.zeros(len(index), bool)
    if "variant_swapped" in store:
        swapped = store.read("variant_swapped")
    columns = Columns(index, swapped)
    try:
        packed = decode_rows(task.url, task.source or task.rows, columns, encoding)
    except NeedsWiderError as error:
        return error.encoding
    store.write_rows("call_genotype_packed", task.rows, packed)
    store.write_rows("sample_n_called", task.rows, count_called(packed))
    store.mark_done(task.block)
    return None
