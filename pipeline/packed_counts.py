"""Genotype counts of a prepared store, from the packed genotypes themselves.

A quarter of the bytes of the cohort's own and an eighth of the work (`calls` counts
those): what a run without quality control has to know of its variants.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from estimator.packing import GENOTYPES, VARIANTS_PER_BYTE, count_genotypes
from pipeline import calls, plan
from pipeline.calls import CallCounts, Integers
from pipeline.location import Location
from pipeline.plan import Rows
from pipeline.prepared import open_store
from pipeline.store import Store
from pipeline.tasks import Cluster

# Tasks that keep many workers busy, and packed genotypes that one holds at a time.
_MIN_TASKS = 64
_PART_BYTES = 32 * 2**20


@dataclass(frozen=True)
class _CountTask:
    """A run of elements, in a run of people that is a whole number of chunks."""

    path: Location
    elements: Rows
    people: Rows
    people_per_read: int


class _Counted(NamedTuple):
    """Genotypes of variants, from a first one on."""

    first: int
    genotypes: Integers


def count_prepared(store: Store, n_variants: int, cluster: Cluster) -> CallCounts:
    """Count the genotypes of a store that is filled and packed at two bits.

    Parameters
    ----------
    store
        The store.
    n_variants
        Variants of the cohort. Those that are not in the store count nothing.
    cluster
        Workers that count.
    """
    assert store.dtype("call_genotype_packed") == GENOTYPES.dtype, "at two bits a call"
    tasks = _plan_tasks(store)
    n_people, n_elements = store.shape("call_genotype_packed")
    table = np.zeros((n_elements * VARIANTS_PER_BYTE, calls.N_COLUMNS), np.int64)
    for first, counted in cluster.run_all(_count, tasks):
        table[first : first + len(counted), : counted.shape[1]] += counted
    index = store.read("variant_index")
    of_cohort = np.zeros((n_variants, calls.N_COLUMNS), np.int64)
    of_cohort[index] = table[: len(index)]
    return CallCounts(of_cohort, store.read("sample_n_called"))


def _plan_tasks(store: Store) -> list[_CountTask]:
    n_people, n_elements = store.shape("call_genotype_packed")
    unit, width = store.chunks("call_genotype_packed")
    columns = plan.split_rows(n_elements, width)
    n_runs = max(_MIN_TASKS // len(columns), 1)
    per_task = -(-n_people // (n_runs * unit)) * unit
    per_read = max(_PART_BYTES // (width * unit), 1) * unit
    return [
        _CountTask(store.path, elements, people, per_read)
        for elements in columns
        for people in plan.split_rows(n_people, per_task)
    ]


def _count(task: _CountTask) -> _Counted:
    store = open_store(task.path)
    genotypes = np.zeros((len(task.elements) * VARIANTS_PER_BYTE, 3), np.int64)
    for start in range(task.people.start, task.people.stop, task.people_per_read):
        people = slice(start, min(start + task.people_per_read, task.people.stop))
        packed = store.read("call_genotype_packed", people, task.elements.slice)
        genotypes += count_genotypes(packed)
    return _Counted(task.elements.start * VARIANTS_PER_BYTE, genotypes)
