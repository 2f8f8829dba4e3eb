"""Decode a cohort's calls into the packed, people-major layout.

Runs inside the workers. Reads call_genotype of a VCF Zarr store, or call_dosage, chunk
by chunk, each once, and packs rows. A call counts the alternate alleles among those
observed; one with no allele observed is missing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from estimator.counting import count_called, count_genotypes
from estimator.packing import (
    GENOTYPES,
    VARIANTS_PER_BYTE,
    Codes,
    Encoding,
    PackedArray,
    encoding_of,
    pack_codes,
    packed_width,
)
from pipeline import call_codes, store, zarr_files
from pipeline.call_codes import NeedsWiderError
from pipeline.diploid import pack_diploid
from pipeline.errors import InputError
from pipeline.location import Location
from pipeline.plan import Rows
from pipeline.prepared import open_store
from pipeline.schema import ALTERNATE_SLOT, BLOCK_COUNTS

# Calls unpacked at a time, one byte each, or two if they are dosages: they stay in
# cache, where mapping new memory for more would take most of the time.
WINDOW_CELLS = 2**20


Counts = npt.NDArray[np.unsignedinteger[Any]]


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
    slots
        Number of the alternate allele where others stand for no allele, as
        `call_codes.without_placeholders` takes them; None if none does.
    """

    index: npt.NDArray[np.int64]
    swapped: npt.NDArray[np.bool_]
    slots: npt.NDArray[np.int8] | None = None

    def __len__(self) -> int:
        return len(self.index)


class _ChunkReader:
    """Raw calls of some people, of one chunk of variants at a time.

    All chunks are read into the same memory: mapping new memory for each takes as long
    as decompressing it.
    """

    def __init__(self, url: str, rows: Rows) -> None:
        calls = store.open_genotypes(url)
        self.size: int = calls.chunks[0]
        self._n_variants: int = calls.shape[0]
        self._url, self._rows = url, rows
        self._first: int | None = None
        shape = (min(self.size, self._n_variants), len(rows), *calls.shape[2:])
        self._buffer = np.empty(shape, calls.dtype)

    def blank(self, n_variants: int) -> npt.NDArray[Any]:
        """Calls that are all missing."""
        missing = np.nan if self._buffer.dtype.kind == "f" else -1
        shape = (n_variants, *self._buffer.shape[1:])
        return np.full(shape, missing, self._buffer.dtype)

    def read(self, first: int) -> npt.NDArray[Any]:
        """The chunk whose first variant is given; valid until another is read."""
        variants = slice(first, min(first + self.size, self._n_variants))
        calls = self._buffer[: variants.stop - first]
        if first != self._first:
            self._first = None
            read_calls(self._url, variants, self._rows.slice, calls)
            self._first = first
        return calls


def decode_rows(
    url: str,
    rows: Rows,
    columns: Columns,
    encoding: Encoding = GENOTYPES,
    counts: Counts | None = None,
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
    counts
        Where to put the numbers of people with 0, 1 and 2 alternate alleles, if that
        is wanted of calls that are packed at two bits; shape (variants, 3).

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
    reader = _ChunkReader(url, rows)
    packed = np.empty((len(rows), packed_width(len(columns))), encoding.dtype)
    window = max(WINDOW_CELLS // max(len(rows), 1), 1)
    window = -(-window // VARIANTS_PER_BYTE) * VARIANTS_PER_BYTE
    for start in range(0, len(columns), window):
        part = slice(start, min(start + window, len(columns)))
        index = columns.index[part]
        calls = _gather(reader, index)
        if columns.slots is not None:
            written = calls[: part.stop - part.start]
            told = call_codes.without_placeholders(written, columns.slots[part])
            if told is not written:
                calls = calls.copy()
                calls[: len(told)] = told
        swapped = np.flatnonzero(columns.swapped[part])
        elements = None
        if encoding is GENOTYPES and not swapped.size:
            elements = pack_diploid(calls)
        if elements is None:
            codes = call_codes.codes_of(calls)
            _check_codes(url, index, rows, codes)
            codes[swapped] = call_codes.swap_alleles(codes[swapped])
            elements = pack_codes(call_codes.narrow(codes, encoding).T, encoding).T
        place = start // VARIANTS_PER_BYTE
        packed[:, place : place + len(elements)] = elements.T
        if counts is not None:
            counts[part] = count_genotypes(elements)[: len(index)]
    return packed


def _gather(reader: _ChunkReader, index: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Raw calls of some variants, filled up to whole elements with missing ones."""
    width = packed_width(len(index)) * VARIANTS_PER_BYTE
    needed = list(_chunks_needed(index, reader.size))
    wanted = _as_slice(index)
    if len(needed) == 1 and width == len(index) and isinstance(wanted, slice):
        # As most windows are: no copy.
        first = needed[0]
        if wanted.start >= first:
            return reader.read(first)[wanted.start - first : wanted.stop - first]
    calls = reader.blank(width)
    for first in needed:
        targets = np.flatnonzero(index // reader.size * reader.size == first)
        rows_of_chunk = _as_slice(index[targets] - first)
        calls[_as_slice(targets)] = reader.read(first)[rows_of_chunk]
    return calls


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


def read_calls(
    url: str, variants: slice, people: slice, out: npt.NDArray[Any] | None = None
) -> npt.NDArray[Any]:
    """Calls of some variants in some people.

    Parameters
    ----------
    url
        A VCF Zarr store.
    variants, people
        Which ones.
    out
        Where to put them, if not in new memory.

    Returns
    -------
    Alleles, integers of shape (variants, people, 1 or 2), or dosages, floating-point
    numbers of shape (variants, people).

    Raises
    ------
    InputError
        If a chunk cannot be decoded.
    """
    return zarr_files.read(url, store.open_genotypes(url), (variants, people), out)


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
            f"{url}: {calls.basename} is {value.flat[0]} at variant {variant}, sample "
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
    slots = store.read(ALTERNATE_SLOT) if ALTERNATE_SLOT in store else None
    columns = Columns(index, swapped, slots)
    counts = None
    if BLOCK_COUNTS in store:
        counts = np.empty((len(index), 3), store.dtype(BLOCK_COUNTS))
    people = task.source or task.rows
    try:
        packed = decode_rows(task.url, people, columns, encoding, counts)
    except NeedsWiderError as error:
        return error.encoding
    store.write_rows("call_genotype_packed", task.rows, packed)
    store.write_rows("sample_n_called", task.rows, count_called(packed))
    if counts is not None:
        block = Rows(task.block, task.block + 1)
        store.write_rows(BLOCK_COUNTS, block, counts[np.newaxis])
    store.mark_done(task.block)
    return None
