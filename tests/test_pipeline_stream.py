from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from estimator.packing import PackedArray, all_missing
from pipeline import plan, stream
from pipeline.errors import InputError
from pipeline.plan import Rows
from pipeline.prepared import Prepared, open_prepared, open_store
from pipeline.stream import BlockReader, ShardKey, minibatch_plan
from tests.helpers import random_genotypes, small_prepared

N_SAMPLES, UNIT = 150, 32
BLOCKS = plan.split_rows(N_SAMPLES, UNIT)


@pytest.fixture
def prepared(tmp_path) -> Prepared:
    """150 people in chunks of 32, every third of whom is left out of the fit."""
    genotypes = random_genotypes(18, N_SAMPLES, missing=0.1)
    made = small_prepared(tmp_path, genotypes, chunks=(9, UNIT))
    store = open_store(made.path, writable=True)
    in_fit = np.arange(N_SAMPLES) % 3 > 0
    store.write_rows("sample_in_fit", Rows(0, N_SAMPLES), in_fit)
    return open_prepared(made.path)


def _everybody(prepared: Prepared) -> np.ndarray:
    return open_store(prepared.path).read("call_genotype_packed")


def _key(prepared: Prepared, rows: Rows, stamp: str = "x") -> ShardKey:
    return ShardKey(prepared.path, stamp, rows)


@given(
    st.integers(1, 200), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1)
)
def test_minibatch_plan__covers_every_chunk_once(
    n_blocks, n_slices, blocks_per_slice, seed
):
    blocks = plan.split_rows(n_blocks * 50, 50)
    batches = list(minibatch_plan(blocks, n_slices, blocks_per_slice, (seed, 0)))
    drawn = [rows for batch in batches for chosen in batch for rows in chosen]
    assert sorted(drawn) == blocks
    for batch in batches:
        assert 1 <= len(batch) <= n_slices
        assert all(1 <= len(chosen) <= blocks_per_slice for chosen in batch)


@given(st.integers(1, 60), st.integers(1, 6))
def test_minibatch_plan__a_slice_draws_from_its_part_of_the_cohort(n_parts, n_slices):
    blocks = plan.split_rows(n_parts * n_slices, 1)
    batches = list(minibatch_plan(blocks, n_slices, 3, (1, 0)))
    for part in range(n_slices):
        drawn = sorted(rows for batch in batches for rows in batch[part])
        assert drawn == blocks[part * n_parts : (part + 1) * n_parts]


def test_minibatch_plan__is_the_same_for_the_same_seed():
    blocks = plan.split_rows(5_000, 50)
    plans = [list(minibatch_plan(blocks, 4, 5, (7, 1))) for _ in range(2)]
    assert plans[0] == plans[1]


@pytest.mark.parametrize("seed", [(7, 2), (8, 1)])
def test_minibatch_plan__differs_by_epoch_and_by_seed(seed):
    blocks = plan.split_rows(5_000, 50)
    first = list(minibatch_plan(blocks, 4, 5, (7, 1)))
    assert list(minibatch_plan(blocks, 4, 5, seed)) != first


def test_minibatch_plan__shuffles():
    blocks = plan.split_rows(5_000, 50)
    batches = list(minibatch_plan(blocks, 1, 100, (7, 1)))
    assert sorted(batches[0][0]) == blocks
    assert batches[0][0] != blocks


PLAN = [[BLOCKS[3], BLOCKS[0]], [BLOCKS[4]], [BLOCKS[1], BLOCKS[2]], [BLOCKS[3]]]


def test_block_reader__reads_the_same_ahead_or_not(prepared):
    everybody = _everybody(prepared)
    ahead, plain = BlockReader(), BlockReader()
    for blocks, upcoming in zip(PLAN, [*PLAN[1:], []], strict=True):
        expected = np.concatenate([everybody[rows.slice] for rows in blocks])
        np.testing.assert_array_equal(
            ahead.read(prepared.path, blocks, upcoming), expected
        )
        np.testing.assert_array_equal(plain.read(prepared.path, blocks, []), expected)


def test_block_reader__what_was_announced_is_read_before_it_is_asked_for(
    prepared, monkeypatch
):
    read, reads = stream._read_blocks, []

    def counted(path: Path, blocks: tuple[Rows, ...]) -> PackedArray:
        reads.append(blocks)
        return read(path, blocks)

    monkeypatch.setattr(stream, "_read_blocks", counted)
    reader = BlockReader()
    reader.read(prepared.path, BLOCKS[:2], BLOCKS[2:4])
    reader.read(prepared.path, BLOCKS[2:4], [])
    assert sorted(reads) == [tuple(BLOCKS[:2]), tuple(BLOCKS[2:4])]


def test_block_reader__a_change_of_plan_is_followed(prepared):
    everybody, reader = _everybody(prepared), BlockReader()
    reader.read(prepared.path, BLOCKS[:1], BLOCKS[1:2])
    found = reader.read(prepared.path, BLOCKS[2:3], [])
    np.testing.assert_array_equal(found, everybody[BLOCKS[2].slice])
    assert not reader._ahead


def test_block_reader__a_chunk_that_cannot_be_read_ahead_is_named(prepared):
    (prepared.path / "call_genotype_packed" / "1.0").write_bytes(b"damaged")
    reader = BlockReader()
    reader.read(prepared.path, BLOCKS[:1], BLOCKS[1:2])
    message = r"prepared\.zarr: chunk 1\.0 of array call_genotype_packed cannot be dec"
    with pytest.raises(InputError, match=message):
        reader.read(prepared.path, BLOCKS[1:2], [])


def test_load_shard__has_the_people_in_the_fit_and_whole_tiles(prepared):
    rows = Rows(32, 150)
    shard = stream.load_shard(_key(prepared, rows), 2**30)
    expected = _everybody(prepared)[rows.slice][prepared.in_fit[rows.slice]]
    assert shard.n_people == len(expected)
    packed = np.asarray(shard.packed)
    people, width = expected.shape
    np.testing.assert_array_equal(packed[:people, :width], expected)
    assert (packed[people:] == all_missing(packed.dtype)).all()
    assert (packed[:, width:] == all_missing(packed.dtype)).all()
    assert packed.shape[0] % shard.tile.people == 0
    assert packed.shape[1] % shard.tile.width == 0


class _Reads:
    """Counts the shards that are read from the store."""

    def __init__(self) -> None:
        self.reader = stream._ShardReader()
        self.rows: list[Rows] = []
        self._read = stream._read_shard

    def __call__(self, key: ShardKey) -> stream.Shard:
        self.rows.append(key.rows)
        return self._read(key)

    @property
    def held_bytes(self) -> int:
        return sum(shard.packed.nbytes for shard in self.reader._kept.values())


@pytest.fixture
def reads(monkeypatch) -> _Reads:
    counter = _Reads()
    monkeypatch.setattr(stream, "_read_shard", counter)
    monkeypatch.setattr(stream, "_shards", counter.reader)
    return counter


def _shard_bytes(prepared: Prepared) -> int:
    return stream._read_shard(_key(prepared, BLOCKS[0])).packed.nbytes


def test_load_shard__is_read_once_within_the_budget(prepared, reads):
    budget = 5 * _shard_bytes(prepared)
    reads.rows.clear()
    for _ in range(3):
        for rows in BLOCKS:
            stream.load_shard(_key(prepared, rows), budget)
    assert reads.rows == BLOCKS


def test_load_shard__beyond_the_budget_is_read_every_time(prepared, reads):
    budget = 2 * _shard_bytes(prepared)
    first, second, third, *_ = BLOCKS
    reads.rows.clear()
    for _ in range(2):
        for rows in (first, second, third):
            shard = stream.load_shard(_key(prepared, rows), budget)
            assert reads.held_bytes <= budget
    assert reads.rows == [first, second, third, third]
    expected = _everybody(prepared)[third.slice][prepared.in_fit[third.slice]]
    found = np.asarray(shard.packed)[: shard.n_people, : expected.shape[1]]
    np.testing.assert_array_equal(found, expected)


def test_load_shard__the_next_one_is_read_meanwhile(prepared, reads):
    first, second, third, *_ = (_key(prepared, rows) for rows in BLOCKS)
    stream.load_shard(first, 0, second)
    assert reads.reader._ahead[second].result().n_people == 21
    reads.rows.clear()
    stream.load_shard(second, 0, None)
    assert reads.rows == []
    # What was announced and is not wanted after all is dropped.
    stream.load_shard(first, 0, second)
    stream.load_shard(third, 0, None)
    assert not reads.reader._ahead


@pytest.mark.parametrize("share", [0.0, 0.99])
def test_load_shard__one_over_the_budget_is_not_kept(prepared, reads, share):
    budget = int(share * _shard_bytes(prepared))
    reads.rows.clear()
    for _ in range(2):
        stream.load_shard(_key(prepared, BLOCKS[0]), budget)
        assert reads.held_bytes == 0
    assert reads.rows == [BLOCKS[0]] * 2


def test_load_shard__a_store_made_anew_is_read_anew(prepared, reads):
    for stamp in ("x", "x", "y", "y"):
        stream.load_shard(_key(prepared, BLOCKS[0], stamp), 2**30)
    assert reads.rows == [BLOCKS[0]] * 2
