"""Rounds over the shards of a prepared store: what each does, and how sums are added.

A round evaluates one point: each shard's task reads the point's files, takes a Newton
step for the Q of its people and sums the statistics of P at it; sums are added in a
fixed tree, and the last task takes the Newton step for P.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from estimator.acceleration import Evaluation, Point
from estimator.likelihood import (
    frequency_statistics,
    pad_ancestry,
    tile_variants,
    untile_variants,
)
from estimator.packing import VARIANTS_PER_BYTE
from estimator.relaxation import (
    fix_ancestry,
    newton_frequencies,
    relax_ancestry,
)
from pipeline import checkpoint, plan
from pipeline.config import FitConfig
from pipeline.location import Location
from pipeline.plan import Rows
from pipeline.prepared import Prepared
from pipeline.stream import Shard, ShardKey, load_shard
from pipeline.tasks import Cluster, Future

FloatArray = npt.NDArray[np.float32]

# Tiles of variants stepped at a time: the step's temporaries are several times its
# arguments.
_STEP_TILES = 16


class Sums(NamedTuple):
    """What a shard returns, and what sums of shards are; arrays on the host.

    Derivatives are tiled as the kernels leave them (`tile_variants`).
    """

    ancestry: FloatArray
    log_likelihood: float
    gradient: FloatArray
    hessian: FloatArray


@dataclass(frozen=True)
class ShardTask:
    """A shard, and the place of its people among those in the fit."""

    key: ShardKey
    fit_rows: Rows
    n_variants: int
    cache_bytes: int
    # Population of each of these people, -1 where free; None where all are.
    fixed: npt.NDArray[np.int16] | None = None


class Assignment(NamedTuple):
    """A shard's worker, and the shard that this worker will turn to next."""

    task: ShardTask
    upcoming: ShardKey | None
    worker: str | None


def shard_tasks(prepared: Prepared, config: FitConfig, stamp: str) -> list[ShardTask]:
    """The shards that hold anybody who informs the fit, in order."""
    shards = plan.plan_shards(
        prepared.n_samples,
        prepared.n_variants,
        prepared.unit,
        max_people=config.shard_people,
        max_bytes=config.shard_bytes,
    )
    before = np.concatenate([[0], np.cumsum(prepared.in_fit)])
    return [
        ShardTask(
            ShardKey(prepared.path, stamp, rows, prepared.held_out_in(rows)),
            Rows(int(before[rows.start]), int(before[rows.stop])),
            prepared.n_variants,
            config.cache_bytes,
            _fixed_in(prepared, rows),
        )
        for rows in shards
        if before[rows.stop] > before[rows.start]
    ]


def _fixed_in(prepared: Prepared, rows: Rows) -> npt.NDArray[np.int16] | None:
    """Fixed populations of the people of some rows who are in the fit."""
    if prepared.fixed is None:
        return None
    return prepared.fixed[rows.slice][prepared.in_fit[rows.slice]]


def hold_fixed(ancestry: jax.Array, task: ShardTask) -> jax.Array:
    """Q of a shard's people, padded, with that of labelled people as it is given."""
    return ancestry if task.fixed is None else fix_ancestry(ancestry, task.fixed)


def evaluate(
    cluster: Cluster,
    tasks: list[ShardTask],
    folder: Location,
    round_number: int,
    point: Point,
) -> Evaluation:
    """Map a point whose files are in the folder, and compute its log-likelihood."""
    name = checkpoint.point_name(round_number)
    frequencies = checkpoint.frequencies_path(folder, name)
    ancestry = checkpoint.ancestry_path(folder, name)
    last = finish_round(
        cluster,
        [
            cluster.submit(
                _relax_shard, task, ahead, ancestry, frequencies, worker=worker
            )
            for task, ahead, worker in assign(tasks, cluster)
        ],
        frequencies,
    )
    mapped_ancestry, mapped_frequencies, log_likelihood = cluster.result(last)
    mapped = Point(mapped_ancestry, mapped_frequencies)
    return Evaluation(round_number, point, mapped, log_likelihood)


def assign(tasks: list[ShardTask], cluster: Cluster) -> Iterator[Assignment]:
    """Worker of each shard, and the shard that it will turn to next."""
    workers = cluster.spread(len(tasks))
    for worker, group in itertools.groupby(range(len(tasks)), workers.__getitem__):
        shards = list(group)
        for shard, following in zip(shards, [*shards[1:], shards[0]], strict=True):
            upcoming = None if following == shard else tasks[following].key
            yield Assignment(tasks[shard], upcoming, worker)


def finish_round(cluster: Cluster, sums: list[Future], frequencies: Location) -> Future:
    """Add the sums, and take the step for P.

    Nobody else may refer to the sums: a worker holds each for as long as one does.
    """
    return cluster.submit(_step_frequencies, cluster.add(_add, sums), frequencies)


def _relax_shard(
    task: ShardTask,
    upcoming: ShardKey | None,
    ancestry: Location,
    frequencies: Location,
) -> Sums:
    """One round's work on a shard."""
    shard = load_shard(task.key, task.cache_bytes, upcoming)
    rows = np.arange(task.fit_rows.start, task.fit_rows.stop)
    q = pad_ancestry(checkpoint.load_rows(ancestry, rows), shard.packed.shape[0])
    p = checkpoint.load_array(frequencies)
    tiles = tile_variants(jnp.asarray(p), shard.tile.width)
    relaxed = relax_ancestry(shard.packed, jnp.asarray(q), tiles, tile=shard.tile)
    log_likelihood = float(relaxed.log_likelihood.sum())
    return frequency_sums(shard, hold_fixed(relaxed.ancestry, task), p, log_likelihood)


def frequency_sums(
    shard: Shard, ancestry: jax.Array, frequencies: FloatArray, log_likelihood: float
) -> Sums:
    """Sums of a shard: the statistics of P at the given Q and P."""
    tiles = tile_variants(jnp.asarray(frequencies), shard.tile.width)
    statistics = frequency_statistics(shard.packed, ancestry, tiles, tile=shard.tile)
    return Sums(
        np.asarray(ancestry[: shard.n_people]),
        log_likelihood,
        np.asarray(statistics.gradient),
        np.asarray(statistics.hessian),
    )


def _add(left: Sums, right: Sums) -> Sums:
    return Sums(
        np.concatenate([left.ancestry, right.ancestry]),
        left.log_likelihood + right.log_likelihood,
        left.gradient + right.gradient,
        left.hessian + right.hessian,
    )


def _step_frequencies(sums: Sums, frequencies: Location) -> tuple[Any, ...]:
    """Q after the round, P after its step, and the log-likelihood before both."""
    p = checkpoint.load_array(frequencies)
    n_tiles, _, _, width = sums.gradient.shape
    n_variants = VARIANTS_PER_BYTE * width * min(n_tiles, _STEP_TILES)
    stepped = [
        _step_variants(
            p[:, start : start + n_variants],
            sums.gradient[tile : tile + _STEP_TILES],
            sums.hessian[tile : tile + _STEP_TILES],
            n_variants,
        )
        for tile, start in zip(
            range(0, n_tiles, _STEP_TILES),
            range(0, p.shape[1], n_variants),
            strict=True,
        )
    ]
    return sums.ancestry, np.concatenate(stepped, axis=1), sums.log_likelihood


def _step_variants(
    frequencies: FloatArray, gradient: FloatArray, hessian: FloatArray, n_padded: int
) -> FloatArray:
    """Step of some variants, padded with others so that one shape is compiled."""
    filling = n_padded - frequencies.shape[1]
    padded = np.pad(frequencies, ((0, 0), (0, filling)), constant_values=0.5)
    first, second = (
        untile_variants(
            jnp.asarray(np.pad(tiles, _tile_padding(tiles, n_padded))), n_padded
        )
        for tiles in (gradient, hessian)
    )
    stepped = newton_frequencies(jnp.asarray(padded), first, second)
    return np.asarray(stepped)[:, : frequencies.shape[1]]


def _tile_padding(tiles: FloatArray, n_padded: int) -> list[tuple[int, int]]:
    n_tiles = n_padded // (VARIANTS_PER_BYTE * tiles.shape[3])
    return [(0, n_tiles - tiles.shape[0]), (0, 0), (0, 0), (0, 0)]
