"""The example of a GWAS with ancestry as covariates, run as its docstring says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sgkit

from pipeline import project_ancestry
from pipeline.simulate import simulate
from tests.dask_processes import ROOT

EXAMPLE = Path(ROOT) / "deploy" / "sgkit_gwas.py"
K = 3
# Without what takes seconds to compile, and changes nothing here.
CONFIG = """
[qc]
max_ld_r2 = 1
relatives = "ignore"
[train]
epochs = 1
[apply]
standard_errors = "none"
fit_check_people = 0
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sgkit")
    sizes = {"n_samples": 300, "n_variants": 3_000, "n_populations": K}
    simulate(folder / "cohort.vcz", **sizes, fst=0.1, seed=5)  # type: ignore[arg-type]
    (folder / "fast.toml").write_text(CONFIG)
    command = [sys.executable, str(EXAMPLE), "cohort.vcz", "--output", "out"]
    command += ["--config", "fast.toml"]
    cores = os.sched_getaffinity(0)
    # One core, one worker: most of the time goes into starting them. The command
    # inherits this thread's core.
    os.sched_setaffinity(0, [min(cores)])
    try:
        environment = {**os.environ, "PYTHONPATH": ROOT}
        subprocess.run(command, cwd=folder, env=environment, check=True)
    finally:
        os.sched_setaffinity(0, cores)
    return folder


def test_example__ancestry_takes_the_inflation_away(folder: Path):
    inflation = json.loads((folder / "out" / "inflation.json").read_text())
    assert inflation["without ancestry"] > 1.5
    assert inflation["with ancestry"] < 1.1
    for figure in ("ancestry.png", "quantiles.png"):
        assert (folder / "out" / figure).read_bytes().startswith(b"\x89PNG")


def test_example__projection_is_the_estimate(folder: Path):
    ds = sgkit.load_dataset(str(folder / "cohort.vcz"))
    results = folder / "out" / "ancestry"
    q = sgkit.load_dataset(str(results / "ancestry.zarr"))
    found = project_ancestry(ds, results / "model.zarr", merge=False)
    np.testing.assert_allclose(
        found["sample_ancestry_proportion"].values,
        q["sample_ancestry_proportion"].values,
        atol=2e-4,
    )
