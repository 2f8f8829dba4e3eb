"""Lazy projection of a Dataset: what `apply` gives, for any chunks, when asked."""

from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import sgkit
import xarray as xr

from estimator import training
from estimator.config import AncestryEstimatorConfig
from pipeline import bundle, project_ancestry, schema
from pipeline.errors import InputError
from pipeline.train import Encoder
from tests import helpers, oracle

K, N_SAMPLES, N_VARIANTS = 3, 60, 400


def admixed(seed: int = 1) -> dict[str, np.ndarray]:
    """Genotypes of people with known Q, and P."""
    rng = np.random.default_rng(seed)
    p = rng.uniform(0.05, 0.95, (K, N_VARIANTS)).astype(np.float32)
    q = rng.dirichlet(np.full(K, 0.4), N_SAMPLES)
    drawn = rng.random((N_VARIANTS, N_SAMPLES, 2)) < (q @ p).T[..., None]
    calls = drawn.astype(np.int8)
    calls[rng.random((N_VARIANTS, N_SAMPLES)) < 0.03] = -1
    return {"p": p, "q": q, "calls": calls}


def write_model(path: Path, p: np.ndarray, alleles: np.ndarray) -> Path:
    """A model of known frequencies whose encoder was not trained."""
    config = AncestryEstimatorConfig(
        n_snps=N_VARIANTS, n_populations=K, hidden_dims=(8,), dropout_rate=0.0
    )
    rng = np.random.default_rng(0)
    projector = training.projector(rng.dirichlet(np.ones(K), 50).astype(np.float32), p)
    encoder = Encoder(config, training.initial_weights(config, seed=0), projector)
    keys = {
        "variant_contig_name": np.full(N_VARIANTS, "1"),
        "variant_position": 1000 * np.arange(1, N_VARIANTS + 1),
        "variant_allele": alleles.astype(str),
        "variant_id": np.full(N_VARIANTS, "."),
    }
    attrs = {"method": "given", "genome_build": "unknown", "stamp": "m"}
    model = bundle.Model(p, encoder)
    bundle.write_model(path, keys, model, attrs, ("a", "b", "c"))
    return path


@pytest.fixture(scope="module")
def data() -> dict[str, np.ndarray]:
    return admixed()


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, data: dict[str, np.ndarray]
) -> Path:
    """A cohort and a model."""
    folder = tmp_path_factory.mktemp("projection")
    alleles = helpers.text([["A", "C"]] * N_VARIANTS)
    cohort = folder / "cohort.vcz"
    helpers.write_cohort(cohort, data["calls"], chunks=(90, 25), variant_allele=alleles)
    write_model(folder / "model.zarr", data["p"], alleles)
    return folder


@pytest.fixture(scope="module")
def expected(data: dict[str, np.ndarray]) -> np.ndarray:
    """Q at the maximum of the likelihood, by EM in dense numpy."""
    p = data["p"].astype(np.float64)
    calls = data["calls"].transpose(1, 0, 2)
    observed = 2.0 * (calls[..., 0] >= 0)
    counts = np.where(observed > 0, calls.sum(axis=2), 0)
    q = np.full((N_SAMPLES, K), 1 / K)
    for _ in range(3_000):
        mixed = q @ p
        share = (counts / mixed) @ p.T
        share += ((observed - counts) / (1 - mixed)) @ (1 - p).T
        q *= share
        # Of itself, the sum of a row would drift away from 1.
        q /= q.sum(axis=1, keepdims=True)
    return q


def project(ds: xr.Dataset, model: Any, **options: Any) -> xr.Dataset:
    """With steps enough to the maximum from an encoder that was not trained."""
    return project_ancestry(ds, model, refine=50, **options)


def load(folder: Path) -> xr.Dataset:
    # The helpers' stores have no fill value that xarray would mask.
    return sgkit.load_dataset(str(folder / "cohort.vcz"))


def test_project__is_lazy_until_it_is_asked(folder: Path):
    ds = load(folder)
    model = sgkit.load_dataset(str(folder / "model.zarr"))
    with dask.config.set(scheduler=helpers.forbid_dask):
        found = project_ancestry(ds, folder / "model.zarr")
        with pytest.warns(sgkit.utils.MergeWarning, match="will be replaced"):
            again = project_ancestry(found, model)
    for each in (found, again):
        assert each["sample_ancestry_proportion"].chunks == ((25, 25, 10), (K,))
        assert each["sample_ancestry_proportion"].dtype == np.float32
        assert each["sample_log_likelihood"].dtype == np.float64
    assert found["population_id"].values.tolist() == ["a", "b", "c"]
    assert set(ds.variables) < set(found.variables)


def test_project__is_the_maximum_of_the_likelihood(
    folder: Path, data: dict[str, np.ndarray], expected: np.ndarray
):
    found = project(load(folder), folder / "model.zarr", merge=False)
    assert set(found) == {
        "sample_ancestry_proportion",
        "sample_log_likelihood",
        "population_id",
    }
    q, log_likelihood = dask.compute(
        found["sample_ancestry_proportion"].data, found["sample_log_likelihood"].data
    )
    np.testing.assert_allclose(q, expected, atol=2e-3)
    genotypes = np.where(
        (data["calls"] < 0).any(axis=2), -1, data["calls"].sum(axis=2)
    ).T
    best = oracle.person_log_likelihood(genotypes, expected, data["p"])
    np.testing.assert_allclose(log_likelihood, best, atol=1e-3)
    assert np.sqrt(np.mean((q - data["q"]) ** 2)) < 0.08
    spec = schema.ANCESTRY["sample_ancestry_proportion"]
    assert found["sample_ancestry_proportion"].attrs["comment"] == spec.doc


@pytest.fixture(scope="module")
def whole(folder: Path) -> np.ndarray:
    found = project(load(folder), folder / "model.zarr")
    return found["sample_ancestry_proportion"].values


@pytest.mark.parametrize("chunks", [(400, 60), (7, 60), (400, 1), (33, 11), None])
def test_project__any_chunks_give_the_same(
    folder: Path, whole: np.ndarray, chunks: tuple[int, int] | None
):
    ds = load(folder).load()
    if chunks is not None:
        ds = ds.chunk(variants=chunks[0], samples=chunks[1], ploidy=1)
    found = project(ds, folder / "model.zarr", strand="drop")
    q = found["sample_ancestry_proportion"].values
    np.testing.assert_allclose(q, whole, atol=5e-4)


def test_project__variants_are_found_by_their_keys(folder: Path, whole: np.ndarray):
    ds = load(folder).load()
    turned = np.arange(0, N_VARIANTS, 3)
    ds["variant_allele"][turned] = ds["variant_allele"][turned, ::-1].values
    calls = ds["call_genotype"].values
    calls[turned] = np.where(calls[turned] < 0, calls[turned], 1 - calls[turned])
    order = np.random.default_rng(3).permutation(N_VARIANTS)
    ds = ds.isel(variants=order).rename(call_genotype="gt", variant_position="place")
    found = project(
        ds, folder / "model.zarr", call_genotype="gt", variant_position="place"
    )
    q = found["sample_ancestry_proportion"].values
    np.testing.assert_allclose(q, whole, atol=5e-4)


def test_project__half_calls_dosages_and_nobody(folder: Path):
    ds = load(folder).load()
    calls = ds["call_genotype"].values
    calls[:, 0] = -1
    counts = np.where((calls < 0).any(axis=2), np.nan, calls.sum(axis=2))
    dosages = ds.drop_vars("call_genotype").assign(
        call_dosage=(("variants", "samples"), counts.astype(np.float32))
    )
    model = folder / "model.zarr"
    whole = project(ds, model)["sample_ancestry_proportion"].values
    assert np.isnan(whole[0]).all()
    assert not np.isnan(whole[1:]).any()
    for changed in (dosages, dosages.chunk(samples=20)):
        q = project(changed, model)["sample_ancestry_proportion"].values
        np.testing.assert_allclose(q, whole, atol=5e-4)
    calls[::2, 1, 1] = -2
    half = project(ds, model)["sample_log_likelihood"].values
    assert half[0] == 0
    assert np.isfinite(half).all()


def test_project__frequencies_tell_the_strand(
    tmp_path: Path, data: dict[str, np.ndarray]
):
    alleles = np.array([["A", "C"]] * N_VARIANTS, object)
    alleles[::4] = ["A", "T"]
    model = write_model(tmp_path / "model.zarr", data["p"], alleles)
    flipped = data["calls"].copy()
    flipped[::8] = np.where(flipped[::8] < 0, flipped[::8], 1 - flipped[::8])
    path = helpers.write_cohort(
        tmp_path / "c.vcz", flipped, chunks=(50, 20), variant_allele=alleles
    )
    ds = sgkit.load_dataset(path)
    with dask.config.set(scheduler=helpers.forbid_dask):
        found = {s: project(ds, model, strand=s) for s in ("check", "trusted")}
    error = {
        strand: np.sqrt(
            np.mean((each["sample_ancestry_proportion"].values - data["q"]) ** 2)
        )
        for strand, each in found.items()
    }
    assert error["check"] < 0.08 < error["trusted"]


def test_project__refused_when_computed(folder: Path):
    ds = load(folder)
    few = project(ds.isel(variants=slice(100)), folder / "model.zarr")
    with pytest.raises(InputError, match=r"the Dataset has 100 of the 400 variants"):
        few["sample_ancestry_proportion"].compute()
    third = ds.load().copy(deep=True)
    third["call_genotype"][11, 7, 0] = 2
    bad = project(third, folder / "model.zarr")
    with pytest.raises(InputError, match=r"call_genotype at variant 11, sample 7"):
        bad["sample_ancestry_proportion"].compute()


def test_project__refused_at_once(folder: Path):
    ds, model = load(folder), folder / "model.zarr"
    with pytest.raises(InputError, match="neither call_genotype nor call_dosage"):
        project(ds.drop_vars("call_genotype"), model)
    with pytest.raises(InputError, match="lacks variant_allele"):
        project(ds.drop_vars("variant_allele"), model)
    masked = ds.assign(call_genotype=ds["call_genotype"].astype("f4"))
    with pytest.raises(InputError, match="mask_and_scale=False"):
        project(masked, model)
    with pytest.raises(InputError, match="given as model is none"):
        project(ds, ds)
    with pytest.raises(InputError, match="does not exist"):
        project(ds, folder / "none.zarr")
    other = ds.assign(share=(("samples", "populations"), np.zeros((N_SAMPLES, 2))))
    with pytest.raises(InputError, match="has 2 populations in share, and 3"):
        project(other, model)
    assert "share" not in project(other, model, merge=False)


def test_project_ancestry__refuses_a_model_that_lacks_a_chunk(
    tmp_path: Path, data: dict[str, np.ndarray]
):
    alleles = np.array([["A", "C"]] * N_VARIANTS)
    path = write_model(tmp_path / "model.zarr", data["p"], alleles)
    next((path / "variant_population_frequency").glob("0*")).unlink()
    model = sgkit.load_dataset(path)
    ds = sgkit.load_dataset(helpers.write_cohort(tmp_path / "c.vcz", data["calls"]))
    with pytest.raises(InputError, match="array variant_population_frequency is abs"):
        project_ancestry(ds, model)


@pytest.mark.parametrize("strand", ["check", "drop"])
def test_project__refuses_calls_of_the_other_allele(
    folder: Path, data: dict[str, np.ndarray], strand: str, tmp_path: Path
):
    calls = np.where(data["calls"] < 0, -1, 1 - data["calls"])
    helpers.write_cohort(tmp_path / "cohort.vcz", calls, chunks=(90, 25))
    ds = project(load(tmp_path), folder / "model.zarr", strand=strand)
    with pytest.raises(InputError, match=r"run against those of .*--allele 2`"):
        ds["sample_ancestry_proportion"].compute()


def test_project_ancestry__alleles_that_stand_for_none_are_missing(
    tmp_path: Path, data: dict[str, np.ndarray]
):
    # The frequencies of the first tell the strand of the second.
    pairs = np.array([["G", "A"], ["A", "T"]] * (N_VARIANTS // 2), object)
    model = write_model(tmp_path / "m.zarr", data["p"], pairs)
    calls = data["calls"].copy()
    # Somebody carries an allele that stands for none, of two calls.
    calls[::7, 5] = -1
    plain = np.array([[*pair, "", ""] for pair in pairs], object)
    paths = {"plain": helpers.write_cohort(tmp_path / "p", calls, variant_allele=plain)}
    listed = np.array([[a, "*", b, "<NON_REF>"] for a, b in pairs], object)
    calls = np.where(calls == 1, 2, calls).astype(np.int8)
    calls[::7, 5] = [3, 0]
    paths["gvcf"] = helpers.write_cohort(tmp_path / "g", calls, variant_allele=listed)
    found = [
        project_ancestry(sgkit.load_dataset(path), model)["sample_ancestry_proportion"]
        for path in paths.values()
    ]
    np.testing.assert_array_equal(found[0].values, found[1].values)
