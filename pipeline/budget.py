"""What a run will need, computed before it begins: memory, reads, network, disk.

Pure arithmetic on the sizes of a cohort. Memory is that of processes on the host, from
figures measured with this release's kernels; what grows with the data follows from the
arrays that each stage holds at a time.
"""

import math
from dataclasses import dataclass

import numpy as np

from estimator.packing import DOSAGES, packed_width
from pipeline import decode, fit_check, neural, plan, projector, schema, steps
from pipeline.config import NEURAL, RunConfig
from pipeline.devices import WORKER_BYTES
from pipeline.errors import InputError

MIB = 2**20
FLOAT_BYTES = 4
# Resident memory of the driver once it has loaded its libraries.
DRIVER_BYTES = 490 * MIB
# What the compiled kernels of the fit take, and those of training and applying.
FIT_KERNEL_BYTES = 250 * MIB
ENCODER_KERNEL_BYTES = 300 * MIB
# What the libraries of a GPU take of the host's memory, once jax has loaded them.
GPU_LIBRARY_BYTES = 2_750 * MIB
# A variant's keys and counts, and a person's id, as the driver holds them.
VARIANT_BYTES = 600
PERSON_BYTES = 200
# The same in a store on disk, and the page with figures.
STORED_VARIANT_BYTES = 64
STORED_PERSON_BYTES = 100
REPORT_BYTES = 4 * MIB
# A worker that Dask sees at its limit is killed: stay clear of it.
USABLE_SHARE = 0.95
_COMPUTED = ("fit", "train", "apply")


@dataclass(frozen=True)
class Sizes:
    """Size of a cohort, or of what quality control left of it.

    Attributes
    ----------
    n_samples, n_variants
        People and variants.
    sample_chunk, variant_chunk
        The same of one chunk of the cohort's genotypes.
    itemsize
        Bytes of a packed element of four variants: 1 for diploid calls, 2 for those
        with half or haploid ones, 8 for dosages.
    """

    n_samples: int
    n_variants: int
    sample_chunk: int
    variant_chunk: int
    itemsize: int = 1

    @property
    def row_bytes(self) -> int:
        """Packed bytes of one person."""
        return packed_width(self.n_variants) * self.itemsize


@dataclass(frozen=True)
class Budget:
    """What a run will need; sizes in bytes.

    Attributes
    ----------
    n_shards, shard_people, shard_bytes
        Shards of the fit; people and packed genotypes of one.
    prepared_bytes
        Packed genotypes of everybody, before compression.
    cache_bytes
        Shards that each worker keeps in memory between passes.
    pass_bytes
        Packed genotypes read from the prepared store in each later pass, or epoch of
        joint training.
    stage_bytes
        Memory of a worker in each stage.
    driver_bytes
        Memory of the driver.
    network_bytes
        Sums, P and Q that cross the network in a round; of joint training, gradients
        and P in a step.
    disk_bytes
        Room for results and for the files of the rounds.
    """

    n_shards: int
    shard_people: int
    shard_bytes: int
    prepared_bytes: int
    cache_bytes: int
    pass_bytes: int
    stage_bytes: dict[str, int]
    driver_bytes: int
    network_bytes: int
    disk_bytes: int

    @property
    def worker_bytes(self) -> int:
        """Memory of a worker in the stage that needs most."""
        return max(self.stage_bytes.values())


def plan_budget(
    sizes: Sizes,
    config: RunConfig,
    n_workers: int,
    worker_limit: int | None,
    *,
    on_gpus: bool = False,
) -> Budget:
    """Compute what a run will need.

    Parameters
    ----------
    sizes
        Size of the cohort.
    config
        The run's configuration.
    n_workers
        Workers that share the shards.
    worker_limit
        Memory that each may use, in bytes; None for any amount.
    on_gpus
        Whether they compute on GPUs.
    """
    k, m, n = config.fit.n_populations, sizes.n_variants, sizes.n_samples
    width = sizes.row_bytes
    shards = plan.plan_shards(
        n,
        m,
        plan.chunk_people(sizes.sample_chunk),
        max_people=config.fit.shard_people,
        max_bytes=config.fit.shard_bytes,
        itemsize=sizes.itemsize,
    )
    shard_bytes = len(shards[0]) * width
    sums_bytes = FLOAT_BYTES * m * (k + k * (k + 1) // 2)
    point_bytes = FLOAT_BYTES * k * (n + m)
    per_worker = -(-len(shards) // n_workers)
    is_joint = config.fit.method == NEURAL
    stages = {
        "prepare": _prepare_bytes(sizes),
        "fit": _fit_bytes(sizes, config, shard_bytes, sums_bytes, per_worker),
        "train": _encoder_bytes(sizes, config, _people_encoded(sizes, config)),
        "apply": _encoder_bytes(sizes, config, projector.GROUP_PEOPLE)
        + _check_bytes(sizes, config),
    }
    if is_joint:
        # The encoder is distilled with the starting values, before joint training.
        stages["fit"] = max(stages["fit"], stages["train"])
        step = _joint_bytes(sizes, config, n_workers)
        stages["train"] = max(stages["train"], step)
    if on_gpus:
        # Genotypes are prepared without jax.
        stages |= {name: stages[name] + GPU_LIBRARY_BYTES for name in _COMPUTED}
    cache_bytes = min(config.fit.cache_bytes, per_worker * shard_bytes)
    if worker_limit is not None:
        room = int(USABLE_SHARE * worker_limit) - stages["fit"]
        cache_bytes = max(min(cache_bytes, room), 0)
    kept = cache_bytes // shard_bytes * min(n_workers, len(shards))
    stages["fit"] += cache_bytes // shard_bytes * shard_bytes
    streamed = n * width if is_joint else max(len(shards) - kept, 0) * shard_bytes
    return Budget(
        n_shards=len(shards),
        shard_people=len(shards[0]),
        shard_bytes=shard_bytes,
        prepared_bytes=n * width,
        cache_bytes=cache_bytes,
        pass_bytes=streamed,
        stage_bytes=stages,
        # The search holds points, their maps and relaxations, and differences.
        driver_bytes=DRIVER_BYTES
        + VARIANT_BYTES * m
        + PERSON_BYTES * n
        + (4 * config.fit.n_secants + 8) * point_bytes,
        network_bytes=_network_bytes(sizes, config, n_workers, len(shards)),
        # Points, maps and relaxations of the rounds, and what training reads.
        disk_bytes=(3 * config.fit.n_secants + 9) * point_bytes
        + _result_bytes(sizes, k)
        + _count_bytes(sizes)
        + (_candidate_bytes(sizes) if config.qc.enabled else 0),
    )


def _network_bytes(
    sizes: Sizes, config: RunConfig, n_workers: int, n_shards: int
) -> int:
    """What crosses the network in a round, or in a step of joint training."""
    k, m = config.fit.n_populations, sizes.n_variants
    frequencies = FLOAT_BYTES * k * m
    if config.fit.method == NEURAL:
        # A sum from each worker but one; P to each worker, and the next one's.
        return (min(n_workers, config.neural.n_slices) + n_workers) * frequencies
    sums = FLOAT_BYTES * m * (k + k * (k + 1) // 2)
    # Towards the root of the tree, and from there to those who step for P.
    edges = min(n_workers, n_shards) - 1
    edges += min(n_workers, -(-m // steps.STEP_VARIANTS)) - 1
    points = 2 * FLOAT_BYTES * k * (sizes.n_samples + m)
    return edges * sums + n_shards * frequencies + points


def _result_bytes(sizes: Sizes, n_populations: int) -> int:
    """Room for the three stores and the report, before compression."""
    k, m, n = n_populations, sizes.n_variants, sizes.n_samples
    keys = 3 * (STORED_VARIANT_BYTES * m + STORED_PERSON_BYTES * n)
    # P in two stores and the encoder's first layer; Q and its standard errors.
    values = FLOAT_BYTES * ((3 * k + 1) * m + 2 * k * n)
    return n * sizes.row_bytes + keys + values + REPORT_BYTES


def _candidate_bytes(sizes: Sizes) -> int:
    """Room for all variants that may be kept, until those that are have been taken.

    At two bits; of a cohort whose calls do not fit into these, while that is not known.
    """
    return sizes.n_samples * packed_width(sizes.n_variants)


def _count_bytes(sizes: Sizes) -> int:
    """Room for the genotype counts of blocks, while genotypes are prepared."""
    blocks = plan.plan_blocks(sizes.n_samples, sizes.n_variants, sizes.sample_chunk)
    spec = schema.block_counts(len(blocks[0]))
    return 3 * np.dtype(spec.dtype).itemsize * sizes.n_variants * len(blocks)


def _prepare_bytes(sizes: Sizes) -> int:
    """Memory of a worker that decodes one block."""
    blocks = plan.plan_blocks(
        sizes.n_samples, sizes.n_variants, sizes.sample_chunk, sizes.itemsize
    )
    rows = len(blocks[0])
    window = min(decode.WINDOW_CELLS, rows * sizes.n_variants)
    chunk = min(sizes.variant_chunk, sizes.n_variants) * rows
    dosages = sizes.itemsize == DOSAGES.itemsize
    # Raw calls of the window, their codes and what is packed of them; those of a chunk,
    # with what they are decompressed from.
    code_bytes, call_bytes = (10, 8) if dosages else (5, 4)
    packed = rows * sizes.row_bytes
    counts = 3 * FLOAT_BYTES * sizes.n_variants
    return WORKER_BYTES + packed + counts + code_bytes * window + call_bytes * chunk


def _fit_bytes(
    sizes: Sizes, config: RunConfig, shard_bytes: int, sums_bytes: int, per_worker: int
) -> int:
    """Memory of a worker in the fit, without the shards that it keeps."""
    people = min(config.fit.start_people, sizes.n_samples)
    variants = min(config.fit.start_variants, sizes.n_variants)
    start = 4 * people * packed_width(variants) * sizes.itemsize
    # The shard in use and the one read ahead; sums tiled and not, the two being
    # added, and one for each level of the tree that waits for its neighbour.
    levels = math.ceil(math.log2(per_worker)) if per_worker > 1 else 0
    rounds = 2 * shard_bytes + (5 + levels) * sums_bytes
    # The models of a worker's people, and what chooses the basis from some of them.
    k = config.fit.n_populations
    model_bytes = FLOAT_BYTES * (2 * k + k * (k + 1) // 2)
    shard_people = shard_bytes // sizes.row_bytes
    models = per_worker * shard_people * model_bytes + steps.sample_bytes(k)
    # P as it is read, and laid out for either side.
    point = 3 * FLOAT_BYTES * k * sizes.n_variants
    return WORKER_BYTES + FIT_KERNEL_BYTES + max(start, rounds + models + point)


def _people_encoded(sizes: Sizes, config: RunConfig) -> int:
    """Most people that a task of the training encodes."""
    # Distillation, and the evaluation of joint training, take as many chunks at a time.
    chunks = neural.EVALUATION_BLOCKS * plan.chunk_people(sizes.sample_chunk)
    return max(config.train.batch_size // config.train.n_slices, chunks)


def _encoder_bytes(sizes: Sizes, config: RunConfig, n_people: int) -> int:
    """Memory of a worker that encodes some people at a time."""
    genotypes = 4 * min(n_people, sizes.n_samples) * sizes.row_bytes
    # P and the projector here and on the device, and P once more by position.
    model = 5 * FLOAT_BYTES * config.fit.n_populations * sizes.n_variants
    return WORKER_BYTES + ENCODER_KERNEL_BYTES + genotypes + model


def _check_bytes(sizes: Sizes, config: RunConfig) -> int:
    """Memory for the references of the fit check, and for making them."""
    people = min(config.apply.fit_check_people, sizes.n_samples)
    variants = min(sizes.n_variants, fit_check.MAX_VARIANTS)
    residuals = FLOAT_BYTES * people * variants
    # Of everybody in a group with every reference, on two halves, in float64.
    pairs = 2 * 2 * FLOAT_BYTES * people * projector.GROUP_PEOPLE
    candidates = fit_check.CANDIDATES * people * packed_width(variants) * sizes.itemsize
    # As they come, together, and on the device.
    making = 4 * residuals + 3 * candidates
    # The other workers keep calls that wait for the references, and then load them.
    waiting = 2 * residuals + fit_check.EARLY_BYTES
    return max(making, waiting) + 8 * pairs


def _joint_bytes(sizes: Sizes, config: RunConfig, n_workers: int) -> int:
    """Memory of a worker in a step of joint training."""
    chosen = config.neural
    frequencies = FLOAT_BYTES * config.fit.n_populations * sizes.n_variants
    # Sums of a worker's slices, one for each level of their tree, and two of other
    # workers'; P as it was written and laid out, the gradient, the natural one, the
    # step and the next P.
    gradients = (-(-chosen.n_slices // n_workers)).bit_length() + 2
    people = chosen.batch_size // chosen.n_slices
    return _encoder_bytes(sizes, config, people) + (gradients + 6) * frequencies


def check_budget(
    budget: Budget, *, worker_limit: int | None, driver_limit: int, free_disk: int
) -> None:
    """Refuse a run that cannot fit.

    Parameters
    ----------
    budget
        What it will need.
    worker_limit
        Memory of each worker, in bytes; None for any amount.
    driver_limit
        Memory of the driver's machine.
    free_disk
        Room where the results go.

    Raises
    ------
    InputError
        If memory or disk will not do; says how much there is, and what to change.
    """
    stage = max(budget.stage_bytes, key=budget.stage_bytes.__getitem__)
    if worker_limit is not None and budget.worker_bytes > worker_limit:
        settings = {
            "prepare": "rewrite the cohort with smaller chunks of samples",
            "fit": f"lower fit.shard_people (shards have {budget.shard_people})",
        }
        raise InputError(
            f"a worker needs about {mebibytes(budget.worker_bytes)} to {stage}, and "
            f"has {mebibytes(worker_limit)}; raise --worker-memory or "
            f"{settings.get(stage, 'use fewer workers, with more memory each')}"
        )
    if budget.driver_bytes > driver_limit:
        raise InputError(
            f"the driver needs about {mebibytes(budget.driver_bytes)}, and the machine "
            f"has {mebibytes(driver_limit)}; lower fit.n_secants or use a larger one"
        )
    if budget.disk_bytes > free_disk:
        raise InputError(
            f"the results need up to {mebibytes(budget.disk_bytes)} of disk, and "
            f"{mebibytes(free_disk)} are free; make room or name another --output"
        )


def mebibytes(n_bytes: int) -> str:
    """A number of bytes for people to read.

    >>> mebibytes(2**20), mebibytes(3 * 2**29)
    ('1 MiB', '1,536 MiB')
    """
    return f"{round(n_bytes / MIB):,} MiB"


def describe(budget: Budget, sizes: Sizes, n_workers: int) -> list[tuple[str, str]]:
    """A budget as lines of a table: what, and how much."""
    stages = ", ".join(
        f"{name} {mebibytes(size)}" for name, size in budget.stage_bytes.items()
    )
    return [
        ("cohort", f"{sizes.n_samples:,} people x {sizes.n_variants:,} variants"),
        ("workers", f"{n_workers}"),
        (
            "shards",
            f"{budget.n_shards:,} of at most {budget.shard_people:,} people, "
            f"{mebibytes(budget.shard_bytes)} packed",
        ),
        (
            "read per pass",
            f"{mebibytes(budget.pass_bytes)} of {mebibytes(budget.prepared_bytes)} "
            f"packed; each worker keeps up to {mebibytes(budget.cache_bytes)}",
        ),
        ("memory of a worker", f"{mebibytes(budget.worker_bytes)} ({stages})"),
        ("memory of the driver", mebibytes(budget.driver_bytes)),
        ("network per round", mebibytes(budget.network_bytes)),
        ("disk", mebibytes(budget.disk_bytes)),
    ]
