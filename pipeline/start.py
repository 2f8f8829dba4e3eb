"""Starting values of a fit: a spectral start on a sample, extended to all.

The sample's P gives everybody a Q by Newton steps on the sampled variants, and the
statistics at that Q give the P of every variant. Populations that have labelled people
start from their frequencies instead (`labelled_start`).
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np

from estimator.acceleration import Point
from estimator.config import MIN_FREQUENCY
from estimator.likelihood import ancestry_statistics
from estimator.packing import VARIANTS_PER_BYTE
from estimator.spectral import StartingValues, spectral_start
from estimator.tiling import pad_shard, tile_shape, tile_variants
from pipeline import checkpoint, labelled_start, plan, rounds, steps
from pipeline.config import FitConfig
from pipeline.errors import InputError
from pipeline.location import Location
from pipeline.prepared import Prepared, open_store
from pipeline.progress import track
from pipeline.rounds import Batch, ShardTask
from pipeline.steps import FloatArray, Sums
from pipeline.stream import Shard, read_rows
from pipeline.tasks import Cluster, Future

# Newton steps for the Q of everybody, given P of the start's variants, from 1/K.
EXTENSION_STEPS = 2
# Fewest people for each population that a fit takes.
PEOPLE_PER_POPULATION = 2
# Reads of the whole data: the sample and its extension.
_PASSES = 2


@dataclass(frozen=True)
class _StartTask:
    prepared: Prepared
    config: FitConfig
    seed: int


class _SampleStart(NamedTuple):
    frequencies: FloatArray  # of the variants of the bytes chosen
    byte_stride: int


def starting_point(
    prepared: Prepared,
    config: FitConfig,
    cluster: Cluster,
    folder: Location,
    *,
    seed: int,
    stamp: str,
) -> Point:
    """Spectral start on a sample, extended to everyone and every variant.

    One population needs no search: its frequencies are those of the people in the
    fit, which are the maximum of the likelihood. Parameters are those of `fit`.

    Raises
    ------
    InputError
        If there are fewer than two people, or one variant, for each population.
    """
    _check_size(prepared, config)
    if config.n_populations == 1:
        return _one_population(prepared)
    tasks = rounds.shard_tasks(prepared, config, stamp)
    with track("starting values"):
        first = cluster.spread(1)[0]
        task = _StartTask(prepared, config, seed)
        start = cluster.submit(_sample_start, task, worker=first)
        counts = (prepared.n_in_fit, prepared.n_variants)
        rehearsal = cluster.rehearse(steps.rehearse_basis, counts, config.n_populations)
        store = open_store(prepared.path)
        frequency = store.read("variant_frequency").astype(np.float32)
        pooled = np.repeat(frequency[None], config.n_populations, axis=0)
        name = "start"
        no_ancestry = np.empty((0, config.n_populations), np.float32)
        checkpoint.save_point(folder, name, Point(no_ancestry, pooled))
        path = checkpoint.frequencies_path(folder, name)
        sums: dict[range, Future] = {}
        people: list[Future] = []
        for batch, worker in rounds.assign(tasks, cluster):
            whole = cluster.submit(_extend_batch, batch, start, path, worker=worker)
            sums[batch.run], stepped = cluster.parts(whole, 2)
            people.append(stepped)
        del whole
        total = cluster.add(steps.add_sums, sums)
        sums.clear()
        frequencies = steps.step_variants(cluster, total, path, prepared.n_variants)
        ancestry = np.concatenate(cluster.results(people))
        del rehearsal
    return Point(ancestry, frequencies)


def passes_of_start(config: FitConfig) -> int:
    """Times that the starting values read the whole data.

    >>> passes_of_start(FitConfig(n_populations=1))
    0
    """
    return 0 if config.n_populations == 1 else _PASSES


def _one_population(prepared: Prepared) -> Point:
    """The maximum of the likelihood with K = 1, in closed form."""
    frequency = open_store(prepared.path).read("variant_frequency")
    bounded = frequency.clip(MIN_FREQUENCY, 1 - MIN_FREQUENCY).astype(np.float32)
    return Point(np.ones((prepared.n_in_fit, 1), np.float32), bounded[None])


def _check_size(prepared: Prepared, config: FitConfig) -> None:
    """Refuse a K at which the likelihood says nothing of populations.

    With a population for every second person, P of each is hardly more than the
    genotypes of its people, and the likelihood is flat for thousands of rounds.
    """
    k, n_people, n_variants = (
        config.n_populations,
        prepared.n_in_fit,
        prepared.n_variants,
    )
    most = max(n_people // PEOPLE_PER_POPULATION, min(n_people, 1))
    if k > most:
        raise InputError(
            f"{prepared.source}: {k} populations need {PEOPLE_PER_POPULATION * k} "
            f"people, and {n_people} passed quality control; set -k to {most} or "
            "less, or relax [qc]"
        )
    if k > n_variants:
        raise InputError(
            f"{prepared.source}: {k} populations need at least as many variants, and "
            f"{n_variants} passed quality control; lower -k or relax [qc]"
        )


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
    known = labelled_start.labelled_frequencies(prepared, config, columns, frequency)
    if len(known) == config.n_populations:
        return _SampleStart(known, columns.step)
    values: StartingValues = spectral_start(
        people,
        frequency,
        config.n_populations,
        seed=task.seed,
        tile=tile_shape(),
    )
    frequencies = labelled_start.place_first(known, values.frequencies)
    return _SampleStart(frequencies, columns.step)


def _extend_batch(
    batch: Batch, start: _SampleStart, frequencies: Location
) -> tuple[Sums, FloatArray]:
    """Statistics of all of P, and Q of a batch's people from the sample's P."""
    width = tile_shape().width
    sampled = tile_variants(start.frequencies, width)
    tiles = tile_variants(checkpoint.load_array(frequencies), width)
    people: list[FloatArray] = []

    def extend(task: ShardTask, shard: Shard) -> Sums:
        q = _step_sampled(task, shard, sampled, start.byte_stride)
        ancestry = rounds.hold_fixed(jax.device_put(q), task)
        people.append(np.asarray(ancestry)[: shard.n_people])
        return rounds.frequency_sums(shard, ancestry, tiles, 0.0)

    sums = rounds.sum_over(batch, extend)
    return sums, np.concatenate(people)


def _step_sampled(
    task: ShardTask, shard: Shard, tiles: jax.Array, byte_stride: int
) -> FloatArray:
    """Q of a shard's people, padded, given the tiled P of the sample."""
    n_bytes = -(-task.n_variants // VARIANTS_PER_BYTE)
    # On a CPU the array is a view of the shard, of which only the sample is copied.
    sampled = np.asarray(shard.packed)[:, :n_bytes:byte_stride]
    packed = jax.device_put(pad_shard(sampled, shard.tile))
    k = tiles.shape[2]
    q = np.full((packed.shape[0], k), 1 / k, np.float32)
    free = np.zeros(len(q), bool)
    for _ in range(EXTENSION_STEPS):
        found = ancestry_statistics(packed, jax.device_put(q), tiles, tile=shard.tile)
        q = rounds.step_people(rounds.models_of_people(q, found, free)).T
    return q
