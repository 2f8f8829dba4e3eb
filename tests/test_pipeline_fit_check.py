"""The fit check of whole applications: who is flagged, what is kept, same bytes."""

import contextlib
import json
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr

from estimator import training
from pipeline import (
    apply,
    fit_check,
    group_tasks,
    project_ancestry,
    projection,
    run,
)
from pipeline.config import (
    ApplyConfig,
    FitConfig,
    QCConfig,
    RunConfig,
    TrainConfig,
    replace_values,
)
from pipeline.errors import InputError
from pipeline.group_tasks import VALUES
from pipeline.labels import read_labels
from pipeline.references import choose_references
from pipeline.schema import FIT_CHECK, REFERENCES
from pipeline.store import Store
from pipeline.tasks import Cluster
from tests import helpers, oracle
from tests.helpers import SerialCluster

SERIAL: contextlib.nullcontext[Cluster] = contextlib.nullcontext(SerialCluster())
N_PEOPLE, N_VARIANTS, N_GHOSTS = 256, 2_048, 26


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "DISTILLATION_STEPS", 20)
        yield


def config(k: int, **changes: Any) -> RunConfig:
    return RunConfig(
        qc=QCConfig(enabled=False),
        fit=FitConfig(n_populations=k, max_rounds=60),
        train=TrainConfig(epochs=0),
        apply=ApplyConfig(standard_errors="none", **changes),
    )


def diploid(genotypes: np.ndarray) -> np.ndarray:
    """Calls, variants x people x 2, of counts, people x variants."""
    calls = np.stack([genotypes >= 1, genotypes >= 2], axis=2).astype(np.int8)
    calls[genotypes < 0] = -1
    return calls.transpose(1, 0, 2)


def draw(seed: int, n_ghosts: int = N_GHOSTS) -> tuple[np.ndarray, np.ndarray]:
    """Genotypes and Q of people of three populations, the last ones of a fourth."""
    truth = oracle.simulate(N_PEOPLE, N_VARIANTS, 4, seed=7, fst=0.1)
    rng = np.random.default_rng(seed)
    ancestry = np.zeros((N_PEOPLE, 4))
    ancestry[:, :3] = rng.dirichlet([0.3] * 3, N_PEOPLE)
    ancestry[N_PEOPLE - n_ghosts :] = [0, 0, 0, 1]
    genotypes = rng.binomial(2, ancestry @ truth.frequencies).astype(np.int8)
    genotypes[rng.random(genotypes.shape) < 0.02] = -1
    return genotypes, ancestry


def write(folder: Path, genotypes: np.ndarray, **changes: Any) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    options = {"chunks": (N_VARIANTS, 64), **changes}
    return helpers.write_cohort(folder / "cohort.vcz", diploid(genotypes), **options)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("cohort"), draw(0)[0])


@pytest.fixture(scope="module")
def one_too_few(cohort: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("three") / "out"
    run.run(cohort, output, config(3), SERIAL)
    return output


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort of the three populations alone."""
    folder = tmp_path_factory.mktemp("right")
    source = write(folder, draw(2, n_ghosts=0)[0])
    run.run(source, folder / "out", config(3), SERIAL)
    return folder / "out"


def opened(output: Path, name: str = "ancestry.zarr") -> Store:
    return Store.open(output / name, "ancestry")


def test_run__flags_the_people_of_a_population_that_is_not_there(one_too_few: Path):
    store = opened(one_too_few)
    flagged = store.read("sample_poorly_described")
    ghosts = np.arange(N_PEOPLE) >= N_PEOPLE - N_GHOSTS
    assert flagged[ghosts].mean() >= 0.95
    assert flagged[~ghosts].mean() <= 0.05
    summary = json.loads((one_too_few / "run.json").read_text())["fit_check"]
    assert summary["n_poorly_described"] == flagged.sum()
    assert summary["n_references"] == N_PEOPLE
    assert summary["threshold"] == 0.02
    pairs = store.read("reference_residual_correlation")
    outside = ~np.eye(N_PEOPLE, dtype=bool)
    assert pairs[np.ix_(ghosts, ghosts)][outside[:N_GHOSTS, :N_GHOSTS]].mean() > 0.05


def test_run__flags_nobody_where_k_is_right(right: Path):
    store = opened(right)
    z = store.read("sample_residual_correlation") / store.read(
        "sample_residual_correlation_se"
    )
    assert store.read("sample_poorly_described").mean() <= 0.01
    assert abs(z.mean()) < 0.25
    assert 0.85 < z.std() < 1.2
    matrix = store.read("population_residual_correlation")
    assert matrix.shape == (3, 3)
    assert np.abs(matrix).max() < 0.005
    summary = json.loads((right / "run.json").read_text())["fit_check"]
    known = np.array(summary["population_residual_correlation"])
    np.testing.assert_allclose(known, matrix, atol=1e-6)
    assert "references.npz" not in {path.name for path in right.rglob("*")}


def test_run__references_are_everybody_in_a_small_cohort(right: Path):
    store = opened(right)
    assert store.read("reference_sample").tolist() == list(range(N_PEOPLE))
    pairs = store.read("reference_residual_correlation")
    assert np.isnan(np.diag(pairs)).all()
    np.testing.assert_allclose(pairs, pairs.T, atol=1e-5)


def test_apply__check_can_be_left_out(cohort: str, right: Path, tmp_path: Path):
    output = tmp_path / "ancestry.zarr"
    without = config(3, fit_check_people=0)
    projection.project(right / "model.zarr", cohort, output, without, SERIAL)
    store = Store.open(output, "ancestry")
    assert store.attrs["fit_check"] is None
    assert not {*FIT_CHECK, *REFERENCES} & set(store.names())


def test_project__new_people_are_checked_among_themselves(
    right: Path, tmp_path: Path, caplog: Any
):
    genotypes = draw(1)[0]
    genotypes[3] = -1
    source = write(tmp_path / "new", genotypes)
    projection.project(
        right / "model.zarr", source, tmp_path / "a.zarr", config(3), SERIAL
    )
    store = Store.open(tmp_path / "a.zarr", "ancestry")
    flagged = store.read("sample_poorly_described")
    ghosts = np.arange(N_PEOPLE) >= N_PEOPLE - N_GHOSTS
    assert flagged[ghosts].mean() >= 0.95
    assert flagged[~ghosts].mean() <= 0.05
    message = f"{flagged.sum()} of {N_PEOPLE} people are not described"
    assert message in caplog.text
    value = store.read("sample_residual_correlation")
    assert np.flatnonzero(np.isnan(value)).tolist() == [3]
    assert not flagged[3]
    assert 3 not in store.read("reference_sample")


def test_project__provenance_is_that_of_the_model(right: Path, tmp_path: Path):
    source = write(tmp_path / "new", draw(1)[0][:40])
    output = tmp_path / "ancestry.zarr"
    # As from a command without a file of settings: K = 5, quality control, and so on.
    asked = RunConfig(apply=ApplyConfig(standard_errors="information"))
    projection.project(right / "model.zarr", source, output, asked, SERIAL)
    attrs = Store.open(output, "ancestry").attrs
    model = Store.open(right / "model.zarr", "model").attrs
    assert (attrs["n_populations"], attrs["method"]) == (3, "likelihood")
    for section in ("seed", "qc", "fit", "train", "neural"):
        assert attrs["config"][section] == model["config"][section]
    assert attrs["config"]["apply"]["standard_errors"] == "information"
    assert attrs["source"] == "cohort.vcz"


def test_project__the_fits_own_cohort_is_trusted_and_said_to_be(
    cohort: str, one_too_few: Path, tmp_path: Path
):
    output = tmp_path / "ancestry.zarr"
    projection.project(one_too_few / "model.zarr", cohort, output, config(9), SERIAL)
    applied = Store.open(output, "ancestry").attrs["config"]["apply"]
    assert applied["strand"] == "trusted"


def test_run__says_which_points_were_refused(right: Path):
    for source in (
        json.loads((right / "run.json").read_text()),
        Store.open(right / "model.zarr", "model").attrs,
    ):
        trace = np.array(source["log_likelihood_trace"])
        refused = np.array(source["log_likelihood_refused"])
        assert len(trace) == len(refused) > 1
        slack = 1e-9 * N_PEOPLE * N_VARIANTS
        accepted = trace[~refused]
        assert (np.diff(accepted) >= -slack).all()


def test_project__one_person_is_not_checked(right: Path, tmp_path: Path):
    source = write(tmp_path / "new", draw(1)[0][:1])
    output = tmp_path / "ancestry.zarr"
    projection.project(right / "model.zarr", source, output, config(3), SERIAL)
    assert Store.open(output, "ancestry").attrs["fit_check"] is None


@pytest.mark.soak
def test_run__with_labels(cohort: str, tmp_path: Path):
    """Supervised for two of three populations; a fourth is absent."""
    _, ancestry = draw(0)
    pure = [(i, int(q.argmax())) for i, q in enumerate(ancestry) if q[:2].max() > 0.9]
    labels = tmp_path / "labels.tsv"
    labels.write_text("".join(f"s{i}\t{'AB'[k]}\n" for i, k in pure))
    output = tmp_path / "out"
    run.run(cohort, output, config(3), SERIAL, labels=read_labels(labels))
    flagged = opened(output).read("sample_poorly_described")
    ghosts = np.arange(N_PEOPLE) >= N_PEOPLE - N_GHOSTS
    assert flagged[ghosts].mean() >= 0.9
    assert flagged[~ghosts].mean() <= 0.1


class _KilledError(Exception):
    pass


class _Pair(SerialCluster):
    """Two workers, of which one has a part in choosing the references."""

    workers = ["first", "second"]

    def __init__(self) -> None:
        self.functions: list[Any] = []

    def submit(self, function: Any, *args: Any, **options: Any) -> Any:
        self.functions.append((function, options.get("worker")))
        return super().submit(function, *args)


def test_apply__groups_projected_early_have_the_same_bytes(
    cohort: str, right: Path, tmp_path: Path, monkeypatch: Any
):
    settings = config(3, fit_check_people=64)
    pair, model = _Pair(), right / "model.zarr"
    projection.project(model, cohort, tmp_path / "a.zarr", settings, SERIAL)
    # Room for the calls of one group of 64 people, at 512 bytes each.
    monkeypatch.setattr(fit_check, "EARLY_BYTES", 2**15)
    pairs = contextlib.nullcontext(pair)
    projection.project(model, cohort, tmp_path / "b.zarr", settings, pairs)
    early = [w for f, w in pair.functions if f is group_tasks.project_unchecked]
    assert set(early) == {"second"}
    late = [f for f, _ in pair.functions if f is group_tasks.project_group]
    assert late
    names = ("sample_ancestry_proportion", *FIT_CHECK)
    stores = [Store.open(tmp_path / name, "ancestry") for name in ("a.zarr", "b.zarr")]
    for name in names:
        first, second = (store.read(name).tobytes() for store in stores)
        assert first == second, name


@pytest.mark.parametrize(
    ("module", "name", "n_done"),
    [(apply, "write_references", 0), (group_tasks, "write_block", 1)],
)
def test_apply__resumed_gives_the_same_bytes(
    cohort: str,
    right: Path,
    tmp_path: Path,
    monkeypatch: Any,
    module: Any,
    name: str,
    n_done: int,
):
    # Fewer references than people, so that they have to be chosen.
    settings = config(3, fit_check_people=64)
    model, outputs = right / "model.zarr", [tmp_path / "a.zarr", tmp_path / "b.zarr"]
    projection.project(model, cohort, outputs[0], settings, SERIAL)
    original: Any = getattr(module, name)
    calls: list[Any] = []

    def die(*args: Any) -> Any:
        if len(calls) == n_done:
            raise _KilledError
        calls.append(args)
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, die)
        with pytest.raises(_KilledError):
            projection.project(model, cohort, outputs[1], settings, SERIAL)
    projection.project(model, cohort, outputs[1], settings, SERIAL, resume=True)
    first, second = (
        {
            str(path.relative_to(output)): path.read_bytes()
            for path in sorted(output.rglob("*"))
            if path.is_file()
        }
        for output in outputs
    )
    assert first == second
    store = Store.open(outputs[0], "ancestry")
    assert len(store.read("reference_sample")) == 64
    assert np.isfinite(store.read("sample_residual_correlation")).all()


def test_choose_references__as_many_of_each_population_as_there_are():
    population = np.repeat([0, 1, 2], [1000, 20, 200])
    chosen = choose_references(population, 128)
    assert np.bincount(population[chosen]).tolist() == [54, 20, 54]
    assert len(np.unique(chosen)) == 128
    assert choose_references(population[:7], 128).tolist() == list(range(7))


@pytest.mark.parametrize("n_elements", [63, 64, 65, 4_096, 5_000, 250_000])
def test_choose_elements__two_halves_of_one_length(n_elements: int):
    first, second = fit_check.choose_elements(n_elements)
    assert len(first) == len(second) > 0
    both = np.concatenate([first, second])
    assert len(np.unique(both)) == len(both)
    assert both.max() < n_elements
    assert 4 * len(both) <= fit_check.MAX_VARIANTS


def projected_lazily(
    source: str, model: Path, chunks: dict[str, int], **options: Any
) -> xr.Dataset:
    """The same people by the Python function, with the warnings that it gives."""
    ds = xr.open_zarr(source, mask_and_scale=False).chunk(chunks)
    with dask.config.set(scheduler=helpers.forbid_dask):
        return project_ancestry(ds, model, merge=False, **options)


@pytest.mark.parametrize("chunks", [{"samples": 64}, {"variants": 700, "samples": 37}])
def test_project_ancestry__checks_as_apply_does(
    right: Path, tmp_path: Path, chunks: dict[str, int]
):
    genotypes = draw(1)[0]
    genotypes[3] = -1
    source = write(tmp_path / "new", genotypes)
    asked = replace_values(config(3), "apply", standard_errors="jackknife")
    model = right / "model.zarr"
    projection.project(model, source, tmp_path / "a.zarr", asked, SERIAL)
    store = Store.open(tmp_path / "a.zarr", "ancestry")
    found = projected_lazily(source, model, chunks, standard_errors="jackknife")
    flagged = store.read("sample_poorly_described")
    with pytest.warns(UserWarning, match="people") as caught:
        computed = found.compute()
    assert [str(each.message) for each in caught] == [
        f"1 of {N_PEOPLE} people has no called genotype; their ancestry is NaN",
        f"{flagged.sum()} of {N_PEOPLE} people are not described by the populations; "
        "sample_poorly_described says who",
    ]
    for name in (*FIT_CHECK, *VALUES, "sample_ancestry_proportion_se"):
        if name in found:
            np.testing.assert_allclose(
                computed[name].values, store.read(name), rtol=1e-4, atol=2e-5
            )
    assert set(FIT_CHECK) < set(found)
    # Whoever takes Q alone is warned too.
    with pytest.warns(UserWarning, match="people") as again:
        found["sample_ancestry_proportion"].compute()
    assert len(again) == 2


def test_project_ancestry__does_not_warn_where_the_populations_describe(
    right: Path, tmp_path: Path, recwarn: Any
):
    source = write(tmp_path / "new", draw(5, n_ghosts=0)[0])
    found = projected_lazily(source, right / "model.zarr", {"samples": 100})
    n_flagged = int(found["sample_poorly_described"].values.sum())
    assert n_flagged <= 0.02 * N_PEOPLE
    assert len(recwarn) == (n_flagged > 0)


def test_project_ancestry__check_of_calls_and_dosages_of_any_width(
    right: Path, tmp_path: Path
):
    genotypes = draw(1)[0]
    calls = diploid(genotypes)
    # Somebody in the second group has half calls, so the groups differ in width.
    calls[::2, 70, 1] = -1
    source = helpers.write_cohort(tmp_path / "c.vcz", calls, chunks=(N_VARIANTS, 64))
    half = projected_lazily(source, right / "model.zarr", {"samples": 64})
    with pytest.warns(UserWarning, match="are not described"):
        flagged = half["sample_poorly_described"].values
    ghosts = np.arange(N_PEOPLE) >= N_PEOPLE - N_GHOSTS
    assert flagged[ghosts].mean() >= 0.95
    assert flagged[~ghosts].mean() <= 0.05


def test_project_ancestry__a_chunk_is_its_own_without_the_check(
    right: Path, tmp_path: Path, recwarn: Any
):
    source = write(tmp_path / "new", draw(1)[0])
    found = projected_lazily(
        source, right / "model.zarr", {"samples": 64}, fit_check=False
    )
    assert not set(FIT_CHECK) & set(found)
    (graph,) = dask.optimize(found["sample_ancestry_proportion"][:64].data)
    n_projected = sum("project_people" in str(key) for key in graph.__dask_graph__())
    assert n_projected == 1
    assert np.isfinite(graph.compute()).all()
    assert not len(recwarn)


def test_project_ancestry__too_few_calls_to_check(right: Path, tmp_path: Path):
    genotypes = draw(1)[0][:40]
    genotypes[:20] = -1
    source = write(tmp_path / "new", genotypes)
    found = projected_lazily(source, right / "model.zarr", {"samples": 64})
    with pytest.warns(UserWarning, match="20 of 40 people have no called genotype"):
        computed = found.compute()
    assert not computed["sample_poorly_described"].values.any()
    assert np.isnan(computed["sample_residual_correlation"].values).all()


def test_project_ancestry__errors_name_its_parameters(right: Path, tmp_path: Path):
    source = write(tmp_path / "new", draw(1)[0][:5])
    model = right / "model.zarr"
    for options, message in (
        ({"refine": -3}, "^refine is -3; "),
        ({"strand": "x"}, "^strand is 'x'; "),
        ({"standard_errors": "x"}, "^standard_errors is 'x'; "),
        ({"min_overlap": 2}, "^min_overlap is 2; "),
    ):
        with pytest.raises(InputError, match=message):
            projected_lazily(source, model, {}, **options)


def test_plan_references__one_of_each_set_of_copies_at_most():
    copies = np.array([[0, 1], [0, 2], [1, 2], [60, 70]])
    in_fit = np.arange(100) != 60
    n_called = np.full(100, 4_096)
    plan = fit_check.plan_references(config(2).apply, n_called, in_fit, 4_096, copies)
    assert plan is not None
    assert np.setdiff1d(np.arange(100), plan.candidates).tolist() == [1, 2, 60]
