"""Runs that lose a worker or their driver, by real signals to real processes."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import cluster, devices, run
from pipeline.simulate import simulate
from pipeline.tasks import Cluster
from tests.test_pipeline_run import minimal_config, tree_bytes

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

# What appears in the working directory when a stage has begun.
SIGNS = {
    "prepare": "prepared.zarr/.zgroup",
    "fit": "rounds/search.json",
    "train": "rounds/encoder/projector.npz",
    "apply": "ancestry.zarr/.zgroup",
}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("faults") / "cohort.vcz"
    sizes = {"n_samples": 200, "n_variants": 1_000, "n_populations": 2}
    simulate(path, **sizes, chunk_samples=50, seed=3)  # type: ignore[arg-type]
    return path


@pytest.fixture(scope="module")
def workers() -> Iterator[Cluster]:
    with cluster.local_cluster(devices.plan_workers([], 2)) as started:
        yield started


@pytest.fixture(scope="module")
def undisturbed(
    cohort: Path, workers: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    run.run(str(cohort), output, minimal_config(2), contextlib.nullcontext(workers))
    return tree_bytes(output)


def wait_for(path: Path, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.005)


@pytest.mark.parametrize(
    "stage",
    [
        pytest.param("prepare", marks=pytest.mark.soak),
        "fit",
        pytest.param("train", marks=pytest.mark.soak),
        pytest.param("apply", marks=pytest.mark.soak),
    ],
)
def test_run__survives_the_death_of_a_worker(
    stage: str,
    cohort: Path,
    workers: Cluster,
    undisturbed: dict[str, bytes],
    tmp_path: Path,
):
    output = tmp_path / "out"
    workers.client.wait_for_workers(2)
    victim = next(iter(workers.client.run(os.getpid).values()))

    def kill() -> None:
        wait_for(output / ".work" / SIGNS[stage])
        os.kill(victim, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    run.run(str(cohort), output, minimal_config(2), contextlib.nullcontext(workers))
    killer.join()
    with pytest.raises(ProcessLookupError):
        os.kill(victim, 0)
    assert tree_bytes(output) == undisturbed


@pytest.mark.soak
def test_run__moves_the_work_of_a_frozen_worker(
    cohort: Path,
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    output = tmp_path / "out"
    monkeypatch.setattr(cluster, "SILENCE_TIMEOUT", "5s")
    with cluster.local_cluster(devices.plan_workers([], 2)) as workers:
        victim = next(iter(workers.client.run(os.getpid).values()))

        def freeze() -> None:
            wait_for(output / ".work" / SIGNS["fit"])
            os.kill(victim, signal.SIGSTOP)

        freezer = threading.Thread(target=freeze)
        freezer.start()
        try:
            nothing = contextlib.nullcontext(workers)
            run.run(str(cohort), output, minimal_config(2), nothing)
        finally:
            freezer.join()
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
    assert tree_bytes(output) == undisturbed


# A run as its own process. Workers import the script too, and must not get jax by it.
DRIVER = """
if __name__ == "__main__":
    import sys
    from pathlib import Path
    from pipeline import cluster, devices, run
    from tests.test_pipeline_run import minimal_config

    source, output, mode = sys.argv[1:]
    started = cluster.local_cluster(devices.plan_workers([], 2))
    config, resume = minimal_config(2), mode == "resume"
    run.run(source, Path(output), config, started, resume=resume)
"""


@pytest.mark.soak
@pytest.mark.parametrize("stage", ["fit", "train"])
def test_run__resumes_after_the_death_of_its_driver(
    stage: str, cohort: Path, undisturbed: dict[str, bytes], tmp_path: Path
):
    script, output = tmp_path / "driver.py", tmp_path / "out"
    script.write_text(DRIVER)
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root}
    command = [sys.executable, str(script), str(cohort), str(output)]
    # Its own session, so that its workers are killed with it.
    driver = subprocess.Popen(
        [*command, "start"], env=environment, start_new_session=True
    )
    wait_for(output / ".work" / SIGNS[stage])
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    prepared = output / ".work" / "prepared.zarr"
    before = prepared.stat().st_mtime_ns
    assert not (output / "ancestry.zarr").exists()
    subprocess.run([*command, "resume"], env=environment, check=True)
    assert (output / "prepared.zarr").stat().st_mtime_ns == before
    assert tree_bytes(output) == undisturbed
