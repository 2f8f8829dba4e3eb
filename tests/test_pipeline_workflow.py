"""The Python functions: what a Dataset becomes, and what importing them costs."""

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
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
    assert set(ds) < set(found)
    assert "sample_n_called" not in found
    p = found["variant_population_frequency"]
    assert p.dims == ("variants", "populations")
    assert np.flatnonzero(np.isfinite(p.values[:, 0])).tolist() == KEPT
    np.testing.assert_array_equal(p.values[KEPT].ravel(), np.arange(12))
    alone = pipeline.estimate_ancestry(
        ds, K, call_genotype="gt", output=tmp_path / "out", merge=False
    )
    assert set(alone) == set(found) - set(ds)
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
