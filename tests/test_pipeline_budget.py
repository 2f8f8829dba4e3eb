import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from estimator.packing import packed_width
from pipeline import budget, neural, train
from pipeline.budget import MIB, Budget, Sizes
from pipeline.config import ApplyConfig, FitConfig, QCConfig, RunConfig
from pipeline.devices import WORKER_BYTES
from pipeline.errors import InputError
from pipeline.plan import plan_blocks

SIZES = Sizes(40_000, 100_000, 1_000, 10_000)
CONFIG = RunConfig(fit=FitConfig(n_populations=8))


def plan(sizes: Sizes = SIZES, *, workers: int = 2, limit: int | None = None) -> Budget:
    return budget.plan_budget(sizes, CONFIG, workers, limit)


def check(planned: Budget, **changes: Any) -> None:
    limits: dict[str, Any] = {
        "worker_limit": None,
        "driver_limit": 2**40,
        "free_disk": 2**40,
    }
    budget.check_budget(planned, **{**limits, **changes})


def test_plan_budget__keeps_all_shards_where_there_is_room():
    planned = plan()
    assert planned.pass_bytes == 0
    assert planned.prepared_bytes == 40_000 * 25_000
    assert planned.n_shards * planned.shard_people >= 40_000
    check(planned)


def test_plan_budget__streams_what_does_not_fit_a_worker():
    unbounded = plan()
    limit = unbounded.worker_bytes - unbounded.cache_bytes // 2
    planned = plan(limit=limit)
    assert 0 < planned.cache_bytes < unbounded.cache_bytes
    assert 0 < planned.pass_bytes < planned.prepared_bytes
    assert planned.worker_bytes <= limit
    check(planned, worker_limit=limit)


def test_check_budget__a_large_cohort_fits_small_workers():
    limit = 700 * MIB
    check(plan(limit=limit), worker_limit=limit, driver_limit=1024 * MIB)


def test_plan_budget__people_do_not_change_a_worker_that_streams():
    """Four times the people: the driver grows by Q and the ids, a worker by models."""
    limit = 700 * MIB
    more = dataclasses.replace(SIZES, n_samples=4 * SIZES.n_samples)
    small, large = plan(limit=limit), plan(more, limit=limit)
    # Two more levels of sums; and the models of its people, a few floats each.
    sums, models = 2 * 4 * 44 * SIZES.n_variants, 4 * 52 * 3 * SIZES.n_samples
    assert large.worker_bytes - small.worker_bytes <= sums + models
    points = 4 * CONFIG.fit.n_secants + 8
    per_person = points * 4 * 8 + budget.PERSON_BYTES
    grown = large.driver_bytes - small.driver_bytes
    assert grown == 3 * SIZES.n_samples * per_person


def test_plan_budget__a_gpu_has_libraries_that_take_room():
    on_cores = plan().stage_bytes
    on_gpus = budget.plan_budget(SIZES, CONFIG, 2, None, on_gpus=True).stage_bytes
    more = {name: on_gpus[name] - size for name, size in on_cores.items()}
    libraries = budget.GPU_LIBRARY_BYTES
    assert more == {
        "prepare": 0,
        "fit": libraries,
        "train": libraries,
        "apply": libraries,
    }


def plan_joint(*, workers: int = 2, **changes: Any) -> Budget:
    fit = FitConfig(method="neural", **{"n_populations": 8, **changes})
    return budget.plan_budget(SIZES, RunConfig(fit=fit), workers, None)


def test_plan_budget__joint_training_holds_gradients_of_the_frequencies():
    """Of many populations; of few, the people judged at a time take more."""
    joint, single = (plan_joint(workers=n, n_populations=40) for n in (2, 1))
    frequencies = 4 * 40 * SIZES.n_variants
    # Two levels of sums and two sums more; what the step reads, makes and leaves.
    held = 5 * frequencies + 10 * frequencies
    assert joint.stage_bytes["train"] == alone_bytes(512 // 4) + held
    assert single.stage_bytes["train"] - joint.stage_bytes["train"] == frequencies
    assert joint.network_bytes == 4 * frequencies
    few = plan_joint(n_populations=2)
    assert few.stage_bytes["train"] == alone_bytes(16 * 50) + 5 * 8 * SIZES.n_variants


def test_plan_budget__joint_training_reads_everything_in_each_epoch():
    assert plan_joint().pass_bytes == plan_joint().prepared_bytes
    assert plan().pass_bytes == 0


def test_plan_budget__joint_training_distils_with_the_starting_values():
    """Where the sums of the fit are small, features of people are what takes memory."""
    joint = plan_joint(n_populations=1, shard_people=50)
    assert joint.stage_bytes["fit"] >= joint.cache_bytes + alone_bytes(16 * 50)


def alone_bytes(n_people: int) -> int:
    """What a worker holds of the genotypes that it encodes, and its libraries."""
    row_bytes = packed_width(SIZES.n_variants)
    return WORKER_BYTES + budget.ENCODER_KERNEL_BYTES + 4 * n_people * row_bytes


def test_plan_budget__encodes_no_more_people_than_there_are():
    few = budget.plan_budget(dataclasses.replace(SIZES, n_samples=10), CONFIG, 2, None)
    model = 5 * 4 * 8 * SIZES.n_variants
    assert few.stage_bytes["train"] == alone_bytes(10) + model
    check = budget._check_bytes(dataclasses.replace(SIZES, n_samples=10), CONFIG)
    assert few.stage_bytes["apply"] == alone_bytes(10) + model + check


def test_plan_budget__knows_how_many_chunks_distillation_takes():
    assert train._FEATURE_BLOCKS == neural.EVALUATION_BLOCKS


def test_plan_budget__disk_has_room_for_every_store():
    """P in two stores with the first layer, keys in three, beside the genotypes.

    These are there twice, and counted by block, until quality control is done.
    """
    fewer = plan(dataclasses.replace(SIZES, n_variants=SIZES.n_variants - 4_000))
    points = 4 * 8 * (3 * CONFIG.fit.n_secants + 9)
    per_variant = 4 * (3 * 8 + 1) + 3 * budget.STORED_VARIANT_BYTES + points
    n_blocks = len(plan_blocks(SIZES.n_samples, SIZES.n_variants, SIZES.sample_chunk))
    per_variant += 3 * 2 * n_blocks
    packed = 2 * SIZES.n_samples * 1_000
    assert plan().disk_bytes - fewer.disk_bytes == 4_000 * per_variant + packed
    unchecked = dataclasses.replace(CONFIG, qc=QCConfig(enabled=False))
    less = budget.plan_budget(SIZES, unchecked, 2, None).disk_bytes
    assert plan().disk_bytes - less == SIZES.n_samples * SIZES.n_variants // 4


@given(
    st.integers(1, 10**6),
    st.integers(1, 10**6),
    st.integers(1, 10**4),
    st.integers(1, 64),
    st.integers(0, 8 * 2**30),
)
def test_plan_budget__never_keeps_more_than_there_is_room_for(
    n_samples: int, n_variants: int, sample_chunk: int, workers: int, limit: int
):
    sizes = Sizes(n_samples, n_variants, sample_chunk, 10_000)
    planned = plan(sizes, workers=workers, limit=limit)
    unlimited = plan(sizes, workers=workers)
    without = unlimited.stage_bytes["fit"] - unlimited.cache_bytes
    assert planned.cache_bytes <= CONFIG.fit.cache_bytes
    assert planned.cache_bytes == 0 or without + planned.cache_bytes <= limit
    assert 0 <= planned.pass_bytes <= planned.n_shards * planned.shard_bytes
    width = packed_width(n_variants)
    assert planned.shard_bytes == planned.shard_people * width


@pytest.mark.parametrize("itemsize", [2, 8])
def test_plan_budget__counts_the_bytes_of_the_encoding(itemsize: int):
    wider = plan(dataclasses.replace(SIZES, itemsize=itemsize))
    narrow = plan(SIZES)
    assert wider.prepared_bytes == itemsize * narrow.prepared_bytes
    assert wider.shard_bytes == wider.shard_people * itemsize * packed_width(100_000)
    assert wider.shard_bytes <= CONFIG.fit.shard_bytes
    added = wider.prepared_bytes - narrow.prepared_bytes
    assert wider.disk_bytes - narrow.disk_bytes == added
    for stage, size in narrow.stage_bytes.items():
        assert wider.stage_bytes[stage] > size


def test_plan_budget__fit_check_is_of_one_size_for_large_cohorts():
    def added(**changes: int) -> int:
        sizes = dataclasses.replace(SIZES, **changes)
        without = dataclasses.replace(CONFIG, apply=ApplyConfig(fit_check_people=0))
        both = (budget.plan_budget(sizes, each, 2, None) for each in (CONFIG, without))
        planned, least = (each.stage_bytes["apply"] for each in both)
        return planned - least

    assert 100 * MIB < added() < 250 * MIB
    assert added(n_samples=10**6, n_variants=10**6) == added()
    assert added(n_samples=100, n_variants=1_000) < 10 * MIB


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (
            {"worker_limit": 500 * MIB},
            r"a worker needs about \d+ MiB to \w+, and has 500 MiB; raise "
            r"--worker-memory",
        ),
        (
            {"driver_limit": 100 * MIB},
            r"the driver needs about \d+ MiB, and the machine has 100 MiB; lower",
        ),
        (
            {"free_disk": 10 * MIB},
            r"the results need up to [\d,]+ MiB of disk, and 10 MiB are free; make",
        ),
    ],
)
def test_check_budget__says_how_much_there_is_and_what_to_change(
    limits: dict[str, int], message: str
):
    planned = plan(limit=limits.get("worker_limit"))
    with pytest.raises(InputError, match=message):
        check(planned, **limits)


def test_check_budget__names_the_setting_of_a_fit_that_is_too_large():
    config = RunConfig(fit=FitConfig(n_populations=8, shard_people=20_000))
    planned = budget.plan_budget(SIZES, config, 2, 700 * MIB)
    with pytest.raises(InputError, match=r"lower fit\.shard_people \(shards have 5100"):
        check(planned, worker_limit=700 * MIB)


def test_describe__has_every_figure():
    lines = dict(budget.describe(plan(limit=700 * MIB), SIZES, 2))
    assert lines["cohort"] == "40,000 people x 100,000 variants"
    assert lines["shards"] == "40 of at most 1,000 people, 24 MiB packed"
    assert set(lines) == {
        "cohort",
        "workers",
        "shards",
        "read per pass",
        "memory of a worker",
        "memory of the driver",
        "network per round",
        "disk",
    }
