"""Runs that lose a worker or their driver, by real signals to real processes."""

import contextlib
import dataclasses
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import distributed
import pytest

from pipeline import cluster, devices, run
from pipeline.errors import InputError
from pipeline.simulate import simulate
from pipeline.tasks import Cluster
from tests.dask_processes import DaskProcesses
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


# After a stage's sign, so that five deaths fall on different tasks.
KILL_DELAYS = (0.0, 0.02, 0.04, 0.07, 0.1)


@pytest.mark.parametrize(
    ("stage", "attempt"),
    [
        pytest.param(
            stage,
            attempt,
            marks=[] if (stage, attempt) == ("fit", 0) else pytest.mark.soak,
        )
        for stage in SIGNS
        for attempt in range(len(KILL_DELAYS))
    ],
)
def test_run__survives_the_death_of_a_worker(
    stage: str,
    attempt: int,
    cohort: Path,
    workers: Cluster,
    undisturbed: dict[str, bytes],
    tmp_path: Path,
):
    output = tmp_path / "out"
    workers.client.wait_for_workers(2, timeout=60)
    victim = sorted(workers.ask(os.getpid).values())[attempt % 2]

    def kill() -> None:
        wait_for(output / ".work" / SIGNS[stage])
        time.sleep(KILL_DELAYS[attempt])
        os.kill(victim, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    run.run(str(cohort), output, minimal_config(2), contextlib.nullcontext(workers))
    killer.join()
    with pytest.raises(ProcessLookupError):
        os.kill(victim, 0)
    assert tree_bytes(output) == undisturbed


@pytest.mark.soak
@pytest.mark.parametrize("stage", SIGNS)
def test_run__moves_the_work_of_a_frozen_worker(
    stage: str,
    cohort: Path,
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    output = tmp_path / "out"
    monkeypatch.setattr(cluster, "SILENCE_TIMEOUT", "5s")
    with cluster.local_cluster(devices.plan_workers([], 2)) as workers:
        victim = next(iter(workers.ask(os.getpid).values()))

        def freeze() -> None:
            wait_for(output / ".work" / SIGNS[stage])
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


@pytest.mark.soak
def test_run__workers_may_join_and_leave_during_the_fit(
    cohort: Path, undisturbed: dict[str, bytes], tmp_path: Path
):
    """On a cluster of processes that others started."""
    output = tmp_path / "out"
    with DaskProcesses(tmp_path) as processes:
        first = processes.worker("first")
        wait_for(processes.file)
        address = cluster.read_scheduler_file(processes.file)
        with distributed.Client(address, set_as_default=False) as client:
            client.wait_for_workers(1, timeout=60)

        def replace() -> None:
            wait_for(output / ".work" / SIGNS["fit"])
            processes.worker("second")
            first.kill()

        replacer = threading.Thread(target=replace)
        replacer.start()
        existing = cluster.existing_cluster(address)
        run.run(str(cohort), output, minimal_config(2), existing)
        replacer.join()
        assert first.wait(10) == -signal.SIGKILL
    assert tree_bytes(output) == undisturbed


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def _fill(folder: Path) -> None:
    """Leave no room on the file system of a folder."""
    with contextlib.suppress(OSError), (folder / "ballast").open("wb") as ballast:
        while True:
            ballast.write(bytes(4_096))
            ballast.flush()


@pytest.mark.parametrize(
    "step",
    [
        pytest.param("run.prepare", marks=pytest.mark.soak),
        pytest.param("fit_stage.fit", marks=pytest.mark.soak),
        pytest.param("fit_stage.train", marks=pytest.mark.soak),
        pytest.param("run.apply_model", marks=pytest.mark.soak),
        "run.write_report",
    ],
)
def test_run__on_a_full_disk_keeps_the_earlier_result_and_resumes(
    step: str,
    cohort: Path,
    workers: Cluster,
    undisturbed: dict[str, bytes],
    small_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    output, config = small_disk / "out", minimal_config(2)
    earlier = dataclasses.replace(config, seed=config.seed + 1)
    nothing = contextlib.nullcontext(workers)
    run.run(str(cohort), output, earlier, nothing)
    before = tree_bytes(output)
    module, _, name = step.partition(".")
    usual = getattr(importlib.import_module(f"pipeline.{module}"), name)

    def fail(*arguments: Any, **options: Any) -> Any:
        _fill(small_disk)
        return usual(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(f"pipeline.{step}", fail)
        # What the command line tells in one line.
        with pytest.raises((OSError, InputError), match="No space left on device"):
            run.run(str(cohort), output, config, nothing, overwrite=True)
    assert tree_bytes(output) == before
    (small_disk / "ballast").unlink()
    run.run(str(cohort), output, config, nothing, resume=True)
    assert tree_bytes(output) == undisturbed


# A run as its own process, which kills itself, or its workers with it, when a piece of
# work has come so far. Workers import the script too, and must not get jax by it.
DRIVER = """
if __name__ == "__main__":
    import os
    import signal
    import sys
    from pathlib import Path
    from pipeline import cluster, devices, progress, run
    from tests.test_pipeline_run import minimal_config

    source, output, title, count, victims = sys.argv[1:]

    class Fatal(progress.Progress):
        def __init__(self, *args):
            super().__init__(*args)
            self.advance(0)

        def advance(self, steps=1, note="", **figures):
            super().advance(steps, note, **figures)
            if (self._title, self._done) == (title, int(count)):
                kill = os.killpg if victims == "all" else os.kill
                kill(os.getpid(), signal.SIGKILL)

    progress.Progress = Fatal
    started = cluster.local_cluster(devices.plan_workers([], 2))
    resume = victims == "none"
    run.run(source, Path(output), minimal_config(2), started, resume=resume)
"""
STAGES = {
    "prepare": "prepared.zarr",
    "fit": None,
    "train": "model.zarr",
    "apply": "ancestry.zarr",
}
PREPARING, APPLYING = "preparing genotypes", "applying the model"


@pytest.fixture
def drive(cohort: Path, tmp_path: Path) -> Callable[..., int]:
    """Run in a process of its own, and give its exit status."""
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}

    def start(title: str, count: int, victims: str) -> int:
        arguments = [cohort, tmp_path / "out", title, count, victims]
        return subprocess.run(
            [sys.executable, script, *map(str, arguments)],
            env=environment,
            start_new_session=True,
        ).returncode

    return start


def _block_times(store: Path) -> dict[str, int]:
    """When each block that is marked was written; a block is one chunk here."""
    blocks = [path.name for path in (store / "done").glob("[0-9]")]
    return {b: (store / "sample_n_called" / b).stat().st_mtime_ns for b in blocks}


def _finished_times(folder: Path) -> dict[str, int]:
    found = {path.name: path / ".zmetadata" for path in folder.glob("*.zarr")}
    return {n: path.stat().st_mtime_ns for n, path in found.items() if path.exists()}


@pytest.mark.soak
@pytest.mark.parametrize(
    ("stage", "title", "count", "victims"),
    [
        ("prepare", PREPARING, 0, "driver"),
        ("prepare", PREPARING, 1, "driver"),
        ("prepare", PREPARING, 2, "all"),
        ("prepare", PREPARING, 4, "driver"),
        ("fit", "starting values", 0, "all"),
        ("fit", "fitting", 1, "driver"),
        ("fit", "fitting", 4, "all"),
        ("fit", "fitting", 6, "driver"),
        ("train", "distilling the encoder", 0, "all"),
        ("train", "training the encoder", 1, "driver"),
        ("train", "training the encoder", 2, "all"),
        ("apply", APPLYING, 1, "driver"),
        ("apply", APPLYING, 3, "all"),
        ("apply", APPLYING, 4, "driver"),
    ],
)
def test_run__resumes_after_the_death_of_its_driver(
    stage: str,
    title: str,
    count: int,
    victims: str,
    drive: Callable[..., int],
    undisturbed: dict[str, bytes],
    tmp_path: Path,
):
    output = tmp_path / "out"
    assert drive(title, count, victims) == -signal.SIGKILL
    work = output / ".work"
    finished = _finished_times(work)
    names = list(STAGES)
    earlier = names[: names.index(stage)]
    assert set(finished) == {STAGES[name] for name in earlier} - {None}
    store = STAGES[stage] or "prepared.zarr"
    blocks = _block_times(work / store)
    assert len(blocks) >= (count if title in (PREPARING, APPLYING) else 0)
    assert drive("", 0, "none") == 0
    assert finished.items() <= _finished_times(output).items()
    counts = output / store / "sample_n_called"
    for block, written in blocks.items():
        assert (counts / block).stat().st_mtime_ns == written
    records = json.loads((output / "run.json").read_text())["stages"]
    attempts = {record["name"]: record["attempts"] for record in records}
    assert attempts == {name: 2 if name == stage else 1 for name in names}
    assert tree_bytes(output) == undisturbed
