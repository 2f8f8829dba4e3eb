from pathlib import Path

import jax
import numpy as np
import pytest
import xarray as xr

from estimator import training
from estimator.acceleration import Point
from estimator.config import AncestryEstimatorConfig
from estimator.uncertainty import PopulationError
from pipeline import bundle, schema
from pipeline.errors import InputError
from pipeline.fit import FitResult
from pipeline.prepared import Prepared
from pipeline.store import Store
from pipeline.train import Encoder
from tests.helpers import random_genotypes, small_prepared

K, N_PEOPLE, N_VARIANTS = 3, 6, 10


def _prepared(folder: Path) -> Prepared:
    genotypes = random_genotypes(N_VARIANTS, N_PEOPLE, missing=0)
    genotypes[:, 0] = [0, 1]
    return small_prepared(folder, genotypes)


def _fitted() -> FitResult:
    rng = np.random.default_rng(0)
    point = Point(
        rng.dirichlet(np.ones(K), N_PEOPLE).astype(np.float32),
        rng.uniform(0.1, 0.9, (K, N_VARIANTS)).astype(np.float32),
    )
    return FitResult(point, -12.5, [-20.0, -12.5], True, 4)


def _error() -> PopulationError:
    rng = np.random.default_rng(3)
    return PopulationError(
        rng.normal(size=(K, K)).astype(np.float32),
        rng.normal(size=(K, K, K)).astype(np.float32),
        rng.normal(size=(K, K)).astype(np.float32),
    )


def _encoder(fitted: FitResult, hidden_dims: tuple[int, ...]) -> Encoder:
    config = AncestryEstimatorConfig(
        n_snps=N_VARIANTS, n_populations=K, hidden_dims=hidden_dims, dropout_rate=0.0
    )
    weights = training.initial_weights(config, seed=1)
    return Encoder(
        config, jax.tree.map(np.asarray, weights), training.projector(*fitted.point)
    )


FITTED_PEOPLE = np.array([3, 2**63 + 5], np.uint64)


def _saved(folder: Path, hidden_dims: tuple[int, ...] = (8, 4)) -> Path:
    fitted = _fitted()
    path = folder / "model.zarr"
    encoder = _encoder(fitted, hidden_dims)
    attrs = {"stamp": "abc"}
    arguments = fitted, encoder, attrs, _error(), FITTED_PEOPLE
    bundle.save_model(path, _prepared(folder), *arguments)
    return path


def _assert_same_weights(left: training.Weights, right: training.Weights) -> None:
    found = jax.tree_util.tree_leaves_with_path(left)
    expected = jax.tree_util.tree_leaves_with_path(right)
    assert [path for path, _ in found] == [path for path, _ in expected]
    for (_, values), (_, others) in zip(found, expected, strict=True):
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, others)


@pytest.mark.parametrize("hidden_dims", [(), (8,), (8, 4)])
def test_load_model__is_what_was_saved(tmp_path, hidden_dims):
    fitted = _fitted()
    encoder = _encoder(fitted, hidden_dims)
    model = bundle.load_model(_saved(tmp_path, hidden_dims))
    assert model.encoder.config == encoder.config
    np.testing.assert_array_equal(model.frequencies, fitted.point.frequencies)
    assert model.frequencies.flags.c_contiguous
    for name, values in encoder.projector._asdict().items():
        np.testing.assert_array_equal(getattr(model.encoder.projector, name), values)
    _assert_same_weights(model.encoder.weights, encoder.weights)
    assert model.error is not None
    np.testing.assert_array_equal(model.error.noise, _error().noise)
    np.testing.assert_array_equal(model.error.basis, _error().basis)
    assert model.fitted_people is not None
    np.testing.assert_array_equal(model.fitted_people, FITTED_PEOPLE)


def test_load_model__of_a_fit_that_tells_no_error(tmp_path):
    fitted = _fitted()
    path = tmp_path / "model.zarr"
    bundle.save_model(path, _prepared(tmp_path), fitted, _encoder(fitted, ()), {})
    model = bundle.load_model(path)
    assert model.error is None
    assert model.fitted_people is None


def test_load_model__encodes_as_before(tmp_path):
    encoder = _encoder(_fitted(), (8, 4))
    loaded = bundle.load_model(_saved(tmp_path)).encoder
    features = np.random.default_rng(2).normal(size=(5, K)).astype(np.float32)
    expected = training.encode(encoder.config, encoder.weights, features)
    found = training.encode(loaded.config, loaded.weights, features)
    np.testing.assert_array_equal(found, expected)


def test_save_model__keeps_keys_trace_and_provenance(tmp_path):
    path = _saved(tmp_path)
    store = Store.open(path, bundle.KIND)
    prepared = Store.open(tmp_path / "prepared.zarr", "prepared")
    for name in schema.VARIANT_KEYS:
        np.testing.assert_array_equal(store.read(name), prepared.read(name))
    expected = {
        "kind": "model",
        "schema_version": schema.SCHEMA_VERSION,
        "complete": True,
        "stamp": "abc",
        "n_populations": K,
        "hidden_dims": [8, 4],
        "log_likelihood_trace": [-20.0, -12.5],
        "converged": True,
        "data_passes": 4,
        "qc_steps": prepared.attrs["qc_steps"],
        "genome_build": "unknown",
    }
    assert expected.items() <= store.attrs.items()


def test_save_model__is_read_by_xarray(tmp_path):
    dataset = xr.open_zarr(str(_saved(tmp_path)))
    assert dataset["variant_population_frequency"].dims == ("variants", "populations")
    np.testing.assert_array_equal(
        dataset["variant_population_frequency"], _fitted().point.frequencies.T
    )
    assert dataset["variant_encoder_projection"].dims == ("variants", "features")


def test_flatten__names_nested_layers_and_back():
    weights: training.Weights = {
        "layers": {
            0: {"kernel": np.ones((2, 3), np.float32)},
            10: {"kernel": np.full((3, 1), 2, np.float32)},
        },
        "head": {"bias": np.zeros(1, np.float32)},
    }
    named = dict(bundle._flatten(weights))
    assert sorted(named) == ["head.bias", "layers.0.kernel", "layers.10.kernel"]
    back = bundle._unflatten(named)
    _assert_same_weights(back, weights)


def _unfinished(path: Path) -> None:
    Store.create(path, bundle.KIND)


def _prepared_kind(path: Path) -> None:
    Store.create(path, "prepared").finish()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda path: None, r"at does not exist; check the path"),
        (_unfinished, r"at is unfinished; run `streamixture fit` again"),
        (_prepared_kind, r"at is not a streamixture model store \(kind: prepared\)"),
    ],
)
def test_load_model__refuses(tmp_path, build, message):
    build(tmp_path / "at")
    with pytest.raises(InputError, match=message):
        bundle.load_model(tmp_path / "at")
