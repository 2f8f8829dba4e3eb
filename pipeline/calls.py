"""The calls of a cohort in numbers: genotype counts, and counts of alternate alleles.

Reads the genotypes of chosen variants and people chunk by chunk, in dask tasks that
need neither xarray nor sgkit on the workers; writes nothing. Invariant: the numbers
depend on the genotypes, never on the chunks.

A call counts only if both alleles are known: half calls (0/., ./1) and haploid calls
are missing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Self, TypeAlias

import dask
import dask.array as da
import numpy as np
import numpy.typing as npt

from pipeline import decode
from pipeline.errors import InputError

if TYPE_CHECKING:
    # Workers import this module, and each would hold sgkit in memory for nothing.
    from pipeline.cohort import Cohort

Mask = npt.NDArray[np.bool_]
Fractions = npt.NDArray[np.float64]

GENOTYPES = ("0/0", "0/1", "1/1")
# A diploid int8 call read as one 16-bit number, in either byte order.
_HOM_REF_CODE = 0x0000
_HET_CODES = (0x0001, 0x0100)
_HOM_ALT_CODE = 0x0101
_MISSING_BITS = 0x8080
# Rows counted at a time: they stay in cache, and uint8 holds the sum of a column.
_TILE_ROWS = 128
# Tasks that keep many workers busy, and most chunks of people that one task counts.
_MIN_TASKS = 64
_MAX_TASK_CHUNKS = 16

Integers = npt.NDArray[np.int64]
Selection: TypeAlias = slice | Integers


@dataclass(frozen=True, eq=False)
class CallCounts:
    """Genotype counts of every variant, and called genotypes of every person.

    Attributes
    ----------
    genotypes
        One row per variant, with the columns of GENOTYPES.
    sample_called
        One number per person. Like `genotypes`, zero for what was not counted.
    """

    genotypes: npt.NDArray[np.int64]
    sample_called: npt.NDArray[np.int64]

    def __sub__(self, other: Self) -> "CallCounts":
        return CallCounts(
            self.genotypes - other.genotypes, self.sample_called - other.sample_called
        )

    @property
    def n_called(self) -> npt.NDArray[np.int64]:
        """Called genotypes of every variant."""
        return self.genotypes.sum(axis=1)

    @property
    def n_alternate(self) -> npt.NDArray[np.int64]:
        """Alternate alleles among the called genotypes of every variant."""
        return self.genotypes[:, 1] + 2 * self.genotypes[:, 2]

    @property
    def alternate_frequency(self) -> Fractions:
        """Frequency of the alternate allele, in [0, 1]; NaN where nobody is called."""
        return _fraction(self.n_alternate, 2 * self.n_called)

    @property
    def minor_frequency(self) -> Fractions:
        """Frequency of the rarer allele, in [0, 0.5]; NaN where nobody is called."""
        # From the rarer allele's count: 1 - frequency would round .05 up or down.
        n_alleles = 2 * self.n_called
        n_minor = np.minimum(self.n_alternate, n_alleles - self.n_alternate)
        return _fraction(n_minor, n_alleles)


def _fraction(part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> Fractions:
    fraction = np.full(whole.shape, np.nan)
    return np.divide(part, whole, out=fraction, where=whole > 0)


def count_calls(cohort: "Cohort", variants: Mask, samples: Mask) -> CallCounts:
    """Count the genotypes of some variants in some people, in one dask computation.

    sgkit's variant_stats and sample_stats count the same in two visits and five
    times the CPU time, and its count_variant_genotypes joins all people of a row of
    chunks in memory. The tests hold this one to theirs.

    Parameters
    ----------
    cohort
        The cohort.
    variants, samples
        True for what is counted. The variants are biallelic.

    Raises
    ------
    InputError
        If a call has a third allele, or a chunk cannot be read.
    """
    by_variant = np.zeros((cohort.n_variants, 4), dtype=np.int64)
    sample_called = np.zeros(cohort.n_samples, dtype=np.int64)
    tasks = list(_count_tasks(cohort, variants, samples))
    count = dask.delayed(_count_part, pure=False)
    for task, counted in zip(tasks, dask.compute(*map(count, tasks)), strict=True):
        by_variant[task.variants] += counted.by_variant
        for people, called in zip(task.people, counted.by_sample, strict=True):
            sample_called[people] += called
    invalid = np.flatnonzero(by_variant[:, 3])
    if invalid.size:
        raise InputError(
            f"{cohort.url}: call_genotype has an allele above 1 at variant "
            f"{invalid[0]}, for which variant_allele lists two; convert it again"
        )
    return CallCounts(by_variant[:, :3], sample_called)


def dosage(cohort: "Cohort", variants: Mask, samples: Mask) -> da.Array:
    """Alternate alleles of every call, lazily: int8, variants x samples, missing -1.

    Parameters
    ----------
    cohort
        The cohort.
    variants, samples
        True for the rows and columns of the result, of which there is one at least.
    """
    rows = _selections(variants, cohort.variant_chunk)
    columns = _selections(samples, cohort.sample_chunk)
    read = dask.delayed(_read_dosage, pure=False)
    blocks = [
        [
            da.from_delayed(
                read(cohort.url, row, column), (_size(row), _size(column)), np.int8
            )
            for column in columns
        ]
        for row in rows
    ]
    return da.block(blocks)


class _CountTask(NamedTuple):
    """Variants of one chunk, in people of one chunk or several."""

    url: str
    variants: Selection
    people: tuple[Selection, ...]


class _Counted(NamedTuple):
    """Hom ref, het, hom alt and invalid calls of each variant; calls of each person."""

    by_variant: Integers
    by_sample: list[Integers]


def _selections(mask: Mask, chunk: int) -> list[Selection]:
    """What a mask selects of each chunk, by position in the whole; empty ones left out.

    >>> _selections(np.array([True, True, False, True, False]), 2)
    [slice(0, 2, None), array([3])]
    """
    selections: list[Selection] = []
    for start in range(0, len(mask), chunk):
        part = mask[start : start + chunk]
        if part.all():
            selections.append(slice(start, start + len(part)))
        elif part.any():
            selections.append(start + np.flatnonzero(part))
    return selections


def _size(selection: Selection) -> int:
    if isinstance(selection, slice):
        return int(selection.stop - selection.start)
    return selection.size


def _count_tasks(
    cohort: "Cohort", variants: Mask, samples: Mask
) -> Iterator[_CountTask]:
    rows = _selections(variants, cohort.variant_chunk)
    columns = _selections(samples, cohort.sample_chunk)
    wanted = -(-len(rows) * len(columns) // _MIN_TASKS)
    per_task = max(min(wanted, _MAX_TASK_CHUNKS), 1)
    for row in rows:
        for start in range(0, len(columns), per_task):
            yield _CountTask(cohort.url, row, tuple(columns[start : start + per_task]))


def _read_codes(
    url: str, variants: Selection, people: Selection
) -> npt.NDArray[np.uint16]:
    calls = decode.read_calls(url, _bounds(variants), _bounds(people))
    # Selecting everything would copy the chunk.
    if not isinstance(people, slice):
        calls = calls[:, people - people[0]]
    if not isinstance(variants, slice):
        calls = calls[variants - variants[0]]
    return _call_codes(calls)


def _bounds(selection: Selection) -> slice:
    if isinstance(selection, slice):
        return selection
    return slice(int(selection[0]), int(selection[-1]) + 1)


def _call_codes(calls: npt.NDArray[np.signedinteger]) -> npt.NDArray[np.uint16]:
    if calls.dtype != np.int8:
        # 2 stands for any allele that a biallelic variant cannot have.
        calls = np.clip(calls, -1, 2).astype(np.int8)
    return np.ascontiguousarray(calls).view(np.uint16)[..., 0]


def _count_part(task: _CountTask) -> _Counted:
    by_variant = np.zeros((_size(task.variants), 4), dtype=np.int64)
    by_sample = [
        _count_codes(_read_codes(task.url, task.variants, people), by_variant)
        for people in task.people
    ]
    return _Counted(by_variant, by_sample)


def _count_codes(codes: npt.NDArray[np.uint16], by_variant: Integers) -> Integers:
    """Add one chunk's counts to its variants', and return the calls of its people."""
    by_sample = np.zeros(codes.shape[1], dtype=np.int64)
    for start in range(0, codes.shape[0], _TILE_ROWS):
        tile = codes[start : start + _TILE_ROWS]
        counts = by_variant[start : start + _TILE_ROWS]
        hom_ref = tile == _HOM_REF_CODE
        het = (tile == _HET_CODES[0]) | (tile == _HET_CODES[1])
        hom_alt = tile == _HOM_ALT_CODE
        for column, genotype in enumerate((hom_ref, het, hom_alt)):
            counts[:, column] += np.count_nonzero(genotype, axis=1)
        called = hom_ref | het | hom_alt
        missing = (tile & _MISSING_BITS) != 0
        counts[:, 3] += np.count_nonzero(~(called | missing), axis=1)
        by_sample += called.view(np.uint8).sum(axis=0, dtype=np.uint8)
    return by_sample


def _read_dosage(
    url: str, variants: Selection, people: Selection
) -> npt.NDArray[np.int8]:
    codes = _read_codes(url, variants, people)
    alternate = ((codes & 0xFF) + (codes >> 8)).astype(np.int8)
    alternate[(codes & _MISSING_BITS) != 0] = -1
    return alternate
