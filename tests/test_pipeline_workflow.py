"""The Python functions: what a Dataset becomes, and what importing them costs."""

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import dask.array as da
import numpy as np
import pytest
import sgkit
import xarray as xr

import pipeline
from pipeline import cluster, dataset_fit, schema
from pipeline.cohort import open_cohort
from pipeline.config import RunConfig
from pipeline.errors import InputError
from pipeline.store import Store
from tests import helpers

GENOTYPES = helpers.random_genotypes(30, 11)
KEPT = [2, 3, 5, 8, 13, 21]
K = 2
FIGURES = {
    "log_likelihood": -12.5,
    "observed_genotypes": 7,
    "n_populations": K,
    "converged": False,
    "data_passes": 9,
    "method": "likelihood",
}


def dataset(path: Path, **changes: Any) -> xr.Dataset:
    helpers.write_cohort(path, GENOTYPES, **changes)
    return xr.open_zarr(path)


class Run:
    """Stands in for a run: keeps what it was asked for, and writes its results."""

    def __init__(self) -> None:
        self.calls = np.empty(0)
        self.config = RunConfig()
        self.source = ""

    def __call__(
        self, source: str, output: Path, config: RunConfig, *_: Any, **options: Any
    ) -> None:
        cohort = open_cohort(source)
        self.source, self.config, self.options = source, config, options
        self.calls = cohort.dataset["call_genotype"].values
        prepared = Store.create(output / "prepared.zarr", "prepared")
        index = schema.PREPARED["variant_index"]
        prepared.write("variant_index", index, np.array(KEPT))
        found = Store.create(output / "ancestry.zarr", "ancestry")
        q = np.full((cohort.n_samples, K), 0.5, np.float32)
        p = np.arange(len(KEPT) * K, dtype=np.float32).reshape(-1, K)
        values: dict[str, np.ndarray] = {
            "sample_ancestry_proportion": q,
            "sample_log_likelihood": q[:, 0].astype(np.float64),
            "sample_in_fit": q[:, 0] > 0,
            "sample_n_called": np.arange(len(q)),
            "variant_population_frequency": p,
        }
        for name, array in values.items():
            found.write(name, schema.ANCESTRY[name], array)
        found.set_attrs(**FIGURES)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Run:
    fake = Run()
    monkeypatch.setattr(dataset_fit.run, "run", fake)
    monkeypatch.setattr(cluster, "current_cluster", contextlib.nullcontext)
    return fake


def test_import__brings_neither_jax_nor_the_stages():
    code = "import sys; from pipeline import project_ancestry; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"jax", "sgkit", "xarray", "dask", "zarr", "numpy"}


def test_estimate__rows_are_the_datasets(tmp_path: Path, ran: Run):
    ds = dataset(tmp_path / "cohort.vcz").rename(call_genotype="gt")
    found = pipeline.estimate_ancestry(
        ds, K, call_genotype="gt", quality_control=False, seed=7, scratch=tmp_path
    )
    np.testing.assert_array_equal(ran.calls, GENOTYPES)
    assert ran.source.startswith(str(tmp_path))
    assert not Path(ran.source).exists()
    assert (ran.config.fit.n_populations, ran.config.seed) == (K, 7)
    assert not ran.config.qc.enabled
    assert set(ds.variables) < set(found.variables)
    assert "sample_n_called" not in found
    p = found["variant_population_frequency"]
    assert p.dims == ("variants", "populations")
    assert np.flatnonzero(np.isfinite(p.values[:, 0])).tolist() == KEPT
    np.testing.assert_array_equal(p.values[KEPT].ravel(), np.arange(12))
    alone = pipeline.estimate_ancestry(
        ds, K, call_genotype="gt", output=tmp_path / "out", merge=False
    )
    assert set(alone) == set(found) - set(ds)
    for each in (found, alone):
        assert "sample_id" in each.coords
        assert each.sample_id.values.tolist() == ds.sample_id.values.tolist()
        assert FIGURES.items() <= each.attrs.items()
    assert ds.attrs.items() <= found.attrs.items()
    assert alone.attrs == FIGURES
    assert "sample_id" not in ds.coords
    assert (tmp_path / "out" / "ancestry.zarr").is_dir()


def test_estimate__takes_any_chunks_and_selections(tmp_path: Path, ran: Run):
    ds = dataset(tmp_path / "cohort.vcz")
    people = np.array([0, 3, 4, 9])
    some = ds.isel(samples=people, variants=slice(4, None))
    pipeline.estimate_ancestry(some, K)
    np.testing.assert_array_equal(ran.calls, GENOTYPES[4:][:, people])
    irregular = da.from_array(GENOTYPES, chunks=((3, 20, 7), (6, 1, 4), (1, 1)))
    pipeline.estimate_ancestry(
        ds.assign(call_genotype=(ds["call_genotype"].dims, irregular)), K
    )
    np.testing.assert_array_equal(ran.calls, GENOTYPES)
    pipeline.estimate_ancestry(ds.load(), K, config=RunConfig(seed=3))
    np.testing.assert_array_equal(ran.calls, GENOTYPES)
    assert ran.config.seed == 3


def test_estimate__refuses_what_is_no_cohort(tmp_path: Path, ran: Run):
    ds = dataset(tmp_path / "cohort.vcz")
    with pytest.raises(InputError, match="the Dataset: is not VCF Zarr: it lacks sam"):
        pipeline.estimate_ancestry(ds.drop_vars("sample_id"), K)
    with pytest.raises(InputError, match="samples, variants, ploidy"):
        pipeline.estimate_ancestry(
            ds.assign(call_genotype=ds["call_genotype"].transpose("samples", ...)), K
        )
    assert ran.source == ""


def test_estimate__results_are_named_after_the_cohort(tmp_path: Path, ran: Run):
    helpers.write_cohort(tmp_path / "cohort.vcz", GENOTYPES)
    ds = sgkit.load_dataset(str(tmp_path / "cohort.vcz"))
    pipeline.estimate_ancestry(ds, K)
    assert ran.options["name"] == "cohort.vcz"
    pipeline.estimate_ancestry(xr.Dataset(ds.variables, attrs=ds.attrs), K)
    assert ran.options["name"] == "Dataset"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_populations": 0}, "^n_populations is 0; it must be positive$"),
        ({"n_populations": "3"}, "^n_populations is '3'; it must be a whole number$"),
        ({"n_populations": 12}, "has 11 people, and 12 .*; lower n_populations$"),
        ({"seed": -1}, r"^seed is -1; it must be in \[0"),
        ({"seed": 1.5}, r"^seed is 1\.5; it must be a whole number$"),
        ({"scratch": "no/such/folder"}, "^scratch: folder no/such/folder does not"),
        ({"config": "no.toml"}, r"no\.toml: No such file.*; check config$"),
        ({"output": "taken"}, r"has ancestry\.zarr already; pass overwrite=True to"),
        ({"output": "file"}, "is a file; name a directory for output$"),
    ],
)
def test_estimate__errors_name_parameters_before_any_work(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    message: str,
):
    def never(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("nothing is copied or started for this")

    ds = dataset(tmp_path / "cohort.vcz")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken" / "ancestry.zarr").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    for module, name in (
        (cluster, "current_cluster"),
        (dataset_fit.vcf_zarr, "copy_dataset"),
        (dataset_fit.run, "run"),
    ):
        monkeypatch.setattr(module, name, never)
    with pytest.raises(InputError, match=message) as caught:
        pipeline.estimate_ancestry(ds, **options)
    assert "--" not in str(caught.value)
    assert not any((tmp_path / "taken" / "ancestry.zarr").iterdir())


def test_estimate__errors_of_the_run_name_the_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    nobody = np.full((30, 11, 2), -1, np.int8)
    helpers.write_cohort(tmp_path / "cohort.vcz", nobody)
    ds = xr.open_zarr(tmp_path / "cohort.vcz").load()
    serial = helpers.SerialCluster()
    monkeypatch.setattr(
        cluster, "current_cluster", lambda: contextlib.nullcontext(serial)
    )
    with (
        pytest.raises(InputError, match="^the Dataset: no variants are left") as caught,
    ):
        pipeline.estimate_ancestry(ds, K, output=tmp_path / "out")
    assert "dataset.vcz" not in str(caught.value)
    assert not (tmp_path / "out").exists()
