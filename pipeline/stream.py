"""Prepared genotypes as the workers see them: shards, and prefetched minibatches.

Runs inside the workers. A shard is the people of some rows who inform the fit, padded
to whole tiles on the worker's device, and stays there within a budget of bytes. A
minibatch is made of whole chunks of people. Both are read while what comes before them
is in use.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
import numpy.typing as npt

from estimator.packing import PackedArray, all_missing
from estimator.tiling import TileShape, padded_shape, tile_shape
from pipeline import memory
from pipeline.location import Location
from pipeline.plan import Rows
from pipeline.prepared import open_store
from pipeline.store import Store

# Chunks of people decoded at a time, beside the shard that they go into.
_CHUNKS_READ = 4
_ALIGNMENT = 64


@dataclass(frozen=True)
class ShardKey:
    """One shard of a prepared store.

    Attributes
    ----------
    path
        The store.
    stamp
        Fingerprint of its contents, so that a store made anew is read anew.
    rows
        The people, of whom those outside the fit are left out.
    held_out
        Rows among them that are left out as well.
    """

    path: Location
    stamp: str
    rows: Rows
    held_out: tuple[Rows, ...] = ()


class Shard(NamedTuple):
    """A shard on the worker's device.

    Attributes
    ----------
    packed
        Genotypes, padded to whole tiles.
    n_people
        People before padding.
    tile
        The tile it was padded to.
    """

    packed: jax.Array
    n_people: int
    tile: TileShape


class _ShardReader:
    """Shards kept in memory within a budget of bytes, and one read ahead."""

    def __init__(self) -> None:
        self._kept: dict[ShardKey, Shard] = {}
        self._pool = ThreadPoolExecutor(1)
        self._ahead: dict[ShardKey, Future[Shard]] = {}

    def get(self, key: ShardKey, budget: int, upcoming: ShardKey | None) -> Shard:
        ready = self._ahead.pop(key, None)
        # A plan that moved to another worker leaves a shard that nobody will want.
        self._ahead.clear()
        if upcoming is not None and upcoming not in self._kept:
            self._ahead[upcoming] = self._pool.submit(_read_shard, upcoming)
        if key in self._kept:
            return self._kept[key]
        shard = _read_shard(key) if ready is None else ready.result()
        self._keep(key, shard, budget)
        return shard

    def release(self) -> None:
        self._kept.clear()
        self._ahead.clear()

    def _keep(self, key: ShardKey, shard: Shard, budget: int) -> None:
        """Keep a shard if there is room.

        The rounds go through the shards in turn: making room for one by dropping
        another would keep none for as long as it is of use.
        """
        for other in list(self._kept):
            if (other.path, other.stamp) != (key.path, key.stamp):
                del self._kept[other]
        held = sum(other.packed.nbytes for other in self._kept.values())
        if held + shard.packed.nbytes <= budget:
            self._kept[key] = shard


# One process is one worker on one device, so the reader belongs to the module.
_shards = _ShardReader()
memory.trim_after_compilation()


def release_shards() -> None:
    """Give up the shards in memory, when other work begins."""
    _shards.release()


def load_shard(key: ShardKey, budget: int, upcoming: ShardKey | None = None) -> Shard:
    """Read a shard, or take it from the worker's memory.

    Parameters
    ----------
    key
        The shard.
    budget
        Most bytes of shards that stay in memory.
    upcoming
        The shard that this worker will probably want next, read meanwhile.
    """
    return _shards.get(key, budget, upcoming)


def read_rows(store: Store, rows: Rows) -> PackedArray:
    """Packed genotypes of everybody in some rows."""
    return store.read("call_genotype_packed", rows.slice)


def read_people(store: Store, people: npt.NDArray[np.int64]) -> PackedArray:
    """Packed genotypes of some people, by rising position, a chunk at a time."""
    unit = store.chunks("call_genotype_packed")[0]
    chunks = people // unit
    parts = []
    for chunk in np.unique(chunks):
        start = int(chunk) * unit
        wanted = people[chunks == chunk] - start
        parts.append(read_rows(store, Rows(start, start + unit))[wanted])
    return np.concatenate(parts)


def _read_shard(key: ShardKey) -> Shard:
    """Read a shard some chunks at a time into the memory that the device will use."""
    store = open_store(key.path)
    in_fit = store.read("sample_in_fit", key.rows.slice)
    for rows in key.held_out:
        in_fit[rows.start - key.rows.start : rows.stop - key.rows.start] = False
    tile = tile_shape()
    n_people = int(np.count_nonzero(in_fit))
    width = store.shape("call_genotype_packed")[1]
    dtype = store.dtype("call_genotype_packed")
    padded = _all_missing(padded_shape((n_people, width), tile), dtype)
    filled = 0
    step = store.chunks("call_genotype_packed")[0] * _CHUNKS_READ
    for start in range(0, len(key.rows), step):
        wanted = in_fit[start : start + step]
        first = key.rows.start + start
        people = read_rows(store, Rows(first, first + len(wanted)))[wanted]
        padded[filled : filled + len(people), :width] = people
        filled += len(people)
    return Shard(jax.device_put(padded, may_alias=True), n_people, tile)


def _all_missing(shape: tuple[int, int], dtype: np.dtype[Any]) -> PackedArray:
    """Array that begins where XLA's do: on a CPU it is used as it is, not copied."""
    n_bytes = shape[0] * shape[1] * dtype.itemsize
    buffer = np.empty(n_bytes + _ALIGNMENT, np.uint8)
    offset = -buffer.ctypes.data % _ALIGNMENT
    array = buffer[offset : offset + n_bytes].view(dtype).reshape(shape)
    array[...] = all_missing(dtype)
    return array


def minibatch_plan(
    blocks: Sequence[Rows], n_slices: int, blocks_per_slice: int, seed: Sequence[int]
) -> Iterator[list[list[Rows]]]:
    """Chunks of people of each minibatch of one epoch, shuffled.

    Parameters
    ----------
    blocks
        Every chunk of the store, in order.
    n_slices
        Slices of a minibatch. Each draws from a contiguous part of the cohort, so
        that a worker reads its own part.
    blocks_per_slice
        Most chunks of a slice.
    seed
        Entropy of the shuffle: the run's seed and the epoch.

    Yields
    ------
    For each minibatch, the chunks of each slice; every chunk occurs once an epoch.
    """
    rng = np.random.default_rng(list(seed))
    parts = np.array_split(np.arange(len(blocks)), min(n_slices, len(blocks)))
    shuffled = [rng.permutation(part) for part in parts]
    n_steps = -(-max(len(part) for part in parts) // blocks_per_slice)
    for step in range(n_steps):
        window = slice(step * blocks_per_slice, (step + 1) * blocks_per_slice)
        slices = [[blocks[i] for i in part[window]] for part in shuffled]
        yield [chosen for chosen in slices if chosen]


class BlockReader:
    """Reads chunks of people, one step ahead of where they are used."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._ahead: dict[tuple[Location, tuple[Rows, ...]], Future[PackedArray]] = {}

    def read(
        self, path: Location, blocks: Sequence[Rows], upcoming: Sequence[Rows]
    ) -> PackedArray:
        """Genotypes of these chunks; starts to read the upcoming ones."""
        key = (path, tuple(blocks))
        ready = self._ahead.pop(key, None)
        # A plan that moved to another worker leaves reads that nobody will want.
        self._ahead.clear()
        if upcoming:
            wanted = (path, tuple(upcoming))
            self._ahead[wanted] = self._pool.submit(_read_blocks, *wanted)
        return _read_blocks(*key) if ready is None else ready.result()


def _read_blocks(path: Location, blocks: tuple[Rows, ...]) -> PackedArray:
    store = open_store(path)
    return np.concatenate([read_rows(store, rows) for rows in blocks])
