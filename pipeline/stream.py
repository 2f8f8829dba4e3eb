"""Prepared genotypes as the workers see them: shards, and prefetched minibatches.

Runs inside the workers. A shard is the people of some rows who inform the fit, padded
to whole tiles on the worker's device, and stays in a cache within a budget of bytes.
A minibatch is made of whole chunks of people, read while the previous one is in use.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from estimator.likelihood import TileShape, pad_shard, tile_shape
from pipeline import prepare
from pipeline.plan import Rows
from pipeline.store import Store

Packed = npt.NDArray[np.uint8]


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

    path: Path
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


class _ShardCache:
    """Shards most recently used, within a budget of bytes."""

    def __init__(self) -> None:
        self._shards: OrderedDict[ShardKey, Shard] = OrderedDict()

    def get(self, key: ShardKey, budget: int) -> Shard:
        if key in self._shards:
            self._shards.move_to_end(key)
            return self._shards[key]
        shard = _read_shard(key)
        if shard.packed.nbytes <= budget:
            self._shards[key] = shard
            while sum(s.packed.nbytes for s in self._shards.values()) > budget:
                self._shards.popitem(last=False)
        return shard


# One process is one worker on one device, so the cache belongs to the module.
_cache = _ShardCache()


def load_shard(key: ShardKey, budget: int) -> Shard:
    """Read a shard, or take it from the worker's cache of at most ``budget`` bytes."""
    return _cache.get(key, budget)


def read_rows(store: Store, rows: Rows) -> Packed:
    """Packed genotypes of everybody in some rows."""
    return store.read("call_genotype_packed", rows.slice)


def _read_shard(key: ShardKey) -> Shard:
    store = Store.open(key.path, prepare.KIND)
    in_fit = store.read("sample_in_fit", key.rows.slice)
    for rows in key.held_out:
        in_fit[rows.start - key.rows.start : rows.stop - key.rows.start] = False
    packed = read_rows(store, key.rows)[in_fit]
    tile = tile_shape()
    return Shard(jnp.asarray(pad_shard(packed, tile)), len(packed), tile)


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
        self._ahead: dict[tuple[Path, tuple[Rows, ...]], Future[Packed]] = {}

    def read(
        self, path: Path, blocks: Sequence[Rows], upcoming: Sequence[Rows]
    ) -> Packed:
        """Genotypes of these chunks; starts to read the upcoming ones."""
        key = (path, tuple(blocks))
        ready = self._ahead.pop(key, None)
        # A plan that moved to another worker leaves reads that nobody will want.
        self._ahead.clear()
        if upcoming:
            wanted = (path, tuple(upcoming))
            self._ahead[wanted] = self._pool.submit(_read_blocks, *wanted)
        return _read_blocks(*key) if ready is None else ready.result()


def _read_blocks(path: Path, blocks: tuple[Rows, ...]) -> Packed:
    store = Store.open(path, prepare.KIND)
    return np.concatenate([read_rows(store, rows) for rows in blocks])
