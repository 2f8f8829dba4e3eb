"""The package as pip installs it: with the pip that Python brings, no constraints."""

import shutil
import subprocess
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXTRAS = ("", "[watch,s3,slurm,pgen,bgen]")


def _call(*words: str | Path) -> None:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.install
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("extras", EXTRAS)
def test_install__with_the_pip_of_python_and_no_constraints(
    tmp_path: Path, extras: str
):
    # A copy, because pip builds in the folder, and would leave its files there.
    source, environment = tmp_path / "source", tmp_path / "environment"
    for name in ("estimator", "pipeline", "pyproject.toml", "README.md", "LICENSE"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        source.mkdir(exist_ok=True)
        copy(ROOT / name, source / name)
    # Not upgraded: what `python -m venv` gives is what people have.
    venv.create(environment, with_pip=True)
    python, command = (environment / "bin" / n for n in ("python", "streamixture"))
    _call(python, "-m", "pip", "install", "--quiet", f"{source}{extras}")
    _call(python, "-m", "pip", "check")
    cohort, output = tmp_path / "cohort.vcz", tmp_path / "out"
    sizes = ("--samples", "60", "--variants", "500", "-k", "2")
    _call(command, "simulate", cohort, *sizes)
    _call(command, "run", cohort, "--output", output, "-k", "2", "--no-qc")
    assert (output / "ancestry.zarr").is_dir()
