"""Rounds over the shards of a prepared store: what each does, and how sums are added.

A round evaluates one point. A task goes through a batch of neighbouring shards: it
reads the point's files, takes a Newton step for the Q of their people and sums the
statistics of P at it; the sums are added in a fixed tree. The steps for P and of the
basis follow (`steps`), for which the models of the people stay where they were made: a
few floats a person, instead of a pass.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
import numpy.typing as npt

from estimator.acceleration import Evaluation, Point
from estimator.basis import Models, change_of_ancestry, step_in_basis
from estimator.likelihood import (
    AncestryStatistics,
    ancestry_statistics,
    frequency_statistics,
    hessian_share,
)
from estimator.relaxation import fix_ancestry
from estimator.tiling import pad_ancestry, tile_shape, tile_variants
from pipeline import checkpoint, plan, steps
from pipeline.config import FitConfig
from pipeline.location import Location
from pipeline.plan import Rows
from pipeline.prepared import Prepared
from pipeline.steps import FloatArray, Share, Sums
from pipeline.stream import Shard, ShardKey, load_shard
from pipeline.sum_tree import add_up, subtrees_of_workers
from pipeline.tasks import Cluster, Future

# Shards that a task goes through, at most: a task costs its worker and the driver some
# milliseconds, and is done over where its worker is lost.
BATCH_SHARDS = 8


class RelaxedPeople(NamedTuple):
    """What a round finds of the people of a shard.

    Attributes
    ----------
    ancestry
        Their Q after their step.
    models
        Their models, padded.
    share
        What they tell of the basis.
    """

    ancestry: FloatArray
    models: Models
    share: Share


class Relaxed(NamedTuple):
    """What a batch returns.

    Attributes
    ----------
    sums
        What is added over the shards.
    ancestry
        Q of its people after their step.
    models
        Their models, padded, by shard.
    shares
        What they tell of the basis, by shard.
    """

    sums: Sums
    ancestry: FloatArray
    models: list[Models]
    shares: list[Share]


@dataclass(frozen=True)
class ShardTask:
    """A shard, and the place of its people among those in the fit."""

    key: ShardKey
    fit_rows: Rows
    n_variants: int
    cache_bytes: int
    # Population of each of these people, -1 where free; None where all are.
    fixed: npt.NDArray[np.int16] | None = None


@dataclass(frozen=True)
class Batch:
    """Neighbouring shards that one task goes through: a subtree of their sums.

    Attributes
    ----------
    run
        Which of all shards.
    shards
        The shards.
    upcoming
        The shard that this worker will turn to next.
    """

    run: range
    shards: list[ShardTask]
    upcoming: ShardKey | None

    @property
    def n_people(self) -> list[int]:
        """People in the fit of each shard."""
        return [len(shard.fit_rows) for shard in self.shards]

    def load(self) -> Iterator[tuple[ShardTask, Shard]]:
        """Read one shard after the other, and each while the one before is in use."""
        following = [*(shard.key for shard in self.shards[1:]), self.upcoming]
        for task, ahead in zip(self.shards, following, strict=True):
            yield task, load_shard(task.key, task.cache_bytes, ahead)


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
    radius: float,
) -> Evaluation:
    """Map a point whose files are in the folder, and compute its log-likelihood.

    Parameters
    ----------
    cluster, tasks
        Workers, and the shards.
    folder, round_number
        Where the point's files are, and their number.
    point
        The point.
    radius
        Longest step of the basis (`choose_basis`).
    """
    name = checkpoint.point_name(round_number)
    frequencies = checkpoint.frequencies_path(folder, name)
    counts = (len(point.ancestry), point.frequencies.shape[1])
    submit = cluster.submit
    placed = assign(tasks, cluster)
    batches = _relax_batches(cluster, placed, folder, name, point)
    total = cluster.add(steps.add_sums, batches.sums)
    # A worker holds a sum for as long as anybody refers to it.
    batches.sums.clear()
    log_likelihood = submit(_log_likelihood_of, total)
    parts = steps.spread_parts(cluster, counts[1])
    told = [
        cluster.parts(
            submit(steps.relax_variants, total, frequencies, part, worker=worker), 2
        )
        for part, worker in parts
    ]
    shares = [share for _, share in told]
    kept = checkpoint.people_path(folder, round_number)
    told_all = (batches.shares, shares, counts, radius, kept)
    basis = submit(steps.find_basis, *told_all, worker=cluster.last)
    people = [
        submit(steps.move_people, models, batch.n_people, basis, worker=worker)
        for models, (batch, worker) in zip(batches.models, placed, strict=True)
    ]
    variants = [
        submit(steps.move_variants, total, frequencies, part, basis, worker=worker)
        for part, worker in parts
    ]
    # While the basis is chosen there is time to fetch what is there already.
    relaxed = _gather(cluster, batches.ancestry, [stepped for stepped, _ in told])
    mapped = _gather(cluster, people, variants)
    value = cluster.result(log_likelihood)
    return Evaluation(round_number, point, mapped, relaxed, value)


def _gather(cluster: Cluster, people: list[Future], variants: list[Future]) -> Point:
    found = cluster.results([*people, *variants])
    ancestry, frequencies = found[: len(people)], found[len(people) :]
    return Point(np.concatenate(ancestry), np.concatenate(frequencies, axis=1))


def assign(tasks: list[ShardTask], cluster: Cluster) -> list[tuple[Batch, str | None]]:
    """Cut the shards into batches, in order, and choose a worker for each."""
    batches: list[tuple[Batch, str | None]] = []
    for worker, runs in subtrees_of_workers(cluster.spread(len(tasks)), BATCH_SHARDS):
        is_one = sum(map(len, runs)) == 1
        for chosen, following in zip(runs, [*runs[1:], runs[0]], strict=True):
            upcoming = None if is_one else tasks[following.start].key
            batch = Batch(chosen, tasks[chosen.start : chosen.stop], upcoming)
            batches.append((batch, worker))
    return batches


@dataclass(frozen=True)
class _Submitted:
    """What the batches return, as tasks under way, in the order of the shards."""

    sums: dict[range, Future]
    ancestry: list[Future]
    models: list[Future]
    shares: list[Future]


def _relax_batches(
    cluster: Cluster,
    placed: list[tuple[Batch, str | None]],
    folder: Location,
    name: str,
    point: Point,
) -> _Submitted:
    ancestry = checkpoint.ancestry_path(folder, name)
    frequencies = checkpoint.frequencies_path(folder, name)
    n_people, k = point.ancestry.shape
    stride = steps.sample_stride(n_people, k, steps.SAMPLE_PEOPLE)
    # Workers begin before the rest of the round is submitted.
    wholes = [
        cluster.submit(
            _relax_batch, batch, ancestry, frequencies, stride, worker=worker
        )
        for batch, worker in placed
    ]
    submitted = _Submitted({}, [], [], [])
    for batch, _ in placed:
        # A worker holds the whole for as long as anybody refers to it.
        whole = wholes.pop(0)
        sums, stepped, models, shares = cluster.parts(whole, len(Relaxed._fields))
        submitted.sums[batch.run] = sums
        submitted.ancestry.append(stepped)
        submitted.models.append(models)
        submitted.shares.append(shares)
    return submitted


def _log_likelihood_of(sums: Sums) -> float:
    return sums.log_likelihood


def _relax_batch(
    batch: Batch, ancestry: Location, frequencies: Location, stride: int
) -> Relaxed:
    """One round's work on a batch; every so many people choose the basis."""
    tiles = tile_variants(checkpoint.load_array(frequencies), tile_shape().width)
    people: list[RelaxedPeople] = []

    def relax(task: ShardTask, shard: Shard) -> Sums:
        rows = np.arange(task.fit_rows.start, task.fit_rows.stop)
        q = pad_ancestry(checkpoint.load_rows(ancestry, rows), shard.packed.shape[0])
        sums, relaxed = _relax_shard(task, shard, q, tiles, stride)
        people.append(relaxed)
        return sums

    sums = sum_over(batch, relax)
    stepped, models, shares = zip(*people, strict=True)
    return Relaxed(sums, np.concatenate(stepped), list(models), list(shares))


def sum_over(batch: Batch, sums_of: Callable[[ShardTask, Shard], Sums]) -> Sums:
    """Add what a function returns for each shard of a batch, in turn."""
    shards = batch.load()

    def sums_of_leaf(run: range) -> Sums | None:
        return sums_of(*next(shards)) if len(run) == 1 else None

    return add_up(batch.run, sums_of_leaf, steps.add_sums)


def _relax_shard(
    task: ShardTask, shard: Shard, q: FloatArray, tiles: jax.Array, stride: int
) -> tuple[Sums, RelaxedPeople]:
    """One round's work on a shard, at the Q of its people, padded, and the tiled P."""
    found = ancestry_statistics(
        shard.packed,
        jax.device_put(q),
        tiles,
        tile=shard.tile,
        of_four=hessian_share(task.n_variants),
    )
    models = models_of_people(q, found, _held(task, len(q)))
    stepped = step_people(models)
    chosen = slice(-task.fit_rows.start % stride, shard.n_people, stride)
    share = steps.share_of(models, stepped, chosen, simplex=True)
    log_likelihood = float(np.asarray(found.log_likelihood).sum())
    sums = frequency_sums(shard, jax.device_put(stepped.T), tiles, log_likelihood)
    moved = np.ascontiguousarray(stepped.T[: shard.n_people])
    return sums, RelaxedPeople(moved, models, share)


def models_of_people(
    ancestry: FloatArray, found: AncestryStatistics, held: npt.NDArray[np.bool_]
) -> Models:
    """Quadratic models of some people, padded, from the statistics at their Q."""
    gradient, hessian = np.asarray(found.gradient).T, np.asarray(found.hessian).T
    return Models(ancestry.T, gradient, hessian, held)


def step_people(models: Models) -> FloatArray:
    """Q of some people, one a column, after a Newton step with P as it is."""
    unmoved = change_of_ancestry(np.eye(len(models.position)))
    return np.asarray(step_in_basis(models, unmoved, simplex=True))


def _held(task: ShardTask, n_padded: int) -> npt.NDArray[np.bool_]:
    """Whose ancestry is given, among a shard's people."""
    held = np.zeros(n_padded, bool)
    if task.fixed is not None:
        held[: len(task.fixed)] = task.fixed >= 0
    return held


def frequency_sums(
    shard: Shard, ancestry: jax.Array, tiles: jax.Array, log_likelihood: float
) -> Sums:
    """Sums of a shard: the statistics of P, in tiles, at the given Q and P."""
    statistics = frequency_statistics(shard.packed, ancestry, tiles, tile=shard.tile)
    return Sums(
        log_likelihood,
        np.asarray(statistics.gradient),
        np.asarray(statistics.hessian),
    )
