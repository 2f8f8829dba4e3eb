"""The scripts of deploy/slurm, submitted to a real Slurm; `make test-slurm`.

Every job runs on the 1000 Genomes people of the demo, and ends with the bytes of the
first, which nothing disturbed.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import demo, slurm_config
from pipeline import slurm as jobs
from tests.dask_processes import ROOT
from tests.slurm_node import SlurmNode
from tests.test_pipeline_run import tree_bytes

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1_500)]

SCRIPTS = Path(ROOT) / "deploy" / "slurm"
PROGRAMS = ("sbatch", "slurmctld", "slurmd", "munged", "openssl")
# Under the load of two workers on the cores of one machine.
RUN_SECONDS = 900
ON_LOOPBACK = {
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "STREAMIXTURE_INTERFACE": "lo",
}
DESCRIPTION = """\
[slurm]
partition = "main"
gpus_per_task = 1
memory = "4GiB"
walltime = "00:30:00"
min_workers = 2
max_workers = 2
interface = "lo"
shared_directory = "{folder}"
log_directory = "{folder}/logs"
"""


@pytest.fixture(scope="module")
def slurm() -> Iterator[SlurmNode]:
    path = os.environ["PATH"] + ":/usr/sbin"
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if missing:
        pytest.fail(f"{', '.join(missing)} missing; run `make test-slurm`")
    # A socket lies in it, whose path must be short; jobs of any user read it.
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)
    try:
        with SlurmNode(folder) as node:
            yield node
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slurm") / "cohort.vcz"
    demo.write_demo_cohort(path)
    return path


def _submit_srun(slurm: SlurmNode, cohort: Path, folder: Path) -> str:
    command = ("sbatch", "--parsable", "--cpus-per-task=1", "--mem-per-cpu=4G")
    script = (str(SCRIPTS / "srun.sbatch"), str(cohort), "--output", "out", "-k", "5")
    return slurm.command(*command, *script, folder=folder, **ON_LOOPBACK)


def _submit_driver(slurm: SlurmNode, cohort: Path, folder: Path) -> str:
    (folder / "cluster.toml").write_text(DESCRIPTION.format(folder=folder))
    command = ("sbatch", "--parsable", "--mem=4G", str(SCRIPTS / "jobqueue.sbatch"))
    arguments = ("cluster.toml", str(cohort), "--output", "out", "-k", "5")
    return slurm.command(*command, *arguments, folder=folder, **ON_LOOPBACK)


def _log(folder: Path) -> str:
    logs = (*folder.glob("slurm-*.out"), *folder.glob("logs/*"))
    return "\n".join(path.read_text() for path in logs)


def _wait(condition: Callable[[], Any], folder: Path) -> None:
    deadline = time.monotonic() + RUN_SECONDS
    while not condition():
        assert time.monotonic() < deadline, _log(folder)
        time.sleep(0.2)


def _wait_for_rounds(folder: Path, n_rounds: int = 3) -> None:
    """Wait until the fit is under way."""
    rounds = folder / "out" / ".work" / "rounds"
    _wait(lambda: len(list(rounds.glob("*"))) > n_rounds, folder)


def _wait_for_end(slurm: SlurmNode, job: str, folder: Path, restarts: int = 0) -> None:
    """Wait until a job has ended well, after so many times back in the queue."""
    _wait(lambda: slurm.n_restarts(job) == restarts, folder)
    # Slurm lets a job that it put back wait for two minutes. A few seconds are needed:
    # the end of the job's first script would be taken for that of its next.
    if restarts:
        _wait(lambda: slurm.state(job) == "PENDING", folder)
        time.sleep(15)
        slurm.command("scontrol", "update", f"JobId={job}", "StartTime=now")
    _wait(lambda: slurm.state(job) in ("COMPLETED", "FAILED", "CANCELLED"), folder)
    assert slurm.state(job) == "COMPLETED", _log(folder)


def _figures(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "out" / "run.json").read_text())


def _gpus(folder: Path) -> list[str]:
    return [worker["cuda_visible_devices"] for worker in _figures(folder)["workers"]]


def _attempts_at_fit(folder: Path) -> int:
    stages = {stage["name"]: stage for stage in _figures(folder)["stages"]}
    return stages["fit"]["attempts"]


@pytest.fixture(scope="module")
def undisturbed(
    slurm: SlurmNode, cohort: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    job = _submit_srun(slurm, cohort, folder)
    _wait_for_end(slurm, job, folder)
    return folder


def test_srun__fits_on_two_tasks_with_a_gpu_each(undisturbed: Path):
    assert sorted(_gpus(undisturbed)) == ["0", "1"]
    assert _figures(undisturbed)["n_samples"] == demo.N_SAMPLES
    assert _attempts_at_fit(undisturbed) == 1
    assert not list(undisturbed.glob(".streamixture-*")), "certificates are left"


@pytest.mark.parametrize("event", ["tasks cancelled", "preempted", "time nearly up"])
def test_srun__goes_on_when_requeued_and_ends_with_the_same_bytes(
    slurm: SlurmNode, cohort: Path, undisturbed: Path, tmp_path: Path, event: str
):
    job = _submit_srun(slurm, cohort, tmp_path)
    _wait_for_rounds(tmp_path)
    if event == "tasks cancelled":
        slurm.command("scancel", f"{job}.0")
    elif event == "preempted":
        slurm.command("scontrol", "requeue", job)
    else:
        slurm.command("scancel", "--batch", "--signal=USR1", job)
    _wait_for_end(slurm, job, tmp_path, restarts=1)
    assert _attempts_at_fit(tmp_path) == 2
    assert sorted(_gpus(tmp_path)) == ["0", "1"]
    assert tree_bytes(tmp_path / "out") == tree_bytes(undisturbed / "out")


def test_jobqueue__replaces_a_cancelled_worker_and_ends_with_the_same_bytes(
    slurm: SlurmNode, cohort: Path, undisturbed: Path, tmp_path: Path
):
    driver = _submit_driver(slurm, cohort, tmp_path)
    _wait_for_rounds(tmp_path)
    before = set(slurm.jobs()) - {driver}
    assert len(before) == 2
    slurm.command("scancel", min(before))
    _wait(lambda: set(slurm.jobs()) - {driver} - before, tmp_path)
    _wait_for_end(slurm, driver, tmp_path)
    assert tree_bytes(tmp_path / "out") == tree_bytes(undisturbed / "out")
    # On a busy machine the run may end before the replacement has started up.
    assert sorted(_gpus(tmp_path)) in (["0"], ["1"], ["0", "1"])
    _wait(lambda: not slurm.jobs(), tmp_path)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_slurm_cluster__grows_with_the_work_and_shrinks_without(
    slurm: SlurmNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SLURM_CONF", slurm.environment["SLURM_CONF"])
    monkeypatch.setattr(jobs, "_ADAPT_INTERVAL", "1s")
    monkeypatch.setattr(jobs, "_ADAPT_WAIT_COUNT", 3)
    text = DESCRIPTION.format(folder=tmp_path).replace("min_workers = 2", "")
    (tmp_path / "cluster.toml").write_text(text)
    config = slurm_config.load_config(tmp_path / "cluster.toml")
    with jobs.slurm_cluster(config) as running:
        assert len(slurm.jobs()) == 1
        tasks = [running.submit(time.sleep, 20) for _ in range(8)]
        _wait(lambda: len(running.workers) == 2, tmp_path)
        found = [report.cuda_visible_devices for report in running.reports()]
        assert sorted(map(str, found)) == ["0", "1"]
        assert [result for _, result in running.completed(tasks)] == [None] * 8
        _wait(lambda: len(running.workers) == 1, tmp_path)
        _wait(lambda: len(slurm.jobs()) == 1, tmp_path)
        (certificates,) = tmp_path.glob("streamixture-*")
        assert certificates.stat().st_mode & 0o077 == 0
    _wait(lambda: not slurm.jobs(), tmp_path)
    assert not certificates.exists()


def test_jobqueue__goes_on_when_its_driver_is_requeued(
    slurm: SlurmNode, cohort: Path, undisturbed: Path, tmp_path: Path
):
    driver = _submit_driver(slurm, cohort, tmp_path)
    _wait_for_rounds(tmp_path)
    slurm.command("scontrol", "requeue", driver)
    _wait_for_end(slurm, driver, tmp_path, restarts=1)
    assert _attempts_at_fit(tmp_path) == 2
    assert tree_bytes(tmp_path / "out") == tree_bytes(undisturbed / "out")
    _wait(lambda: not slurm.jobs(), tmp_path)


def test_srun__bad_input_is_not_tried_again(slurm: SlurmNode, tmp_path: Path):
    job = _submit_srun(slurm, tmp_path / "nothing.vcz", tmp_path)
    _wait(lambda: slurm.state(job) == "FAILED", tmp_path)
    assert slurm.exit_status(job) == 2
    assert slurm.n_restarts(job) == 0
    assert "nothing.vcz: no such store" in _log(tmp_path)


def test_jobqueue__a_job_that_slurm_would_not_take_is_one_line(
    slurm: SlurmNode, cohort: Path, tmp_path: Path
):
    text = DESCRIPTION.format(folder=tmp_path).replace('"main"', '"absent"')
    (tmp_path / "absent.toml").write_text(text)
    script = (str(SCRIPTS / "jobqueue.sbatch"), "absent.toml", str(cohort))
    arguments = (*script, "--output", "out", "-k", "5")
    job = slurm.command(
        "sbatch", "--parsable", "--mem=4G", *arguments, folder=tmp_path, **ON_LOOPBACK
    )
    _wait(lambda: slurm.state(job) == "FAILED", tmp_path)
    assert slurm.exit_status(job) == 2
    assert "Slurm would not take a worker's job (" in _log(tmp_path)
