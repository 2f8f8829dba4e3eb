"""Whole runs with `method = "neural"`: accuracy, determinism, resuming, reports."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from estimator.metrics import rmse
from pipeline import cluster, devices, joint, projection, run
from pipeline.config import (
    ApplyConfig,
    FitConfig,
    NeuralConfig,
    QCConfig,
    RunConfig,
    TrainConfig,
)
from pipeline.neural import NeuralFit
from pipeline.prepared import hold_out, open_prepared
from pipeline.simulate import simulate
from pipeline.store import Store
from pipeline.tasks import Cluster
from tests import helpers
from tests.test_pipeline_run import read, tree_bytes

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

N_SAMPLES, N_VARIANTS, K, UNIT = 400, 800, 2, 50
CONFIG = RunConfig(
    qc=QCConfig(enabled=False),
    fit=FitConfig(method="neural", n_populations=K),
    train=TrainConfig(hidden_dims=(16,)),
    neural=NeuralConfig(epochs=4, batch_size=150, n_slices=3, held_out=0.1),
)


@pytest.fixture(scope="module")
def workers() -> Iterator[Cluster]:
    with cluster.local_cluster(devices.plan_workers([], 2)) as started:
        yield started


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cohort") / "cohort.vcz"
    sizes = {"n_samples": N_SAMPLES, "n_variants": N_VARIANTS, "n_populations": K}
    simulate(path, **sizes, fst=0.1, dirichlet=0.3, chunk_samples=UNIT, seed=3)  # type: ignore[arg-type]
    return path


@pytest.fixture(scope="module")
def finished(
    workers: Cluster, cohort: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    output = tmp_path_factory.mktemp("run") / "out"
    run.run(str(cohort), output, CONFIG, contextlib.nullcontext(workers))
    return output


@pytest.fixture(scope="module")
def likelihood_run(
    workers: Cluster, cohort: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    output = tmp_path_factory.mktemp("likelihood") / "out"
    fit = dataclasses.replace(CONFIG.fit, method="likelihood")
    config = dataclasses.replace(CONFIG, fit=fit)
    run.run(str(cohort), output, config, contextlib.nullcontext(workers))
    return output


def summary(output: Path) -> dict[str, Any]:
    return json.loads((output / "run.json").read_text())


def held_out_mask() -> np.ndarray:
    return np.arange(N_SAMPLES) // UNIT == 5


def test_neural__is_close_to_maximum_likelihood_on_everybody(
    finished: Path, likelihood_run: Path, cohort: Path
):
    truth = helpers.read_array(cohort, "simulated_ancestry_proportion")
    found = read(finished, "sample_ancestry_proportion")
    best = read(likelihood_run, "sample_ancestry_proportion")
    outside = held_out_mask()
    for people in (outside, ~outside):
        expected = rmse(best[people], truth[people])
        # A few dozen steps; `python -m tests.benchmarks.neural` has thousands.
        assert rmse(found[people], truth[people]) < 1.9 * expected
    reached = read(finished, "sample_log_likelihood").sum()
    maximum = read(likelihood_run, "sample_log_likelihood").sum()
    n_called = read(finished, "sample_n_called").sum()
    assert -2e-3 < (reached - maximum) / n_called < 0


def test_neural__reports_training_and_held_out_people(finished: Path):
    report = summary(finished)
    outside = held_out_mask()
    assert report["method"] == "neural"
    assert report["converged"] is None
    np.testing.assert_array_equal(read(finished, "sample_in_fit"), ~outside)
    log_likelihood = read(finished, "sample_log_likelihood")
    n_called = read(finished, "sample_n_called")
    for name, people in (("training", ~outside), ("held_out", outside)):
        figures = report["evaluation"][name]
        assert figures["n_samples"] == people.sum()
        assert figures["observed_genotypes"] == n_called[people].sum()
        expected = log_likelihood[people].sum()
        assert figures["log_likelihood"] == pytest.approx(expected, rel=1e-9)
        assert figures["refined_log_likelihood"] > figures["log_likelihood"]
    trace = report["log_likelihood_trace"]
    assert len(trace) == CONFIG.neural.epochs
    assert trace[-1] > trace[0]
    assert report["data_passes"] == CONFIG.neural.epochs + 4
    names = [stage["name"] for stage in report["stages"]]
    assert names == ["prepare", "fit", "train", "apply"]
    written = sum(len(data) for data in tree_bytes(finished).values())
    assert written <= report["plan"]["disk_bytes"]


def test_likelihood__reports_its_method_and_no_evaluation(likelihood_run: Path):
    report = summary(likelihood_run)
    assert report["method"] == "likelihood"
    assert "evaluation" not in report


def test_neural__same_bytes_on_one_worker(finished: Path, cohort: Path, tmp_path: Path):
    one = cluster.local_cluster(devices.plan_workers([], 2, n_workers=1))
    run.run(str(cohort), tmp_path / "out", CONFIG, one)
    assert tree_bytes(tmp_path / "out") == tree_bytes(finished)


class _KilledError(Exception):
    """Stands for a driver that dies: nothing after it runs."""


@pytest.mark.parametrize("n_epochs", [0, 2])
def test_neural__resumed_gives_the_same_bytes(
    workers: Cluster,
    finished: Path,
    cohort: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    n_epochs: int,
):
    take_step = NeuralFit._take_step
    epochs_begun = set()

    def take_step_or_die(self: NeuralFit, version: joint.Version, *rest: Any) -> float:
        value = take_step(self, version, *rest)
        epochs_begun.add(version.epoch)
        if version.epoch == n_epochs and version.step % 3 == 1:
            raise _KilledError
        return value

    arguments = (str(cohort), tmp_path / "out", CONFIG)
    with monkeypatch.context() as patch:
        patch.setattr(NeuralFit, "_take_step", take_step_or_die)
        with pytest.raises(_KilledError):
            run.run(*arguments, contextlib.nullcontext(workers))
    epochs_begun.clear()
    with monkeypatch.context() as patch:
        patch.setattr(NeuralFit, "_take_step", _recorder(take_step, epochs_begun))
        run.run(*arguments, contextlib.nullcontext(workers), resume=True)
    assert min(epochs_begun) == n_epochs
    assert tree_bytes(tmp_path / "out") == tree_bytes(finished)


def _recorder(take_step: Any, epochs: set[int]) -> Any:
    def recorded(self: NeuralFit, version: joint.Version, *rest: Any) -> float:
        epochs.add(version.epoch)
        return take_step(self, version, *rest)

    return recorded


def test_neural__held_out_people_change_nothing(
    workers: Cluster, finished: Path, cohort: Path, tmp_path: Path
):
    calls = helpers.read_array(cohort, "call_genotype").copy()
    outside = held_out_mask()
    # Other genotypes, as often alternate at each variant, so that quality control's
    # pooled frequencies stay.
    calls[:, outside] = calls[:, outside][:, ::-1]
    keys: dict[str, Any] = {
        name: helpers.read_array(cohort, name)
        for name in (
            *("contig_id", "variant_contig"),
            *("variant_position", "variant_allele", "variant_id"),
        )
    }
    source = tmp_path / "cohort.vcz"
    helpers.write_cohort(str(source), calls, chunks=(400, UNIT), **keys)
    output = tmp_path / "out"
    run.run(str(source), output, CONFIG, contextlib.nullcontext(workers))
    for name in ("variant_population_frequency", "sample_ancestry_proportion"):
        before, after = read(finished, name), read(output, name)
        if name.startswith("sample"):
            np.testing.assert_array_equal(before[outside], after[outside][::-1])
            before, after = before[~outside], after[~outside]
        np.testing.assert_array_equal(before, after)


def test_project__gives_the_encoders_answer_unless_told_to_refine(
    workers: Cluster, finished: Path, cohort: Path, tmp_path: Path
):
    found = {}
    for refine in (-1, 3):
        output = tmp_path / f"{refine}.zarr"
        config = dataclasses.replace(CONFIG, apply=ApplyConfig(refine=refine))
        projection.project(
            finished / "model.zarr",
            str(cohort),
            output,
            config,
            contextlib.nullcontext(workers),
        )
        found[refine] = Store.open(output, "ancestry").read(
            "sample_ancestry_proportion"
        )
    encoded = read(finished, "sample_ancestry_proportion")
    np.testing.assert_array_equal(found[-1], encoded)
    assert 1e-4 < rmse(found[3], encoded, match=False) < 0.05


@pytest.mark.parametrize("n_workers", [1, 2, 3, 4])
def test_place__says_what_each_worker_reads_next(n_workers: int):
    step, following = ([cast(Any, f"{n}-{i}") for i in range(4)] for n in "ab")
    spread = SimpleNamespace(spread=lambda n: [i * n_workers // n for i in range(n)])
    nothing: Any = None
    fit = NeuralFit(nothing, nothing, cast(Any, spread), nothing, "")
    placed = list(fit._place(step, following))
    assert [i for run, _, _ in placed for i in run] == [0, 1, 2, 3]
    for worker in range(n_workers):
        own = [(run, after) for run, after, of in placed if of == worker]
        firsts = [step[run.start] for run, _ in own]
        begins = following[own[0][0].start]
        assert [after for _, after in own] == [*firsts[1:], begins]
    # The last minibatch of an epoch, and one that has fewer slices.
    assert [after for _, after, _ in fit._place(step[:1], [])] == [None]


def test_hold_out__takes_whole_chunks_evenly_spaced(finished: Path):
    everybody = open_prepared(finished / "prepared.zarr")
    assert hold_out(everybody, 0) is everybody
    parted = hold_out(everybody, 0.25)
    assert [rows.start // UNIT for rows in parted.held_out] == [2, 6]
    assert parted.n_in_fit == N_SAMPLES - 2 * UNIT
    assert len(parted.blocks_in_fit) == 6
    assert everybody.n_in_fit == N_SAMPLES
    # Eight chunks are too few to give up a twenty-fifth.
    assert hold_out(everybody, 0.04).n_in_fit == N_SAMPLES
