"""The calls of a cohort in numbers: genotype counts, and counts of alternate alleles.

Reads the genotypes of chosen variants and people chunk by chunk, in dask tasks that
need neither xarray nor sgkit on the workers; writes nothing. Invariant: the numbers
depend on the genotypes, never on the chunks.

A call counts if an allele is known: half calls (0/., ./1) and haploid calls have one,
others two. Dosages are counted in whole units, so that every number is exact.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

import dask
import dask.array as da
import numpy as np
import numpy.typing as npt

from estimator import counting, packing
from estimator.packing import DOSAGE_UNITS, VARIANTS_PER_BYTE, Encoding
from pipeline import call_codes, decode
from pipeline.diploid import pack_diploid
from pipeline.errors import InputError
from pipeline.mask_parts import MaskPart, cut_mask

if TYPE_CHECKING:
    # Workers import this module, and each would hold sgkit in memory for nothing.
    from pipeline.cohort import Cohort

Mask = npt.NDArray[np.bool_]
Fractions = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

GENOTYPES = ("0/0", "0/1", "1/1")
# Columns of the counts: diploid genotypes, calls of one allele, and of dosages how many
# are not whole and by how much they exceed the nearest genotypes.
_HALF = slice(3, 5)
_FRACTIONAL, _EXCESS = 5, 6
N_COLUMNS = 7
# Calls counted at a time: they stay in cache.
_TILE_CALLS = 2**19
# Tasks that keep many workers busy, and most chunks of people that one task counts.
_MIN_TASKS = 64
_MAX_TASK_CHUNKS = 16


@dataclass(frozen=True, eq=False)
class CallCounts:
    """Counts of the calls of every variant, and called genotypes of every person.

    Attributes
    ----------
    table
        One row per variant: diploid calls in the order of GENOTYPES, calls of a single
        reference and of a single alternate allele; dosages that are not whole, and
        what all dosages exceed the nearest genotypes by, in units of 2**-14 of an
        allele. Zero for what was not counted.
    sample_called
        One number per person; zero for those not counted.
    """

    table: Integers
    sample_called: Integers

    def __sub__(self, other: Self) -> "CallCounts":
        return CallCounts(
            self.table - other.table, self.sample_called - other.sample_called
        )

    @property
    def genotypes(self) -> Integers:
        """Diploid calls of every variant, with the columns of GENOTYPES.

        Of dosages, those nearest to each.
        """
        return self.table[:, : len(GENOTYPES)]

    @property
    def n_called(self) -> Integers:
        """Called genotypes of every variant."""
        return self.table[:, : _HALF.stop].sum(axis=1)

    @property
    def n_alleles(self) -> Integers:
        """Observed alleles of every variant."""
        return 2 * self.genotypes.sum(axis=1) + self.table[:, _HALF].sum(axis=1)

    @property
    def _alternate_units(self) -> Integers:
        """Alternate alleles in the units of dosages, which makes them whole."""
        whole = self.table[:, 1] + 2 * self.table[:, 2] + self.table[:, 4]
        return whole * DOSAGE_UNITS + self.table[:, _EXCESS]

    @property
    def n_alternate(self) -> Fractions:
        """Alternate among the observed alleles; whole but for dosages."""
        return self._alternate_units / DOSAGE_UNITS

    @property
    def alternate_frequency(self) -> Fractions:
        """Alternate among observed alleles, in [0, 1]; NaN where nobody is called."""
        return _fraction(self._alternate_units, DOSAGE_UNITS * self.n_alleles)

    @property
    def minor_frequency(self) -> Fractions:
        """Frequency of the rarer allele, in [0, 0.5]; NaN where nobody is called."""
        # From the rarer allele's count: 1 - frequency would round .05 up or down.
        n_units = DOSAGE_UNITS * self.n_alleles
        n_minor = np.minimum(self._alternate_units, n_units - self._alternate_units)
        return _fraction(n_minor, n_units)

    def encoding(self, variants: Mask) -> Encoding:
        """The narrowest encoding that holds every call of some variants."""
        if self.table[variants, _FRACTIONAL].any():
            return packing.DOSAGES
        if self.table[variants, _HALF].any():
            return packing.CALLS
        return packing.GENOTYPES


def _fraction(part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> Fractions:
    fraction = np.full(whole.shape, np.nan)
    return np.divide(part, whole, out=fraction, where=whole > 0)


class CallSource(Protocol):
    """Where quality control has the calls of a cohort from."""

    def count(self, variants: Mask, samples: Mask) -> CallCounts:
        """Counts of some variants in some people, by position in the cohort."""

    def dosage(self, variants: Mask, samples: Mask) -> da.Array:
        """Alternate alleles of the same, as the function `dosage` gives them."""


@dataclass(frozen=True, eq=False)
class CohortCalls:
    """The calls as they lie in the cohort's chunks, which each method reads again."""

    cohort: "Cohort"

    def count(self, variants: Mask, samples: Mask) -> CallCounts:
        """Counts of some variants in some people."""
        return count_calls(self.cohort, variants, samples)

    def dosage(self, variants: Mask, samples: Mask) -> da.Array:
        """Alternate alleles of the same."""
        return dosage(self.cohort, variants, samples)


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
        If a call has a third allele, a dosage is none of two alleles, or a chunk cannot
        be read.
    """
    by_variant = np.zeros((cohort.n_variants, N_COLUMNS + 1), dtype=np.int64)
    sample_called = np.zeros(cohort.n_samples, dtype=np.int64)
    tasks = list(_count_tasks(cohort, variants, samples))
    count = dask.delayed(_count_part, pure=False)
    for task, counted in zip(tasks, dask.compute(*map(count, tasks)), strict=True):
        rows, n_columns = task.variants.positions, counted.by_variant.shape[1]
        by_variant[rows, :n_columns] += counted.by_variant
        for people, called in zip(task.people, counted.by_sample, strict=True):
            sample_called[people.positions] += called
    invalid = np.flatnonzero(by_variant[:, -1])
    if invalid.size:
        raise _invalid_call(cohort.url, int(invalid[0]), samples)
    return CallCounts(by_variant[:, :-1], sample_called)


def _invalid_call(url: str, variant: int, samples: Mask) -> InputError:
    """Error for the first invalid call of a variant among some people."""
    calls = decode.read_calls(url, slice(variant, variant + 1), slice(None))
    invalid = call_codes.find_invalid(call_codes.codes_of(calls)[:, samples])
    return decode.invalid_call(url, variant, int(np.flatnonzero(samples)[invalid[1]]))


def dosage(cohort: "Cohort", variants: Mask, samples: Mask) -> da.Array:
    """Alternate alleles of every call, lazily: int8, variants x samples, missing -1.

    Whole numbers of two alleles, of which correlations are exact sums: a call of one
    allele counts as two of the same, and a dosage as the nearest number.

    Parameters
    ----------
    cohort
        The cohort.
    variants, samples
        True for the rows and columns of the result, of which there is one at least.
    """
    rows = cut_mask(variants, cohort.variant_chunk)
    columns = cut_mask(samples, cohort.sample_chunk)
    read = dask.delayed(_read_dosage, pure=False)
    blocks = [
        [
            da.from_delayed(
                read(cohort.url, row, column, cohort.slots_of(row.positions)),
                (len(row), len(column)),
                np.int8,
            )
            for column in columns
        ]
        for row in rows
    ]
    return da.block(blocks)


class _CountTask(NamedTuple):
    """Variants of one chunk, in people of one chunk or several."""

    url: str
    variants: MaskPart
    people: tuple[MaskPart, ...]
    slots: npt.NDArray[np.int8] | None


class _Counted(NamedTuple):
    """The columns of `CallCounts.table` and invalid calls; calls of each person.

    Only as many columns as are not zero: few cohorts have more than genotypes.
    """

    by_variant: Integers
    by_sample: list[Integers]


def _count_tasks(
    cohort: "Cohort", variants: Mask, samples: Mask
) -> Iterator[_CountTask]:
    rows = cut_mask(variants, cohort.variant_chunk)
    columns = cut_mask(samples, cohort.sample_chunk)
    wanted = -(-len(rows) * len(columns) // _MIN_TASKS)
    per_task = max(min(wanted, _MAX_TASK_CHUNKS), 1)
    for row in rows:
        for start in range(0, len(columns), per_task):
            people = tuple(columns[start : start + per_task])
            yield _CountTask(cohort.url, row, people, cohort.slots_of(row.positions))


def _count_part(task: _CountTask) -> _Counted:
    by_variant = np.zeros((len(task.variants), N_COLUMNS + 1), dtype=np.int64)
    by_sample = []
    chunk = None
    for people in task.people:
        bounds = people.bounds
        # In the same memory, if possible: mapping new memory takes as long as reading.
        fits = chunk is not None and chunk.shape[1] == bounds.stop - bounds.start
        chunk = decode.read_calls(
            task.url, task.variants.bounds, bounds, chunk if fits else None
        )
        calls = chunk[:, people.within][task.variants.within]
        if task.slots is not None:
            calls = call_codes.without_placeholders(calls, task.slots)
        by_sample.append(np.zeros(calls.shape[1], dtype=np.int64))
        n_elements = max(_TILE_CALLS // max(calls.shape[1], 1) // VARIANTS_PER_BYTE, 1)
        step = n_elements * VARIANTS_PER_BYTE
        for start in range(0, len(calls), step):
            rows = slice(start, start + step)
            by_sample[-1] += _count_tile(calls[rows], by_variant[rows])
    n_columns = N_COLUMNS + 1 if by_variant[:, len(GENOTYPES) :].any() else 3
    return _Counted(by_variant[:, :n_columns].copy(), by_sample)


def _count_tile(calls: npt.NDArray[Any], counts: Integers) -> Integers:
    """Add the calls of a few variants to their counts, and return those of people."""
    if calls.dtype.kind == "f":
        return _count_dosages(call_codes.codes_of_dosages(calls), counts)
    elements = None
    if len(calls) % VARIANTS_PER_BYTE == 0:
        elements = pack_diploid(calls)
    if elements is None:
        return _count_codes(call_codes.codes_of(calls), counts)
    counts[:, : len(GENOTYPES)] += counting.count_genotypes(elements)
    return counting.count_called_columns(elements)


def _count_codes(codes: packing.Codes, counts: Integers) -> Integers:
    """As `_count_tile`, of calls of any number of known alleles."""
    kinds = (0, 1, 2, packing.SINGLE_CALL, packing.SINGLE_CALL + 1)
    for column, kind in enumerate(kinds):
        counts[:, column] += np.count_nonzero(codes == kind, axis=1)
    invalid = codes == call_codes.INVALID_CALL
    counts[:, -1] += np.count_nonzero(invalid, axis=1)
    called = (codes != call_codes.MISSING_CALL) & ~invalid
    return np.count_nonzero(called, axis=0)


def _count_dosages(codes: packing.Codes, counts: Integers) -> Integers:
    """As `_count_tile`, of dosages."""
    nearest = call_codes.nearest_counts(codes)
    called = nearest >= 0
    for genotype in range(len(GENOTYPES)):
        counts[:, genotype] += np.count_nonzero(nearest == genotype, axis=1)
    excess = codes.astype(np.int32) - DOSAGE_UNITS * nearest.astype(np.int32)
    excess[~called] = 0
    counts[:, _FRACTIONAL] += np.count_nonzero(excess, axis=1)
    counts[:, _EXCESS] += excess.sum(axis=1, dtype=np.int64)
    invalid = codes == call_codes.INVALID_DOSAGE
    counts[:, -1] += np.count_nonzero(invalid, axis=1)
    return np.count_nonzero(called, axis=0)


def _read_dosage(
    url: str,
    variants: MaskPart,
    people: MaskPart,
    slots: npt.NDArray[np.int8] | None,
) -> npt.NDArray[np.int8]:
    calls = decode.read_calls(url, variants.bounds, people.bounds)[variants.within]
    if slots is not None:
        calls = call_codes.without_placeholders(calls, slots)
    return call_codes.nearest_of(calls, people.within)
