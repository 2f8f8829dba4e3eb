"""Processes started by scripts as people write them, and from awkward places."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import helpers
from tests.dask_processes import ROOT
from tests.helpers import random_genotypes

# A script without a guard, which says what it is each time that it is run.
UNGUARDED = """
import pathlib, sys
print("script", flush=True)
from pipeline import cluster, devices
with cluster.local_cluster(devices.plan_workers([], 1)) as workers:
    print(len(workers.ask(pathlib.Path)), "worker")
"""
ESTIMATE = """
import sgkit
from pipeline import estimate_ancestry
from pipeline.config import FitConfig, QCConfig, RunConfig, TrainConfig
config = RunConfig(
    qc=QCConfig(enabled=False),
    fit=FitConfig(max_rounds=2),
    train=TrainConfig(epochs=1),
)
ds = sgkit.load_dataset({path!r})
print(estimate_ancestry(ds, 2, config=config).sizes["populations"])
"""
# Processes that Python would not let start any of their own.
IN_A_POOL = """
import multiprocessing
from pipeline import cluster, devices

def work(_):
    with cluster.local_cluster(devices.plan_workers([], 1)):
        return "started"

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.map(work, [0])
"""
WHILE_STARTED = """
import multiprocessing
from pipeline import cluster, devices

def work():
    pass

if multiprocessing.current_process().name == "MainProcess":
    process = multiprocessing.get_context("spawn").Process(target=work)
    process.start()
    process.join()
else:
    with cluster.local_cluster(devices.plan_workers([], 1)):
        pass
"""


Finished = subprocess.CompletedProcess[str]


def call(script: Path, *options: str, text: str | None = None) -> Finished:
    return subprocess.run(
        [sys.executable, *options, *([] if options else [str(script)])],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{script.parent}"},
        input=text,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return tmp_path / "script.py"


def test_local_cluster__starts_from_a_script_without_a_guard(script: Path):
    script.write_text(UNGUARDED)
    assert call(script).stdout.splitlines() == ["script", "1 worker"]


@pytest.mark.parametrize("how", ["-c", "-", "-m"])
def test_local_cluster__starts_from_a_command_line_standard_input_and_a_module(
    how: str, script: Path
):
    """As from a notebook, whose main module has no file either."""
    script.write_text(UNGUARDED)
    options = {
        "-c": ("-c", UNGUARDED),
        "-": ("-",),
        "-m": ("-m", "script"),
    }
    found = call(script, *options[how], text=UNGUARDED if how == "-" else None)
    assert found.stdout.splitlines() == ["script", "1 worker"]


@pytest.mark.soak
def test_estimate_ancestry__runs_in_a_script_without_a_guard(
    script: Path, tmp_path: Path
):
    path = tmp_path / "cohort.vcz"
    helpers.write_cohort(path, random_genotypes(60, 300))
    script.write_text(ESTIMATE.format(path=str(path)))
    found = call(script)
    assert (found.stdout, found.returncode) == ("2\n", 0), found.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (IN_A_POOL, "workers cannot be started in a process of a pool"),
        (WHILE_STARTED, 'under `if __name__ == "__main__":`'),
    ],
)
def test_local_cluster__says_at_once_where_nothing_can_be_started(
    text: str, said: str, script: Path
):
    script.write_text(text)
    found = call(script)
    assert said in found.stderr
