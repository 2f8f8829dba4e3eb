"""Commands that are told to stop, by real signals to real processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from pipeline.simulate import simulate
from tests.dask_processes import ROOT, wait_until

STREAMIXTURE = str(Path(sys.executable).parent / "streamixture")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("launch") / "cohort.vcz"
    sizes = {"n_samples": 200, "n_variants": 1_000, "n_populations": 2}
    simulate(path, **sizes, seed=3)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize(
    ("number", "status", "said"),
    [
        (signal.SIGTERM, 143, "Error: stopped by SIGTERM; go on with --resume"),
        pytest.param(
            signal.SIGINT,
            130,
            "Error: stopped by SIGINT; go on with --resume",
            marks=pytest.mark.soak,
        ),
        pytest.param(signal.SIGKILL, -9, None, marks=pytest.mark.soak),
    ],
)
def test_run__stopped_leaves_no_worker_and_one_line(
    cohort: Path,
    tmp_path: Path,
    number: signal.Signals,
    status: int,
    said: str | None,
):
    output = tmp_path / "out"
    command = [STREAMIXTURE, "run", str(cohort), "--output", str(output), "-k", "2"]
    command += ["--workers", "2", "--no-qc"]
    environment = {**os.environ, "PYTHONPATH": ROOT}
    started = subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True
    )
    rounds = output / ".work" / "rounds"
    wait_until((rounds / "search.json").exists, 120)
    children = psutil.Process(started.pid).children(recursive=True)
    assert len(children) >= 2
    started.send_signal(number)
    _, errors = started.communicate(timeout=60)
    assert started.returncode == status
    wait_until(lambda: not any(child.is_running() for child in children), 20)
    assert "Traceback" not in errors
    if said is not None:
        last = [line for line in errors.splitlines() if " INFO " not in line]
        assert last == [said]
    assert rounds.exists()
    assert not (output / "ancestry.zarr").exists()
