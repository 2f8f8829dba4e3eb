"""Rounds over the shards of a prepared store: what each does, and how sums are added.

A round evaluates one point: each shard's task reads the point's files, takes a Newton
step for the Q of its people and sums the statistics of P at it; sums are added in a
fixed tree, and the last task takes the Newton step for P.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

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

# Variants in one task of the step for P, at most: the step's temporaries are several
# times its arguments, and more tasks than one keep more workers busy.
STEP_VARIANTS = 16_384


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
        itemsize=prepared.itemsize,
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
    mapped, log_likelihood = finish_round(
        cluster,
        [
            cluster.submit(
                _relax_shard, task, ahead, ancestry, frequencies, worker=worker
            )
            for task, ahead, worker in assign(tasks, cluster)
        ],
        frequencies,
        tasks[0].n_variants,
    )
    return Evaluation(round_number, point, mapped, log_likelihood)


def assign(tasks: list[ShardTask], cluster: Cluster) -> Iterator[Assignment]:
    """Worker of each shard, and the shard that it will turn to next."""
    workers = cluster.spread(len(tasks))
    for worker, group in itertools.groupby(range(len(tasks)), workers.__getitem__):
        shards = list(group)
        for shard, following in zip(shards, [*shards[1:], shards[0]], strict=True):
            upcoming = None if following == shard else tasks[following].key
            yield Assignment(tasks[shard], upcoming, worker)


def finish_round(
    cluster: Cluster, sums: list[Future], frequencies: Location, n_variants: int
) -> tuple[Point, float]:
    """Add the sums, take the step for P, and wait for both.

    Empties the list of the sums, to which nobody else may refer: a worker holds each
    for as long as one does.

    Returns
    -------
    Q after the round and P after its step; the log-likelihood before both.
    """
    total = cluster.add(_add, sums)
    sums.clear()
    n_parts = -(-n_variants // STEP_VARIANTS)
    steps = [
        cluster.submit(_step_part, total, frequencies, part, n_parts, worker=worker)
        for part, worker in enumerate(cluster.spread(n_parts))
    ]
    ancestry, log_likelihood = cluster.result(cluster.submit(_people_of, total))
    stepped = [cluster.result(step) for step in steps]
    return Point(ancestry, np.concatenate(stepped, axis=1)), log_likelihood


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


def _people_of(sums: Sums) -> tuple[FloatArray, float]:
    return sums.ancestry, sums.log_likelihood


def _step_part(
    sums: Sums, frequencies: Location, part: int, n_parts: int
) -> FloatArray:
    """P of some tiles of variants after its step."""
    n_tiles, _, _, width = sums.gradient.shape
    tiles_per_part = -(-n_tiles // n_parts)
    tiles = slice(part * tiles_per_part, (part + 1) * tiles_per_part)
    n_variants = VARIANTS_PER_BYTE * width * tiles_per_part
    p = checkpoint.load_array(frequencies)
    return _step_variants(
        p[:, part * n_variants : (part + 1) * n_variants],
        sums.gradient[tiles],
        sums.hessian[tiles],
        n_variants,
    )


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
