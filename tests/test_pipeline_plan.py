import os
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from estimator import tiling
from estimator.packing import packed_width
from pipeline import plan
from pipeline.plan import Rows

PEOPLE = st.integers(1, 1_000_000)
VARIANTS = st.integers(0, 20_000_000)
SAMPLE_CHUNKS = st.integers(1, 50_000)
# Of the encodings, at two, four and sixteen bits a call.
ITEMSIZES = st.sampled_from([1, 2, 8])
UNITS = st.integers(1, 64)


def _assert_tiles(blocks: Sequence[Rows], n_people: int, unit: int) -> None:
    """Every person in one block, blocks in order and of whole chunks."""
    edges = [0, *(rows.stop for rows in blocks)]
    assert [rows.start for rows in blocks] == edges[:-1]
    assert edges[-1] == n_people
    assert all(len(rows) > 0 for rows in blocks)
    assert all(len(rows) % unit == 0 for rows in blocks[:-1])


def test_rows__measure_slice_and_order():
    rows = Rows(3, 7)
    assert len(rows) == 4
    np.testing.assert_array_equal(np.arange(10)[rows.slice], [3, 4, 5, 6])
    assert sorted([Rows(4, 5), rows, Rows(0, 9)]) == [Rows(0, 9), rows, Rows(4, 5)]


@given(st.integers(0, 10_000), st.integers(1, 3_000))
def test_split_rows__tiles_once(n_people, size):
    blocks = plan.split_rows(n_people, size)
    _assert_tiles(blocks, n_people, size)
    assert all(len(rows) <= size for rows in blocks)


@given(SAMPLE_CHUNKS)
def test_chunk_people__is_the_largest_fitting_divisor(sample_chunk):
    size = plan.chunk_people(sample_chunk)
    sizes = range(plan.MIN_CHUNK_PEOPLE, plan.MAX_CHUNK_PEOPLE + 1)
    divisors = [n for n in sizes if sample_chunk % n == 0]
    assert size == (divisors[-1] if divisors else plan.MAX_CHUNK_PEOPLE)


@given(PEOPLE, VARIANTS, SAMPLE_CHUNKS)
def test_plan_blocks__tile_once_in_whole_chunks(n_people, n_variants, sample_chunk):
    assume(n_people < 100 * sample_chunk)
    unit = plan.chunk_people(sample_chunk)
    _assert_tiles(plan.plan_blocks(n_people, n_variants, sample_chunk), n_people, unit)


@given(PEOPLE, VARIANTS, SAMPLE_CHUNKS, ITEMSIZES)
def test_plan_blocks__keep_to_the_bytes_and_the_cohorts_chunk(
    n_people, n_variants, sample_chunk, itemsize
):
    assume(n_people < 100 * sample_chunk)
    unit = plan.chunk_people(sample_chunk)
    for rows in plan.plan_blocks(n_people, n_variants, sample_chunk, itemsize):
        packed_bytes = len(rows) * packed_width(n_variants) * itemsize
        assert packed_bytes <= plan.MAX_BLOCK_BYTES or len(rows) <= unit
        assert len(rows) <= max(sample_chunk, unit)


def test_plan_blocks__are_the_cohorts_chunks_where_they_fit():
    blocks = plan.plan_blocks(2_500, 1_000, 1_000)
    assert [len(rows) for rows in blocks] == [1_000, 1_000, 500]


def test_plan_blocks__of_too_many_variants_are_single_chunks():
    blocks = plan.plan_blocks(100, 4 * plan.MAX_BLOCK_BYTES, 1_000)
    assert [len(rows) for rows in blocks] == [50, 50]


@given(
    PEOPLE,
    VARIANTS,
    UNITS,
    st.integers(1, 5_000),
    st.integers(2**16, 2**30),
    ITEMSIZES,
)
def test_plan_shards__tile_once_within_their_bounds(
    n_people, n_variants, unit, max_people, max_bytes, itemsize
):
    assume(n_people < 5_000 * unit)
    shards = plan.plan_shards(
        n_people,
        n_variants,
        unit,
        max_people=max_people,
        max_bytes=max_bytes,
        itemsize=itemsize,
    )
    _assert_tiles(shards, n_people, unit)
    for rows in shards:
        packed_bytes = len(rows) * packed_width(n_variants) * itemsize
        within = len(rows) <= max_people and packed_bytes <= max_bytes
        assert within or len(rows) <= unit


@given(st.integers(2, 5_000), UNITS)
def test_plan_shards__of_a_small_cohort_feed_several_workers(n_chunks, unit):
    shards = plan.plan_shards(
        n_chunks * unit, 8, unit, max_people=10**9, max_bytes=2**40
    )
    assert len(shards) >= 2
    fewest = plan.split_rows(n_chunks * unit, -(-n_chunks // plan.MIN_SHARDS) * unit)
    assert len(shards) >= len(fewest)
    # What more of them cost, they save in tiles: but for the last, which is shorter.
    assert _tile_rows(shards[:-1]) <= _tile_rows(fewest)


def test_tile_people__are_those_of_a_core():
    # Which the estimator alone knows, and cannot be asked without jax.
    assert tiling.tile_shape("cpu").people == plan.TILE_PEOPLE


def _tile_rows(shards: list[Rows]) -> int:
    return sum(-(-len(rows) // plan.TILE_PEOPLE) for rows in shards) * plan.TILE_PEOPLE


@pytest.mark.parametrize(
    ("n_people", "unit", "n_shards", "size"),
    [(5_000, 50, 10, 500), (10_000, 50, 10, 1_000), (7_777, 64, 8, 1_024)],
)
def test_plan_shards__fill_whole_tiles(n_people, unit, n_shards, size):
    shards = plan.plan_shards(n_people, 1_000, unit, max_people=1_024, max_bytes=2**27)
    assert (len(shards), len(shards[0])) == (n_shards, size)
    assert _tile_rows(shards) <= 1.03 * n_people


def _all_plans() -> list[list[Rows]]:
    return [
        plan.plan_blocks(30_000, 500_000, 1_000),
        plan.plan_shards(30_000, 500_000, 50, max_people=2_048, max_bytes=2**27),
    ]


def test_plans__do_not_depend_on_the_machine(monkeypatch):
    plans = _all_plans()
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setenv("DASK_DISTRIBUTED__WORKER__NTHREADS", "64")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4,5,6,7")
    assert _all_plans() == plans


@given(st.integers(1, 100_000), st.integers(1, 5_000))
def test_evenly_spaced__takes_at_most_so_many_from_the_first(n, most):
    chosen = np.arange(n)[plan.evenly_spaced(n, most)]
    assert 1 <= len(chosen) <= most
    assert chosen[0] == 0
    assert len(set(np.diff(chosen).tolist())) <= 1


@pytest.mark.parametrize(("n", "most"), [(5, 5), (5, 50), (1, 1)])
def test_evenly_spaced__takes_all_where_they_fit(n, most):
    assert list(range(n))[plan.evenly_spaced(n, most)] == list(range(n))
