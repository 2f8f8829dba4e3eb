"""Standard errors of people with few calls, in the fit and projected on a model."""

import contextlib
import itertools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import zarr

from estimator import training
from estimator.few_calls import FEW_CALLS
from pipeline import projection, run
from pipeline.config import ApplyConfig, FitConfig, QCConfig, RunConfig, TrainConfig
from pipeline.labels import read_labels
from pipeline.store import Store
from pipeline.tasks import Cluster
from tests import helpers, oracle
from tests.helpers import SerialCluster

SERIAL: contextlib.nullcontext[Cluster] = contextlib.nullcontext(SerialCluster())
K, N_PEOPLE, N_VARIANTS = 3, 256, 2_048
CALLS = (0, 1, 5, 10, 30, 100, 300)
# So many people of each of these, and the others have all of theirs.
EACH = 14
N_FEW = EACH * len(CALLS)
# In the cohort, those with few calls lie among the others.
FEW = np.arange(N_FEW) * 2


class Cohort(NamedTuple):
    """Paths of a cohort and of the same people with fewer calls, and their Q."""

    whole: str
    blanked: str
    ancestry: np.ndarray


def config(method: str = "jackknife") -> RunConfig:
    return RunConfig(
        qc=QCConfig(enabled=False),
        fit=FitConfig(n_populations=K, max_rounds=60),
        train=TrainConfig(epochs=0),
        apply=ApplyConfig(standard_errors=method, fit_check_people=0),
    )


def blank(calls: np.ndarray) -> np.ndarray:
    """The same calls, variants x people x 2, of some people only so many."""
    rng = np.random.default_rng(1)
    fewer = calls.copy()
    for person, n in zip(FEW, np.repeat(CALLS, EACH), strict=True):
        fewer[rng.permutation(len(calls))[n:], person] = -1
    return fewer


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "DISTILLATION_STEPS", 20)
        yield


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    folder = tmp_path_factory.mktemp("cohort")
    drawn = oracle.simulate(
        N_PEOPLE, N_VARIANTS, K, seed=5, fst=0.15, concentration=0.5, missing_rate=0
    )
    counts = drawn.genotypes
    calls = np.stack([counts >= 1, counts >= 2], axis=2).astype(np.int8)
    calls = calls.transpose(1, 0, 2)
    options: dict[str, Any] = {"chunks": (N_VARIANTS, 64)}
    return Cohort(
        helpers.write_cohort(folder / "whole.vcz", calls, **options),
        helpers.write_cohort(folder / "blanked.vcz", blank(calls), **options),
        drawn.ancestry,
    )


@pytest.fixture(scope="module")
def fitted(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("fit") / "out"
    run.run(cohort.blanked, output, config(), SERIAL)
    return output


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    store = Store.open(path, "ancestry")
    q, errors = "sample_ancestry_proportion", "sample_ancestry_proportion_se"
    return store.read(q), store.read(errors)


def apply(model: Path, source: str, path: Path, settings: RunConfig) -> np.ndarray:
    projection.project(model, source, path, settings, SERIAL)
    return read(path)[1]


def assert_cover(q: np.ndarray, errors: np.ndarray, ancestry: np.ndarray) -> None:
    """Intervals of people with few calls are wide, or hold the truth as they should."""
    assert np.isfinite(errors).all()
    assert (errors > 0).all()
    assert errors.max() <= 0.5
    few_q, few_errors = q[FEW].reshape(-1, EACH, K), errors[FEW].reshape(-1, EACH, K)
    assert (few_errors[0] == 0.5).all()
    assert np.isnan(few_q[0]).all()
    full = np.setdiff1d(np.arange(N_PEOPLE), FEW)
    orders = list(itertools.permutations(range(K)))
    best = min(orders, key=lambda o: np.abs(q[full] - ancestry[full][:, o]).sum())
    truth = ancestry[FEW][:, best].reshape(-1, EACH, K)
    low = np.clip(few_q - 1.96 * few_errors, 0, 1)
    high = np.clip(few_q + 1.96 * few_errors, 0, 1)
    widths = np.mean(high - low, axis=(1, 2))
    assert (widths[1:4] > 0.6).all()
    assert (np.diff(widths[1:]) < 0).all()
    held = ((low <= truth + 1e-6) & (truth - 1e-6 <= high))[4:]
    assert held.mean() > 0.9
    # Nobody of them is known as well as those with all of their calls.
    assert np.median(few_errors[-1]) > np.median(errors[full])


def test_few_calls__of_people_in_the_fit(fitted: Path, cohort: Cohort):
    assert_cover(*read(fitted / "ancestry.zarr"), cohort.ancestry)


@pytest.mark.parametrize("method", ["jackknife", "information"])
def test_few_calls__of_projected_people(
    method: str,
    fitted: Path,
    cohort: Cohort,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
):
    model, settings = fitted / "model.zarr", config(method)
    errors = apply(model, cohort.blanked, tmp_path / "few.zarr", settings)
    n_few = N_FEW - EACH
    said = [m for m in caplog.messages if "called genotypes" in m]
    assert [m.partition(" called")[0] for m in said] == [
        f"{n_few} of {N_PEOPLE} people have fewer than {FEW_CALLS}"
    ]
    assert_cover(read(tmp_path / "few.zarr")[0], errors, cohort.ancestry)
    caplog.clear()
    # Those with many calls have what they have beside others, to the bit.
    others = apply(model, cohort.whole, tmp_path / "all.zarr", settings)
    assert not [m for m in caplog.messages if "called genotypes" in m]
    full = np.setdiff1d(np.arange(N_PEOPLE), FEW)
    in_both = np.arange(full[0], N_PEOPLE, 2)
    assert (errors[in_both] == others[in_both]).all()


def test_few_calls__of_labelled_people(cohort: Cohort, tmp_path: Path):
    labels = tmp_path / "labels.txt"
    population = cohort.ancestry.argmax(axis=1)
    labelled = np.concatenate([FEW[-5:], np.arange(N_FEW * 2, N_PEOPLE)])
    labels.write_text("".join(f"s{i}\tpop{population[i]}\n" for i in labelled))
    given = read_labels(labels)
    run.run(cohort.blanked, tmp_path / "out", config(), SERIAL, labels=given)
    errors = read(tmp_path / "out" / "ancestry.zarr")[1]
    assert (errors[labelled] == 0).all()
    assert (np.delete(errors, labelled, axis=0) > 0).all()


@pytest.mark.parametrize("n_calls", [600, 1500])
def test_few_calls__in_few_blocks_are_no_sooner_certain(
    n_calls: int, fitted: Path, cohort: Cohort, tmp_path: Path
):
    # Side by side they lie in few blocks of variants, of which there are 16 in all.
    calls = zarr.open(cohort.whole)["call_genotype"][:]
    calls[n_calls:, FEW] = -1
    source = helpers.write_cohort(tmp_path / "c.vcz", calls, chunks=(N_VARIANTS, 64))
    apart = np.random.default_rng(2).permutation(N_VARIANTS)
    calls = zarr.open(cohort.whole)["call_genotype"][:]
    calls[np.ix_(apart[n_calls:], FEW)] = -1
    even = helpers.write_cohort(tmp_path / "e.vcz", calls, chunks=(N_VARIANTS, 64))
    model, settings = fitted / "model.zarr", config()
    settings = RunConfig(
        qc=settings.qc,
        fit=settings.fit,
        train=settings.train,
        apply=ApplyConfig(jackknife_blocks=16, fit_check_people=0),
    )
    narrow = apply(model, source, tmp_path / "c.zarr", settings)[FEW]
    spread = apply(model, even, tmp_path / "e.zarr", settings)[FEW]
    ratio = np.median(narrow / spread)
    assert (ratio > 1.1) if n_calls == 600 else (0.9 < ratio < 1.1)
