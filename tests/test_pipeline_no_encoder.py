"""Models without an encoder: the same optimum, and valid wherever a model is."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from estimator import training
from pipeline import (
    export,
    given,
    project_ancestry,
    projection,
    provenance,
    renumber,
    run,
)
from pipeline.bundle import load_model
from pipeline.config import (
    ApplyConfig,
    FitConfig,
    QCConfig,
    RunConfig,
    TrainConfig,
    replace_values,
)
from pipeline.errors import InputError
from pipeline.reprocess_config import ReprocessConfig
from pipeline.store import Store
from pipeline.tasks import Cluster
from tests import helpers, oracle
from tests.helpers import SerialCluster

SERIAL: contextlib.nullcontext[Cluster] = contextlib.nullcontext(SerialCluster())
K, N_PEOPLE, N_VARIANTS = 3, 160, 1_024
CONFIG = RunConfig(
    qc=QCConfig(enabled=False),
    fit=FitConfig(n_populations=K),
    train=TrainConfig(epochs=0),
    apply=ApplyConfig(standard_errors="none", fit_check_people=0),
)
WITHOUT = replace_values(CONFIG, "train", encoder=False)


def write(path: Path, genotypes: np.ndarray) -> str:
    calls = np.stack([genotypes >= 1, genotypes >= 2], axis=2).astype(np.int8)
    calls[genotypes < 0] = -1
    calls = calls.transpose(1, 0, 2)
    return helpers.write_cohort(path, calls, chunks=(N_VARIANTS, 40))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort, newcomers, and a run with an encoder and one without."""
    folder = tmp_path_factory.mktemp("no_encoder")
    truth = oracle.simulate(N_PEOPLE + 40, N_VARIANTS, K, seed=3, fst=0.1)
    genotypes = truth.genotypes.copy()
    genotypes[np.random.default_rng(0).random(genotypes.shape) < 0.02] = -1
    # Newcomers whose calls are few, or none, start where they are told least.
    genotypes[-1] = -1
    genotypes[-2, 30:] = -1
    write(folder / "cohort.vcz", genotypes[:N_PEOPLE])
    write(folder / "new.vcz", genotypes[N_PEOPLE:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "DISTILLATION_STEPS", 200)
        run.run(str(folder / "cohort.vcz"), folder / "with", CONFIG, SERIAL)
    run.run(str(folder / "cohort.vcz"), folder / "without", WITHOUT, SERIAL)
    return folder


def ancestry(path: Path) -> np.ndarray:
    return Store.open(path, "ancestry").read("sample_ancestry_proportion")


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    """The same maximum, within the rule by which Newton steps stop (`projection`).

    People with a few calls have standard errors of 0.3, and stop at a share of them.
    """
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    difference = np.abs(found - expected)
    assert np.sqrt(np.nanmean(difference**2)) < 2e-4
    assert np.nanquantile(difference, 0.99) < 5e-4
    assert np.nanmax(difference) < 5e-3


def test_run__ends_at_the_same_optimum(folder: Path):
    found = [ancestry(folder / each / "ancestry.zarr") for each in ("with", "without")]
    assert_same(found[1], found[0])
    summaries = [
        json.loads((folder / each / "run.json").read_text())
        for each in ("with", "without")
    ]
    first, second = (each["log_likelihood"] for each in summaries)
    assert abs(first - second) < 1e-9 * summaries[0]["observed_genotypes"]
    assert summaries[0]["encoder_rmse"] > 0
    assert summaries[1]["encoder_rmse"] is None
    names = [stage["name"] for stage in summaries[1]["stages"]]
    assert "train" not in names
    model = Store.open(folder / "without" / "model.zarr", "model")
    assert not [name for name in model.names() if name.startswith("encoder_weight")]


def test_project__newcomers_end_at_the_same_optimum(folder: Path, tmp_path: Path):
    found, lazily = [], []
    ds = xr.open_zarr(folder / "new.vcz", mask_and_scale=False)
    for each in ("with", "without"):
        model, output = folder / each / "model.zarr", tmp_path / f"{each}.zarr"
        projection.project(model, str(folder / "new.vcz"), output, CONFIG, SERIAL)
        found.append(ancestry(output))
        lazy = project_ancestry(ds, model, fit_check=False, merge=False)
        lazily.append(lazy["sample_ancestry_proportion"].values)
    assert np.isnan(found[0][-1]).all()
    assert_same(found[1], found[0])
    assert_same(lazily[1], lazily[0])
    assert_same(lazily[1], found[1])


def test_project__the_encoders_answer_alone_is_refused(folder: Path, tmp_path: Path):
    model, source = folder / "without" / "model.zarr", str(folder / "new.vcz")
    alone = replace_values(CONFIG, "apply", refine=0)
    with pytest.raises(InputError, match="apply.refine is 0, .* has no encoder; leave"):
        projection.project(model, source, tmp_path / "a.zarr", alone, SERIAL)
    assert not list(tmp_path.iterdir())
    ds = xr.open_zarr(source, mask_and_scale=False)
    with pytest.raises(InputError, match="^refine is 0, .*; leave refine out"):
        project_ancestry(ds, model, refine=0)


def test_config__refuses_an_encoders_answer_without_one():
    with pytest.raises(InputError, match=r"train\.encoder is false and apply\.refine"):
        replace_values(WITHOUT, "apply", refine=0)
    with pytest.raises(InputError, match=r'train\.encoder is false .* "neural"'):
        replace_values(WITHOUT, "fit", method="neural")


def test_reprocess__settings_made_before_there_was_a_choice_are_the_same():
    config = ReprocessConfig(cohort="a", output="b", run=CONFIG)
    changed = ReprocessConfig(cohort="a", output="b", run=WITHOUT)
    assert config.fit_settings != changed.fit_settings
    settings = CONFIG.as_json()
    del settings["apply"], settings["train"]["encoder"]
    assert config.fit_settings == provenance.digest([settings, {}])


def test_renumber__other_order_of_populations(folder: Path, tmp_path: Path):
    order = np.array([2, 0, 1])
    model = folder / "without" / "model.zarr"
    renumber.renumber_model(model, tmp_path / "model.zarr", order)
    source, output = str(folder / "new.vcz"), tmp_path / "a.zarr"
    projection.project(tmp_path / "model.zarr", source, output, CONFIG, SERIAL)
    before = tmp_path / "b.zarr"
    projection.project(model, source, before, CONFIG, SERIAL)
    assert_same(ancestry(output), ancestry(before)[:, order])
    assert not load_model(tmp_path / "model.zarr").encoder.is_trained


def test_given__model_of_frequencies_without_an_encoder(folder: Path, tmp_path: Path):
    fitted = Store.open(folder / "with" / "model.zarr", "model")
    keys = {
        name: fitted.read(name)
        for name in (
            *("variant_contig_name", "variant_position"),
            *("variant_allele", "variant_id"),
        )
    }
    known = given.Frequencies(keys, fitted.read("variant_population_frequency").T)
    given.make_model(known, tmp_path / "model.zarr", WITHOUT, SERIAL)
    source, output = str(folder / "new.vcz"), tmp_path / "a.zarr"
    projection.project(tmp_path / "model.zarr", source, output, CONFIG, SERIAL)
    expected = tmp_path / "b.zarr"
    projection.project(folder / "with" / "model.zarr", source, expected, CONFIG, SERIAL)
    assert_same(ancestry(output), ancestry(expected))
    export.export_admixture(output, tmp_path / "q")
    assert (tmp_path / f"q.{K}.Q").exists()
