"""Candidates: all variants that quality control may keep, packed in one read.

A store beside the one that is prepared, in chunks like the cohort's. Quality control
counts, compares and prunes what is in it (`calls.CallSource`), and what it keeps is
taken from there: the cohort's own chunks, which take most of the time to decompress,
are read once. Calls of one allele and dosages do not fit into two bits; such cohorts
are read again for each step.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import dask
import dask.array as da
import numpy as np
import numpy.typing as npt

from estimator.counting import count_called
from estimator.packing import (
    GENOTYPES,
    MISSING_CODE,
    VARIANTS_PER_BYTE,
    pack_codes,
    packed_width,
    unpack_codes,
    unpack_genotypes,
)
from pipeline import block_counts, calls, plan, prepared, schema
from pipeline.calls import CallCounts, Mask
from pipeline.location import Location
from pipeline.mask_parts import Integers, MaskPart, cut_mask
from pipeline.plan import Rows
from pipeline.prepared import open_store
from pipeline.store import Store

if TYPE_CHECKING:
    # Workers import this module, and each would hold xarray in memory for nothing.
    from pipeline.cohort import Cohort

_CALLS = "call_genotype_packed"


def lay_out_candidates(cohort: "Cohort", path: Location, variants: Mask) -> Store:
    """Lay out a store of some of a cohort's variants, to be filled as any other."""
    index = np.flatnonzero(variants)
    blocks = plan.plan_blocks(cohort.n_samples, len(index), cohort.sample_chunk)
    store = Store.create(path, prepared.KIND)
    store.write("variant_index", schema.PREPARED["variant_index"], index)
    slots = cohort.slots_of(index)
    if slots is not None:
        store.write(schema.ALTERNATE_SLOT, schema.PREPARED_SLOT, slots)
    shape = (cohort.n_samples, packed_width(len(index)))
    chunks = (len(blocks[0]), packed_width(cohort.variant_chunk))
    spec = schema.packed_calls(GENOTYPES.dtype.name)
    store.lay_out(_CALLS, spec, shape, chunks)
    name = "sample_n_called"
    store.lay_out(name, schema.PREPARED[name], shape[:1], chunks[:1])
    store.set_attrs(n_variants=len(index))
    block_counts.lay_out_counts(store, blocks)
    return store


@dataclass(frozen=True, eq=False)
class Candidates:
    """The calls of a store of candidates that is filled.

    Attributes
    ----------
    store
        The store.
    n_variants
        Variants of the cohort.
    """

    store: Store
    n_variants: int

    def count(self, variants: Mask, samples: Mask) -> CallCounts:
        """Counts of some of the variants in some people, by position in the cohort."""
        columns = self._columns(variants)
        if columns.all() and samples.all():
            return block_counts.sum_counts(self.store, self.n_variants)
        index = self.store.read("variant_index")
        table = np.zeros((self.n_variants, calls.N_COLUMNS), np.int64)
        sample_called = np.zeros(len(samples), np.int64)
        count = dask.delayed(_count_part, pure=False)
        pairs = [
            (part, people)
            for part in self._cut_columns(columns)
            for people in self._cut_people(samples)
        ]
        tasks = [count(self.store.path, *pair) for pair in pairs]
        for (part, people), counted in zip(pairs, dask.compute(*tasks), strict=True):
            by_variant, by_sample = counted
            table[index[part.positions], : len(calls.GENOTYPES)] += by_variant
            sample_called[people.positions] += by_sample
        return CallCounts(table, sample_called)

    def dosage(self, variants: Mask, samples: Mask) -> da.Array:
        """Alternate alleles, lazily: int8, variants x samples, missing -1."""
        read = dask.delayed(_read_dosage, pure=False)
        columns = self._cut_people(samples)
        blocks = [
            [
                da.from_delayed(
                    read(self.store.path, row, column), (len(row), len(column)), np.int8
                )
                for column in columns
            ]
            for row in self._cut_columns(self._columns(variants))
        ]
        return da.block(blocks)

    def _columns(self, variants: Mask) -> Mask:
        columns: Mask = variants[self.store.read("variant_index")]
        assert columns.sum() == variants.sum(), "what is asked for was packed"
        return columns

    def _cut_columns(self, columns: Mask) -> list[MaskPart]:
        width = self.store.chunks(_CALLS)[1]
        return cut_mask(columns, width * VARIANTS_PER_BYTE)

    def _cut_people(self, samples: Mask) -> list[MaskPart]:
        return cut_mask(samples, self.store.chunks(_CALLS)[0])


def _read_packed(
    store: Store, variants: slice, people: slice
) -> tuple[npt.NDArray[np.uint8], slice]:
    """Packed calls of some people, and where the variants are among these."""
    first = variants.start // VARIANTS_PER_BYTE
    stop = packed_width(variants.stop)
    before = first * VARIANTS_PER_BYTE
    place = slice(variants.start - before, variants.stop - before)
    return store.read(_CALLS, people, slice(first, stop)), place


def _read_codes(
    store: Store, variants: MaskPart, people: MaskPart
) -> npt.NDArray[np.uint8]:
    packed, place = _read_packed(store, variants.bounds, people.bounds)
    codes = unpack_codes(packed[people.within], place.stop)
    return codes[:, place][:, variants.within].astype(np.uint8, copy=False)


def _count_part(
    path: Location, variants: MaskPart, people: MaskPart
) -> tuple[Integers, Integers]:
    """People with each genotype by variant, and called genotypes by person."""
    codes = _read_codes(open_store(path), variants, people)
    genotypes = range(len(calls.GENOTYPES))
    by_variant = [np.count_nonzero(codes == each, axis=0) for each in genotypes]
    called = np.count_nonzero(codes != MISSING_CODE, axis=1)
    return np.stack(by_variant, axis=1), called


def _read_dosage(
    path: Location, variants: MaskPart, people: MaskPart
) -> npt.NDArray[np.int8]:
    packed, place = _read_packed(open_store(path), variants.bounds, people.bounds)
    dosage = unpack_genotypes(packed[people.within], place.stop)
    return dosage[:, place][:, variants.within].T


@dataclass(frozen=True)
class SelectTask:
    """A block of people whose calls are taken from the candidates.

    Attributes
    ----------
    candidates
        Their store.
    path
        The prepared store, laid out.
    block
        Number of the block.
    rows
        Its people.
    """

    candidates: Location
    path: Location
    block: int
    rows: Rows


def select_block(task: SelectTask) -> None:
    """Fill one block of a prepared store, and mark it done."""
    source, store = open_store(task.candidates), open_store(task.path, writable=True)
    assert store.dtype(_CALLS) == GENOTYPES.dtype, "candidates are packed at two bits"
    index = store.read("variant_index")
    columns = np.searchsorted(source.read("variant_index"), index)
    packed = np.empty((len(task.rows), packed_width(len(index))), GENOTYPES.dtype)
    # As many at a time as a chunk holds: few of its calls are then read twice.
    window = source.chunks(_CALLS)[1] * VARIANTS_PER_BYTE
    for start in range(0, len(columns), window):
        chosen = columns[start : start + window]
        bounds = slice(int(chosen[0]), int(chosen[-1]) + 1)
        part, place = _read_packed(source, bounds, task.rows.slice)
        codes = unpack_codes(part, place.stop)[:, place]
        elements = pack_codes(codes[:, chosen - bounds.start], GENOTYPES)
        at = start // VARIANTS_PER_BYTE
        packed[:, at : at + elements.shape[1]] = elements
    store.write_rows(_CALLS, task.rows, packed)
    store.write_rows("sample_n_called", task.rows, count_called(packed))
    store.mark_done(task.block)
