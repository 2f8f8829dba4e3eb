"""Whole runs on a local cluster: results, determinism, resuming, refusals."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from estimator.metrics import match_components, rmse
from pipeline import checkpoint, cluster, devices, projection, run, store
from pipeline.config import ApplyConfig, FitConfig, QCConfig, RunConfig, TrainConfig
from pipeline.errors import InputError
from pipeline.simulate import simulate
from pipeline.store import Store
from pipeline.tasks import Cluster
from tests import helpers, oracle

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

SHARED = Path(__file__).parents[2] / "shared" / "data" / "hapmap3"
N_SAMPLES, N_VARIANTS, K = 240, 1_500, 3


@pytest.fixture(scope="module")
def workers() -> Iterator[Cluster]:
    with cluster.local_cluster(devices.plan_workers([], 2)) as started:
        yield started


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cohort") / "cohort.vcz"
    simulate(
        path,
        n_samples=N_SAMPLES,
        n_variants=N_VARIANTS,
        n_populations=K,
        fst=0.1,
        dirichlet=0.3,
        chunk_samples=100,
        chunk_variants=400,
        seed=3,
    )
    return path


def minimal_config(k: int = K, **fit: Any) -> RunConfig:
    return RunConfig(
        qc=QCConfig(enabled=False),
        fit=FitConfig(n_populations=k, **fit),
        train=TrainConfig(epochs=2, batch_size=128),
    )


@pytest.fixture(scope="module")
def finished(
    workers: Cluster, cohort: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    output = tmp_path_factory.mktemp("run") / "out"
    ready = contextlib.nullcontext(workers)
    run.run(str(cohort), output, minimal_config(), ready, write_to_cohort=True)
    return output


def run_genotypes(
    genotypes: np.ndarray, folder: Path, workers: Cluster, config: RunConfig
) -> Path:
    source = folder / "cohort.vcz"
    helpers.write_cohort(str(source), genotypes, chunks=(400, 100))
    run.run(str(source), folder / "out", config, contextlib.nullcontext(workers))
    return folder / "out"


def read(output: Path, name: str) -> np.ndarray:
    return Store.open(output / "ancestry.zarr", "ancestry").read(name)


def tree_bytes(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for store in ("prepared.zarr", "model.zarr", "ancestry.zarr")
        for path in sorted((folder / store).rglob("*"))
        if path.is_file()
    }


def test_run__finds_the_simulated_ancestry(finished: Path, cohort: Path):
    truth = helpers.read_array(cohort, "simulated_ancestry_proportion")
    q = read(finished, "sample_ancestry_proportion")
    assert q.dtype == np.float32
    assert q.min() >= 0
    np.testing.assert_allclose(q.sum(axis=1), 1, atol=1e-6)
    assert rmse(q, truth) < 0.05


def test_project__knows_who_was_in_the_fit(
    finished: Path, cohort: Path, workers: Cluster, tmp_path: Path
):
    # Of the same cohort every third person has others' genotypes, and another place.
    calls = helpers.read_array(cohort, "call_genotype")
    newcomer = np.arange(N_SAMPLES) % 3 == 0
    rng = np.random.default_rng(1)
    p = helpers.read_array(cohort, "simulated_population_frequency")
    q = helpers.read_array(cohort, "simulated_ancestry_proportion")
    drawn = rng.random((*calls.shape[:2], 2)) < (p @ q.T)[..., None]
    calls = np.where(newcomer[:, None] & (calls >= 0), drawn, calls).astype(np.int8)
    order = rng.permutation(N_SAMPLES)
    source, output = tmp_path / "cohort.vcz", tmp_path / "ancestry.zarr"
    shutil.copytree(cohort, source)
    group = zarr.open_group(str(source), mode="r+")
    group["call_genotype"][:] = calls[:, order]
    config, ready = minimal_config(), contextlib.nullcontext(workers)
    projection.project(finished / "model.zarr", str(source), output, config, ready)
    errors = np.empty((N_SAMPLES, K), np.float32)
    name = "sample_ancestry_proportion_se"
    errors[order] = Store.open(output, "ancestry").read(name)
    before = read(finished, name)
    np.testing.assert_allclose(errors[~newcomer], before[~newcomer], rtol=1e-3)
    # The noise of P, which is not that of newcomers, makes theirs longer.
    inside = (q > 0.2) & (q < 0.8)
    gained = (errors / before)[inside & newcomer[:, None]]
    assert np.median(gained) > 1.05


def test_run__log_likelihood_is_that_of_the_arrays_published(
    finished: Path, cohort: Path
):
    calls = helpers.read_array(cohort, "call_genotype")
    counts = np.where((calls < 0).any(axis=2), -1, calls.sum(axis=2)).T
    expected = oracle.log_likelihood(
        counts,
        read(finished, "sample_ancestry_proportion").astype(np.float64),
        read(finished, "variant_population_frequency").T.astype(np.float64),
    )
    summary = json.loads((finished / "run.json").read_text())
    assert summary["observed_genotypes"] == np.count_nonzero(counts >= 0)
    gap = abs(summary["log_likelihood"] - expected) / summary["observed_genotypes"]
    assert gap < 1e-8


@pytest.mark.parametrize("seed", [3, 4])
def test_run__of_one_population_is_in_closed_form(
    seed: int, workers: Cluster, tmp_path: Path
):
    cohort, output = tmp_path / "cohort.vcz", tmp_path / "out"
    simulate(cohort, n_samples=200, n_variants=600, n_populations=2, seed=seed, fst=0.1)
    ready = contextlib.nullcontext(workers)
    summary = run.run(str(cohort), output, minimal_config(1), ready).summary
    calls = helpers.read_array(cohort, "call_genotype")
    called = calls.min(axis=2) >= 0
    counts = np.where(called, calls.sum(axis=2), 0).sum(axis=1)
    n_alleles = 2 * called.sum(axis=1)
    p = (counts / n_alleles).clip(1e-5, 1 - 1e-5)
    expected = float(counts @ np.log(p) + (n_alleles - counts) @ np.log1p(-p))
    found = read(output, "variant_population_frequency")[:, 0]
    np.testing.assert_allclose(found, p, atol=2e-6)
    assert summary["log_likelihood"] == pytest.approx(expected, rel=1e-7)
    # The start is the maximum: no sample is read, and nothing is searched.
    assert summary["data_passes"] == len(summary["log_likelihood_trace"]) == 1
    assert summary["converged"] is True
    assert (read(output, "sample_ancestry_proportion") == 1).all()
    assert (read(output, "sample_ancestry_proportion_se") == 0).all()


def test_run__json_has_the_stages_and_their_cost(finished: Path):
    summary = json.loads((finished / "run.json").read_text())
    names = [stage["name"] for stage in summary["stages"]]
    assert names == ["prepare", "fit", "train", "apply"]
    for stage in summary["stages"]:
        assert stage["wall_seconds"] > 0
        assert stage["cpu_seconds"] > 0
        assert stage["bytes_read"] > 0
        assert set(stage["peak_rss_bytes"]) == {"driver", "worker"}
    assert summary["converged"] is True
    assert summary["data_passes"] == len(summary["log_likelihood_trace"]) + 2
    assert summary["n_populations"] == K
    assert 0 < summary["encoder_rmse"] < 0.05


def test_run__leaves_only_results(finished: Path):
    assert sorted(path.name for path in finished.iterdir()) == [
        "ancestry.zarr",
        "model.zarr",
        "prepared.zarr",
        "report.html",
        "run.json",
    ]


def test_run__same_bytes_on_one_worker(finished: Path, cohort: Path, tmp_path: Path):
    one = cluster.local_cluster(devices.plan_workers([], 2, n_workers=1))
    run.run(str(cohort), tmp_path / "out", minimal_config(), one)
    assert tree_bytes(tmp_path / "out") == tree_bytes(finished)


def chunk_bytes(output: Path) -> dict[str, bytes]:
    """Every chunk of every array; attributes name the settings."""
    return {
        name: content
        for name, content in tree_bytes(output).items()
        if not Path(name).name.startswith(".")
    }


@pytest.mark.parametrize(
    ("n_workers", "cache_bytes"),
    [
        pytest.param(3, 0, marks=pytest.mark.soak),
        pytest.param(1, 0, marks=pytest.mark.soak),
        pytest.param(2, 0, marks=pytest.mark.soak),
        pytest.param(3, FitConfig().cache_bytes, marks=pytest.mark.soak),
    ],
)
def test_run__same_bytes_on_any_workers_with_shards_cached_or_streamed(
    finished: Path, cohort: Path, tmp_path: Path, n_workers: int, cache_bytes: int
):
    others = cluster.local_cluster(devices.plan_workers([], 2, n_workers=n_workers))
    config = minimal_config(cache_bytes=cache_bytes)
    run.run(str(cohort), tmp_path / "out", config, others)
    assert chunk_bytes(tmp_path / "out") == chunk_bytes(finished)


@pytest.mark.soak
def test_run__another_seed_finds_the_same_optimum(
    workers: Cluster, finished: Path, cohort: Path, tmp_path: Path
):
    config = RunConfig(**{**vars(minimal_config()), "seed": 7})
    run.run(str(cohort), tmp_path / "out", config, contextlib.nullcontext(workers))
    first, second = (
        json.loads((folder / "run.json").read_text())
        for folder in (finished, tmp_path / "out")
    )
    gap = abs(first["log_likelihood"] - second["log_likelihood"])
    assert gap / first["observed_genotypes"] < 1e-7


def test_run__resuming_a_finished_run_changes_nothing(
    workers: Cluster, finished: Path, cohort: Path
):
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()}
    arguments = (str(cohort), finished)
    nothing = contextlib.nullcontext(workers)
    result = run.run(*arguments, minimal_config(), nothing, resume=True)
    assert result.summary == json.loads((finished / "run.json").read_text())
    with pytest.raises(InputError, match="finished run had another"):
        run.run(*arguments, minimal_config(2), nothing, resume=True)
    assert before == {
        p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()
    }


class _KilledError(Exception):
    """Stands for a driver that dies: nothing after it runs."""


def _die_after(monkeypatch: pytest.MonkeyPatch, n_rounds: int) -> None:
    save = checkpoint.save_search

    def save_and_die(folder: Path, search: Any, evaluation: Any, point: Any) -> None:
        save(folder, search, evaluation, point)
        if evaluation.round_number == n_rounds:
            raise _KilledError

    monkeypatch.setattr(checkpoint, "save_search", save_and_die)


def test_run__resumed_in_the_fit_gives_the_same_bytes(
    workers: Cluster,
    finished: Path,
    cohort: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    output = tmp_path / "out"
    arguments = (str(cohort), output, minimal_config())
    with monkeypatch.context() as patch:
        _die_after(patch, 3)
        with pytest.raises(_KilledError):
            run.run(*arguments, contextlib.nullcontext(workers))
    assert not (output / "ancestry.zarr").exists()
    with pytest.raises(InputError, match="pass --resume to finish"):
        run.run(*arguments, contextlib.nullcontext(workers))
    other = minimal_config(n_secants=2)
    with pytest.raises(InputError, match="another configuration"):
        run.run(
            str(cohort), output, other, contextlib.nullcontext(workers), resume=True
        )
    run.run(*arguments, contextlib.nullcontext(workers), resume=True)
    assert tree_bytes(output) == tree_bytes(finished)


@pytest.mark.parametrize("n_moves", [1, 4])
def test_run__resumed_while_publishing_moves_the_rest(
    workers: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_moves: int
):
    source, output = tmp_path / "cohort.vcz", tmp_path / "out"
    helpers.write_cohort(str(source), helpers.random_genotypes(60, 20))
    arguments = (str(source), output, minimal_config(1))
    move = store.publish
    moved: list[Path] = []

    def move_or_die(built: Path, target: Path) -> None:
        if len(moved) == n_moves:
            raise _KilledError
        moved.append(target)
        move(built, target)

    with monkeypatch.context() as patch:
        patch.setattr(store, "publish", move_or_die)
        with pytest.raises(_KilledError):
            run.run(*arguments, contextlib.nullcontext(workers))
    # No cluster: there is nothing left to compute.
    nobody: Any = None
    run.run(*arguments, nobody, resume=True)
    assert not (output / ".work").exists()
    assert len(list(output.iterdir())) == 5


def test_run__overwrite_keeps_the_old_result_until_the_new_one_is_done(
    workers: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    output = run_genotypes(
        helpers.random_genotypes(60, 20), tmp_path, workers, minimal_config(1)
    )
    before = tree_bytes(output)
    arguments = (str(tmp_path / "cohort.vcz"), output, minimal_config(2))
    with pytest.raises(InputError, match="has prepared.zarr already"):
        run.run(*arguments, contextlib.nullcontext(workers))
    with monkeypatch.context() as patch:
        _die_after(patch, 1)
        with pytest.raises(_KilledError):
            run.run(*arguments, contextlib.nullcontext(workers), overwrite=True)
    assert tree_bytes(output) == before
    run.run(*arguments, contextlib.nullcontext(workers), overwrite=True)
    assert read(output, "sample_ancestry_proportion").shape == (20, 2)


def test_run__one_population_has_the_pooled_frequencies(
    workers: Cluster, tmp_path: Path
):
    calls = helpers.random_genotypes(60, 20)
    output = run_genotypes(calls, tmp_path, workers, minimal_config(1))
    called = (calls >= 0).all(axis=2)
    n_alternate = np.where(called, calls.sum(axis=2), 0).sum(axis=1)
    pooled = n_alternate / (2 * called.sum(axis=1))
    p = read(output, "variant_population_frequency")[:, 0]
    np.testing.assert_allclose(p, np.clip(pooled, 1e-5, 1 - 1e-5), atol=2e-6)
    assert (read(output, "sample_ancestry_proportion") == 1).all()


@pytest.mark.parametrize(("n_variants", "n_samples"), [(40, 1), (1, 20)])
def test_run__one_person_or_one_variant(
    workers: Cluster, tmp_path: Path, n_variants: int, n_samples: int
):
    calls = helpers.random_genotypes(n_variants, n_samples, missing=0)
    output = run_genotypes(calls, tmp_path, workers, minimal_config(1))
    p = read(output, "variant_population_frequency")[:, 0]
    pooled = calls.mean(axis=(1, 2))
    np.testing.assert_allclose(p, np.clip(pooled, 1e-5, 1 - 1e-5), atol=2e-6)


@pytest.mark.parametrize(
    ("n_variants", "n_samples", "message"),
    [
        (60, 9, "5 populations need 10 people, and 9 passed .* set -k to 4 or less"),
        (4, 60, "5 populations need at least as many variants, and 4 passed"),
    ],
)
def test_run__refuses_more_populations_than_the_data_can_carry(
    workers: Cluster, tmp_path: Path, n_variants: int, n_samples: int, message: str
):
    calls = helpers.random_genotypes(n_variants, n_samples)
    with pytest.raises(InputError, match=message):
        run_genotypes(calls, tmp_path, workers, minimal_config(5))
    assert not (tmp_path / "out").exists()


def test_run__says_that_the_likelihood_is_flat_where_rounds_run_out(
    workers: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    calls = helpers.random_genotypes(120, 60)
    output = run_genotypes(calls, tmp_path, workers, minimal_config(4, max_rounds=4))
    summary = json.loads((output / "run.json").read_text())
    assert summary["converged"] is False
    (line,) = (r.getMessage() for r in caplog.records if "converge" in r.getMessage())
    best = np.maximum.accumulate(summary["log_likelihood_trace"])
    gain = (best[-1] - best[0]) / summary["observed_genotypes"]
    assert f"in 4 rounds: the last 3 gained {gain:.1e} a genotype" in line
    assert "lower -k, or raise fit.max_rounds" in line


def test_run__more_than_twenty_populations(workers: Cluster, tmp_path: Path):
    calls = helpers.random_genotypes(120, 60)
    config = minimal_config(22, max_rounds=4)
    output = run_genotypes(calls, tmp_path, workers, config)
    q = read(output, "sample_ancestry_proportion")
    assert q.shape == (60, 22)
    np.testing.assert_allclose(q.sum(axis=1), 1, atol=1e-6)
    trace = json.loads((output / "run.json").read_text())["log_likelihood_trace"]
    assert trace[-1] > trace[0]


def test_run__person_without_calls_is_nan_and_counted(workers: Cluster, tmp_path: Path):
    calls = helpers.random_genotypes(60, 20)
    calls[:, 3] = -1
    output = run_genotypes(calls, tmp_path, workers, minimal_config(2))
    q = read(output, "sample_ancestry_proportion")
    assert np.isnan(q[3]).all()
    assert np.isfinite(np.delete(q, 3, axis=0)).all()
    assert read(output, "sample_n_called")[3] == 0
    assert json.loads((output / "run.json").read_text())["n_samples_uncalled"] == 1


def test_run__monomorphic_variants_stay_and_uncalled_and_multiallelic_ones_go(
    workers: Cluster, tmp_path: Path
):
    calls = helpers.random_genotypes(60, 20)
    calls[7], calls[8], calls[9] = 0, 1, -1
    source = tmp_path / "cohort.vcz"
    alleles = np.array([["A", "C", ""]] * 60, dtype=object)
    alleles[11, 2] = "G"
    helpers.write_cohort(str(source), calls, variant_allele=alleles)
    output = tmp_path / "out"
    run.run(str(source), output, minimal_config(2), contextlib.nullcontext(workers))
    p = read(output, "variant_population_frequency")
    assert p.shape == (58, 2)
    np.testing.assert_allclose(p[7], 0, atol=1e-5)
    np.testing.assert_allclose(p[8], 1, atol=1.001e-5)
    steps = json.loads((output / "run.json").read_text())["qc_steps"]
    removed = {step["name"]: step["removed"] for step in steps}
    assert removed == {"biallelic": 1, "called": 1}


def test_run__people_who_fail_the_call_rate_are_projected_not_fitted(
    workers: Cluster, cohort: Path, tmp_path: Path
):
    calls = helpers.read_array(cohort, "call_genotype").copy()
    calls[::2, 5] = -1
    config = RunConfig(
        qc=QCConfig(min_maf=0, max_ld_r2=1), fit=FitConfig(n_populations=K)
    )
    output = run_genotypes(calls, tmp_path, workers, config)
    in_fit = read(output, "sample_in_fit")
    assert np.flatnonzero(~in_fit).tolist() == [5]
    truth = helpers.read_array(cohort, "simulated_ancestry_proportion")
    q = read(output, "sample_ancestry_proportion")
    assert rmse(q, truth) < 0.05
    assert abs(q[5].sum() - 1) < 1e-6


def test_project__new_people_get_the_maximum_of_their_likelihood(
    workers: Cluster, finished: Path, cohort: Path, tmp_path: Path
):
    calls = helpers.read_array(cohort, "call_genotype")[:, :30]
    keys: dict[str, Any] = {
        name: helpers.read_array(cohort, name)
        for name in (
            "variant_contig",
            "contig_id",
            "variant_position",
            "variant_allele",
        )
    }
    swapped: dict[str, Any] = {**keys, "variant_allele": keys["variant_allele"].copy()}
    swapped["variant_allele"][::2] = swapped["variant_allele"][::2, ::-1]
    turned = calls.copy()
    turned[::2] = np.where(calls[::2] < 0, -1, 1 - calls[::2])
    results = []
    for name, genotypes, arrays in (("as-is", calls, keys), ("swap", turned, swapped)):
        source = tmp_path / f"{name}.vcz"
        helpers.write_cohort(str(source), genotypes, chunks=(400, 100), **arrays)
        output = tmp_path / f"{name}.zarr"
        match = projection.project(
            finished / "model.zarr",
            str(source),
            output,
            minimal_config(),
            contextlib.nullcontext(workers),
        )
        assert match.n_absent == 0
        assert match.n_swapped == (N_VARIANTS // 2 if name == "swap" else 0)
        results.append(
            Store.open(output, "ancestry").read("sample_ancestry_proportion")
        )
    np.testing.assert_array_equal(results[0], results[1])
    fitted = read(finished, "sample_ancestry_proportion")[:30]
    np.testing.assert_allclose(results[0], fitted, atol=2e-5)


def test_project__encoder_alone_is_close_and_refining_closes_the_gap(
    workers: Cluster, finished: Path, cohort: Path, tmp_path: Path
):
    config = RunConfig(apply=ApplyConfig(refine=0))
    output = tmp_path / "encoder.zarr"
    arguments = (finished / "model.zarr", str(cohort), output, config)
    projection.project(*arguments, contextlib.nullcontext(workers))
    encoded = Store.open(output, "ancestry").read("sample_ancestry_proportion")
    refined = read(finished, "sample_ancestry_proportion")
    difference = rmse(encoded, refined, match=False)
    assert 1e-4 < difference < 0.03
    with pytest.raises(InputError, match="exists already; pass --overwrite"):
        projection.project(*arguments, contextlib.nullcontext(workers))


# Log-likelihood of ADMIXTURE 1.3's published Q and P on the same data.
ADMIXTURE = {
    1: -4169323.01,
    2: -3835365.43,
    3: -3799887.17,
    4: -3789058.69,
    5: -3778955.72,
}


@pytest.mark.skipif(not SHARED.exists(), reason="hapmap3 is not beside the project")
@pytest.mark.parametrize(
    "k",
    [3, *(pytest.param(k, marks=pytest.mark.soak) for k in (1, 2, 4, 5))],
)
def test_run__reaches_admixture_on_hapmap3(workers: Cluster, tmp_path: Path, k: int):
    output = tmp_path / "out"
    source = str(SHARED / "hapmap3.bed")
    # With K = 4 and 5 the published fit is passed long before ours has converged.
    config = minimal_config(k, max_rounds=120)
    run.run(source, output, config, contextlib.nullcontext(workers))
    summary = json.loads((output / "run.json").read_text())
    assert summary["n_variants"] == 13_928
    assert summary["log_likelihood"] >= ADMIXTURE[k] - 0.5
    labels = np.loadtxt(SHARED / "labels.tsv", str, skiprows=1, usecols=1)
    flagged = read(output, "sample_poorly_described")
    if k == 2:
        # Mexican Americans have ancestors in a third population.
        assert flagged[labels == "MEX"].mean() >= 0.9
        assert flagged[labels != "MEX"].mean() <= 0.02
    if k == 3:
        assert not flagged.any()
        published = np.loadtxt(SHARED / "admixture_ref" / "hapmap3.3.Q")
        q = read(output, "sample_ancestry_proportion")
        assert rmse(q, published) < 0.002
        order = match_components(q, published)
        errors = read(output, "sample_ancestry_proportion_se")[:, order]
        # Of ADMIXTURE's own block bootstrap; 0 in people of one population.
        bootstrap = np.loadtxt(SHARED / "admixture_ref" / "hapmap3.3.Q_se")
        varied, inside = bootstrap > 0, (q[:, order] > 0) & (q[:, order] < 1)
        for chosen in (varied, varied & inside):
            assert 0.8 <= np.median(errors[chosen] / bootstrap[chosen]) <= 1.25


def test_run__writes_to_the_cohort_and_resumes_that(
    finished: Path, cohort: Path, workers: Cluster
):
    name = "sample_ancestry_proportion"
    written = helpers.read_array(cohort, name)
    np.testing.assert_array_equal(written, read(finished, name))
    before = {path: path.read_bytes() for path in cohort.rglob("[!.]*[0-9]")}
    arguments = (str(cohort), finished, minimal_config())
    ready = contextlib.nullcontext(workers)
    options: dict[str, Any] = {"resume": True, "write_to_cohort": True}
    # As if the driver had died between publishing the results and writing these.
    shutil.rmtree(cohort / name)
    run.run(*arguments, ready, **options)
    after = {path: path.read_bytes() for path in cohort.rglob("[!.]*[0-9]")}
    assert after == before
    other = minimal_config(k=2)
    with pytest.raises(InputError, match="already; pass --overwrite to replace it"):
        run.run(str(cohort), finished / "other", other, ready, write_to_cohort=True)
