"""Populations in their old columns: the order found, and a model put into it."""

import contextlib
from pathlib import Path

import numpy as np
import pytest

from estimator import training
from pipeline import stages
from pipeline.bundle import load_model
from pipeline.config import ApplyConfig, FitConfig, QCConfig, RunConfig, TrainConfig
from pipeline.renumber import find_order, renumber_model
from pipeline.store import Store
from tests import helpers
from tests.helpers import SerialCluster

IDS = np.array([f"s{i}" for i in range(40)])


def shares(k: int) -> np.ndarray:
    return np.random.default_rng(0).dirichlet([0.2] * k, 40).astype(np.float32)


def test_find_order__undoes_a_permutation_of_people_and_populations():
    q = shares(4)
    people = np.random.default_rng(1).permutation(40)[:30]
    order = find_order(q[:, [2, 0, 3, 1]], IDS, q[people], IDS[people])
    np.testing.assert_array_equal(q[:, [2, 0, 3, 1]][:, order], q)


def test_find_order__more_and_fewer_populations():
    q = shares(4)
    assert find_order(q, IDS, q[:, [3, 1]], IDS).tolist()[:2] == [3, 1]
    assert sorted(find_order(q, IDS, q[:, [3, 1]], IDS).tolist()) == [0, 1, 2, 3]
    assert find_order(q[:, [3, 1]], IDS, q, IDS).tolist() == [1, 0]


def test_find_order__nobody_in_common_or_called():
    q = shares(3)
    assert find_order(q, IDS, q, np.char.add(IDS, "x")).tolist() == [0, 1, 2]
    assert find_order(q, IDS, np.full_like(q, np.nan), IDS).tolist() == [0, 1, 2]


def test_renumber_model__encoder_and_projection_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(training, "DISTILLATION_STEPS", 20)
    serial = contextlib.nullcontext(SerialCluster())
    calls = helpers.random_genotypes(200, 40, seed=2)
    source = helpers.write_cohort(tmp_path / "cohort.vcz", calls)
    config = RunConfig(
        qc=QCConfig(enabled=False),
        fit=FitConfig(n_populations=3, max_rounds=5),
        train=TrainConfig(epochs=0),
        # The encoder's own answer, which nothing puts right.
        apply=ApplyConfig(refine=0, standard_errors="none"),
    )
    prepared, model = tmp_path / "prepared.zarr", tmp_path / "model.zarr"
    stages.prepare_only(source, prepared, config, serial)
    stages.fit_only(prepared, model, config, serial)
    order = np.array([2, 0, 1])
    renumber_model(model, tmp_path / "turned.zarr", order)
    found = []
    for path in (model, tmp_path / "turned.zarr"):
        output = tmp_path / f"of-{path.name}"
        stages.project(path, source, output, config, serial)
        store = Store.open(output, "ancestry")
        found.append(store.read("sample_ancestry_proportion"))
    np.testing.assert_allclose(found[1], found[0][:, order], atol=1e-6)
    assert not np.allclose(found[1], found[0], atol=1e-3)
    np.testing.assert_array_equal(
        load_model(tmp_path / "turned.zarr").frequencies,
        load_model(model).frequencies[order],
    )
    renumber_model(model, tmp_path / "same.zarr", np.arange(3))
    for path in model.rglob("*"):
        if path.is_file():
            same = tmp_path / "same.zarr" / path.relative_to(model)
            assert same.read_bytes() == path.read_bytes(), path
