"""The scripts and examples of deploy/slurm, as far as one can tell without Slurm."""

import dataclasses
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest

from pipeline import cli, cluster, slurm_config
from pipeline.slurm_config import SlurmConfig

FOLDER = Path(__file__).parents[1] / "deploy" / "slurm"
SCRIPTS = sorted(FOLDER.glob("*.sbatch"))


def test_cluster_toml__is_the_defaults():
    assert slurm_config.load_config(FOLDER / "cluster.toml") == SlurmConfig()


def test_cluster_toml__names_every_setting():
    written = tomllib.loads((FOLDER / "cluster.toml").read_text())
    assert written["slurm"].keys() == dataclasses.asdict(SlurmConfig()).keys()


@pytest.mark.parametrize("name", ["cluster.toml", "gpu.toml"])
def test_examples__are_read_by_the_program(name: str):
    assert slurm_config.load_config(FOLDER / name).max_workers >= 1


def test_folder__has_nothing_else():
    names = {path.name for path in FOLDER.iterdir()}
    assert names == {"cluster.toml", "gpu.toml", "jobqueue.sbatch", "srun.sbatch"}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts__are_bash(path: Path):
    subprocess.run(["bash", "-n", path], check=True, timeout=30)


def test_srun__starts_workers_as_local_ones_start():
    text = (FOLDER / "srun.sbatch").read_text()
    block = re.search(r"worker_environment=\((.*?)\)", text, re.DOTALL)
    assert block is not None
    written = dict(word.split("=", 1) for word in block[1].split())
    assert written == cluster.startup_environment()


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts__call_the_program_with_options_that_it_has(path: Path):
    text = path.read_text().replace("\\\n", " ")
    (line,) = (line for line in text.splitlines() if line.startswith("streamixture "))
    words = shlex.split(line.removesuffix("&"))
    assert words[1] == "run"
    # What the user gives, and what the shell puts in.
    given = ["cohort.vcz", "--output", "out", "-k", "5"]
    at = words.index("$@")
    arguments = [*words[2:at], *given, *words[at + 1 :]]
    arguments = ["2" if word == "$SLURM_NTASKS" else word for word in arguments]
    with cli.run.make_context("run", arguments) as context:
        assert context.params["resume"]
