"""Fit Q and P in rounds over the shards of a prepared store.

A round evaluates one point: each shard's task reads the point's files, takes a Newton
step for the Q of its people and sums the statistics of P at it; sums are added in a
fixed tree, and the last task takes the Newton step for P. The driver then chooses the
next point (`estimator.acceleration`) and writes its files, which are the checkpoint.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from estimator.acceleration import Evaluation, Point, Search, advance, propose
from estimator.likelihood import (
    frequency_statistics,
    pad_ancestry,
    pad_shard,
    tile_shape,
    tile_variants,
    untile_variants,
)
from estimator.packing import VARIANTS_PER_BYTE
from estimator.relaxation import newton_frequencies, relax_ancestry
from estimator.spectral import StartingValues, spectral_start
from pipeline import checkpoint, plan
from pipeline.config import LIKELIHOOD, FitConfig
from pipeline.errors import InputError
from pipeline.plan import Rows
from pipeline.prepared import Prepared, open_store
from pipeline.progress import track
from pipeline.stream import Shard, ShardKey, load_shard, read_rows
from pipeline.tasks import Cluster, Future

FloatArray = npt.NDArray[np.float32]

# Newton steps for the Q of everybody, given P of the start's variants, from 1/K.
EXTENSION_STEPS = 2
# Tiles of variants stepped at a time: the step's temporaries are several times its
# arguments.
_STEP_TILES = 16
# Reads of the whole data before the first round: the start's sample and its extension.
PASSES_BEFORE_ROUNDS = 2


@dataclass(frozen=True)
class FitResult:
    """A fitted model.

    Attributes
    ----------
    point
        Q of the people in the fit, and P.
    log_likelihood
        Of the best point evaluated, which the last relaxation did not lower.
    trace
        Log-likelihood of every round.
    converged
        Whether the stopping rule was met.
    data_passes
        Times the genotypes were read from first to last.
    method
        What fitted it: "likelihood" or "neural".
    """

    point: Point
    log_likelihood: float
    trace: list[float]
    converged: bool
    data_passes: int
    method: str = LIKELIHOOD


class _Sums(NamedTuple):
    """What a shard returns, and what sums of shards are; arrays on the host.

    Derivatives are tiled as the kernels leave them (`tile_variants`).
    """

    ancestry: FloatArray
    log_likelihood: float
    gradient: FloatArray
    hessian: FloatArray


@dataclass(frozen=True)
class _ShardTask:
    key: ShardKey
    fit_rows: Rows  # of the people in the fit
    n_variants: int
    cache_bytes: int


@dataclass(frozen=True)
class _StartTask:
    prepared: Prepared
    config: FitConfig
    seed: int


class _Assignment(NamedTuple):
    task: _ShardTask
    upcoming: ShardKey | None
    worker: str | None


class _SampleStart(NamedTuple):
    frequencies: FloatArray  # of the variants of the bytes chosen
    byte_stride: int


def fit(
    prepared: Prepared,
    config: FitConfig,
    cluster: Cluster,
    folder: Path,
    *,
    seed: int,
    stamp: str,
) -> FitResult:
    """Fit the model to the maximum of its likelihood.

    Parameters
    ----------
    prepared
        The genotypes.
    config
        Number of populations, tolerance, sizes of shards.
    cluster
        Workers; their number does not change the result.
    folder
        Where the rounds' files go. A fit found there is continued.
    seed
        Of the start.
    stamp
        Fingerprint of the prepared store.

    Raises
    ------
    InputError
        If there are fewer people or variants than populations.
    """
    tasks = _shard_tasks(prepared, config, stamp)
    n_called = _count_called(prepared)
    fresh = Search(tolerance=config.tolerance * n_called, n_secants=config.n_secants)
    resumed = checkpoint.load_search(folder, fresh)
    if resumed is None:
        search, round_number = fresh, 0
        point = starting_point(
            prepared, config, cluster, folder, seed=seed, stamp=stamp
        )
        checkpoint.save_point(folder, checkpoint.point_name(0), point)
    else:
        search, round_number = resumed
        point = checkpoint.load_point(folder, checkpoint.point_name(round_number))
    with track("fitting") as progress:
        while not search.converged and round_number < config.max_rounds:
            evaluation = _evaluate(cluster, tasks, folder, round_number, point)
            search = advance(search, evaluation)
            point = propose(search)
            checkpoint.save_search(folder, search, evaluation, point)
            round_number += 1
            progress.advance(note=f"log-likelihood {evaluation.log_likelihood:.2f}")
    assert search.best is not None, "at least one round was evaluated"
    trace = checkpoint.load_trace(folder)
    return FitResult(
        point=search.result,
        log_likelihood=search.best.log_likelihood,
        trace=trace,
        converged=search.converged,
        data_passes=len(trace) + PASSES_BEFORE_ROUNDS,
    )


def _check_size(prepared: Prepared, config: FitConfig) -> None:
    k = config.n_populations
    for count, what in (
        (prepared.n_in_fit, "people"),
        (prepared.n_variants, "variants"),
    ):
        if k > count:
            raise InputError(
                f"{prepared.source}: {k} populations need at least as many {what}, and "
                f"{count} passed quality control; lower -k or relax [qc]"
            )


def _count_called(prepared: Prepared) -> int:
    store = open_store(prepared.path)
    return int(store.read("sample_n_called")[prepared.in_fit].sum())


def _shard_tasks(prepared: Prepared, config: FitConfig, stamp: str) -> list[_ShardTask]:
    shards = plan.plan_shards(
        prepared.n_samples,
        prepared.n_variants,
        prepared.unit,
        max_people=config.shard_people,
        max_bytes=config.shard_bytes,
    )
    before = np.concatenate([[0], np.cumsum(prepared.in_fit)])
    return [
        _ShardTask(
            ShardKey(prepared.path, stamp, rows, prepared.held_out_in(rows)),
            Rows(int(before[rows.start]), int(before[rows.stop])),
            prepared.n_variants,
            config.cache_bytes,
        )
        for rows in shards
        if before[rows.stop] > before[rows.start]
    ]


def starting_point(
    prepared: Prepared,
    config: FitConfig,
    cluster: Cluster,
    folder: Path,
    *,
    seed: int,
    stamp: str,
) -> Point:
    """Spectral start on a sample, extended to everyone and every variant.

    Parameters are those of `fit`.

    Raises
    ------
    InputError
        If there are fewer people or variants than populations.
    """
    _check_size(prepared, config)
    tasks = _shard_tasks(prepared, config, stamp)
    with track("starting values"):
        start = cluster.submit(_sample_start, _StartTask(prepared, config, seed))
        store = open_store(prepared.path)
        frequency = store.read("variant_frequency").astype(np.float32)
        pooled = np.repeat(frequency[None], config.n_populations, axis=0)
        name = "start"
        no_ancestry = np.empty((0, config.n_populations), np.float32)
        checkpoint.save_point(folder, name, Point(no_ancestry, pooled))
        path = checkpoint.frequencies_path(folder, name)
        last = _finish_round(
            cluster,
            [
                cluster.submit(_extend_shard, task, ahead, start, path, worker=worker)
                for task, ahead, worker in _assign(tasks, cluster)
            ],
            path,
        )
        ancestry, frequencies, _ = cluster.result(last)
    return Point(ancestry, frequencies)


def _evaluate(
    cluster: Cluster,
    tasks: list[_ShardTask],
    folder: Path,
    round_number: int,
    point: Point,
) -> Evaluation:
    name = checkpoint.point_name(round_number)
    frequencies = checkpoint.frequencies_path(folder, name)
    ancestry = checkpoint.ancestry_path(folder, name)
    last = _finish_round(
        cluster,
        [
            cluster.submit(
                _relax_shard, task, ahead, ancestry, frequencies, worker=worker
            )
            for task, ahead, worker in _assign(tasks, cluster)
        ],
        frequencies,
    )
    mapped_ancestry, mapped_frequencies, log_likelihood = cluster.result(last)
    mapped = Point(mapped_ancestry, mapped_frequencies)
    return Evaluation(round_number, point, mapped, log_likelihood)


def _assign(tasks: list[_ShardTask], cluster: Cluster) -> Iterator[_Assignment]:
    """Worker of each shard, and the shard that it will turn to next."""
    workers = cluster.spread(len(tasks))
    for worker, group in itertools.groupby(range(len(tasks)), workers.__getitem__):
        shards = list(group)
        for shard, following in zip(shards, [*shards[1:], shards[0]], strict=True):
            upcoming = None if following == shard else tasks[following].key
            yield _Assignment(tasks[shard], upcoming, worker)


def _finish_round(cluster: Cluster, sums: list[Future], frequencies: Path) -> Future:
    """Add the sums, and take the step for P.

    Nobody else may refer to the sums: a worker holds each for as long as one does.
    """
    return cluster.submit(_step_frequencies, cluster.add(_add, sums), frequencies)


def _sample_start(task: _StartTask) -> _SampleStart:
    """P of an evenly spaced sample of variants, from a sample of chunks of people."""
    prepared, config = task.prepared, task.config
    store = open_store(prepared.path)
    blocks = plan.split_rows(prepared.n_samples, prepared.unit)
    n_blocks = max(config.start_people // prepared.unit, 1)
    n_bytes = store.shape("call_genotype_packed")[1]
    most_bytes = max(config.start_variants // VARIANTS_PER_BYTE, 1)
    columns = plan.evenly_spaced(n_bytes, most_bytes)
    # Copied, because a view of some columns would keep all of them in memory.
    people = np.concatenate(
        [
            read_rows(store, rows)[prepared.in_fit[rows.slice]][:, columns].copy()
            for rows in blocks[plan.evenly_spaced(len(blocks), n_blocks)]
        ]
    )
    # Variants beyond the last are missing in everybody: any frequency will do.
    filling = n_bytes * VARIANTS_PER_BYTE - prepared.n_variants
    frequency = np.pad(store.read("variant_frequency"), (0, filling))
    frequency = frequency.reshape(n_bytes, VARIANTS_PER_BYTE)[columns].ravel()
    values: StartingValues = spectral_start(
        people,
        frequency,
        config.n_populations,
        seed=task.seed,
        tile=tile_shape(),
    )
    return _SampleStart(values.frequencies, columns.step)


def _extend_shard(
    task: _ShardTask, upcoming: ShardKey | None, start: _SampleStart, frequencies: Path
) -> _Sums:
    """Q of a shard's people from the sample's P, and the statistics of all of P."""
    shard = load_shard(task.key, task.cache_bytes, upcoming)
    n_bytes = -(-task.n_variants // VARIANTS_PER_BYTE)
    # On a CPU the array is a view of the shard, of which only the sample is copied.
    sampled = np.asarray(shard.packed)[:, : n_bytes : start.byte_stride]
    packed = jnp.asarray(pad_shard(sampled, shard.tile))
    tiles = tile_variants(jnp.asarray(start.frequencies), shard.tile.width)
    k = start.frequencies.shape[0]
    ancestry = jnp.full((packed.shape[0], k), 1 / k, jnp.float32)
    for _ in range(EXTENSION_STEPS):
        ancestry = relax_ancestry(packed, ancestry, tiles, tile=shard.tile).ancestry
    del packed
    return _frequency_sums(shard, ancestry, np.load(frequencies), 0.0)


def _relax_shard(
    task: _ShardTask, upcoming: ShardKey | None, ancestry: Path, frequencies: Path
) -> _Sums:
    """One round's work on a shard."""
    shard = load_shard(task.key, task.cache_bytes, upcoming)
    rows = task.fit_rows.slice
    q = pad_ancestry(np.load(ancestry, mmap_mode="r")[rows], shard.packed.shape[0])
    p = np.load(frequencies)
    tiles = tile_variants(jnp.asarray(p), shard.tile.width)
    relaxed = relax_ancestry(shard.packed, jnp.asarray(q), tiles, tile=shard.tile)
    log_likelihood = float(relaxed.log_likelihood.sum())
    return _frequency_sums(shard, relaxed.ancestry, p, log_likelihood)


def _frequency_sums(
    shard: Shard, ancestry: jax.Array, frequencies: FloatArray, log_likelihood: float
) -> _Sums:
    tiles = tile_variants(jnp.asarray(frequencies), shard.tile.width)
    statistics = frequency_statistics(shard.packed, ancestry, tiles, tile=shard.tile)
    return _Sums(
        np.asarray(ancestry[: shard.n_people]),
        log_likelihood,
        np.asarray(statistics.gradient),
        np.asarray(statistics.hessian),
    )


def _add(left: _Sums, right: _Sums) -> _Sums:
    return _Sums(
        np.concatenate([left.ancestry, right.ancestry]),
        left.log_likelihood + right.log_likelihood,
        left.gradient + right.gradient,
        left.hessian + right.hessian,
    )


def _step_frequencies(sums: _Sums, frequencies: Path) -> tuple[Any, ...]:
    """Q after the round, P after its step, and the log-likelihood before both."""
    p = np.load(frequencies)
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
