"""Workers as jobs of Slurm, as far as one can tell without it (`make test-slurm`)."""

import sys
from pathlib import Path
from typing import Any

import click.testing
import pytest
from dask_jobqueue import SLURMCluster

from pipeline import cli, cluster, devices, slurm, slurm_config
from pipeline.errors import InputError
from pipeline.slurm_config import SlurmConfig
from tests import helpers


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gpus_per_task": 2}, "gpus_per_task is 2; a worker computes on one GPU"),
        ({"gpus_per_task": -1}, "gpus_per_task is -1"),
        ({"cpus_per_task": 0}, "cpus_per_task is 0; it must be positive"),
        ({"min_workers": 0}, "min_workers is 0 and max_workers 1; at least one"),
        ({"min_workers": 3, "max_workers": 2}, "min_workers is 3 and max_workers 2"),
        ({"walltime": "4h"}, 'walltime is "4h"; write it as in "04:00:00"'),
        ({"memory": "much"}, "much is no amount of memory; give slurm.memory as in"),
        ({"memory": "100MiB"}, "memory is 100MiB; a worker needs 512MiB"),
        ({"max_wait": "never"}, "never is no length of time; give slurm.max_wait as"),
        ({"max_wait": "0s"}, "0s is no length of time; give slurm.max_wait as in 24h"),
    ],
)
def test_config__refuses_what_will_not_do(changes: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        SlurmConfig(**changes)


@pytest.mark.parametrize("walltime", ["30", "04:00:00", "1-00", "2-12:30:00"])
def test_config__takes_the_times_that_slurm_takes(walltime: str):
    assert SlurmConfig(walltime=walltime).walltime == walltime


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[slurm]\nqueue = "gpu"', r"unknown key queue in \[slurm\]; known are partit"),
        ('partition = "gpu"', "unknown key partition in the top level"),
        ("[slurm]\nmin_workers = true", "min_workers is True; it must be of type int"),
        ("[slurm", "is not TOML"),
    ],
)
def test_load_config__refuses_other_keys(tmp_path: Path, text: str, message: str):
    path = tmp_path / "cluster.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        slurm_config.load_config(path)


def test_load_config__says_which_option_named_the_file(tmp_path: Path):
    with pytest.raises(InputError, match="No such file.*; check --cluster-config"):
        slurm_config.load_config(tmp_path / "none.toml")
    assert slurm_config.load_config(None) == SlurmConfig()


def _script(**changes: Any) -> str:
    job = SLURMCluster.job_cls("tcp://10.0.0.1:1", name="w", **_options(**changes))
    return job.job_script()


def _options(**changes: Any) -> dict[str, Any]:
    return slurm.job_options(SlurmConfig(**changes))


def test_job_options__ask_slurm_for_what_the_file_says():
    script = _script(
        partition="gpu",
        account="lab",
        gpus_per_task=1,
        cpus_per_task=4,
        memory="32GiB",
        walltime="1-00",
        interface="lo",
        local_directory="/scratch",
        directives=("--constraint=a100",),
        prologue=("module load cuda",),
    )
    for line in (
        "#SBATCH -p gpu",
        "#SBATCH -A lab",
        "#SBATCH --gres=gpu:1",
        "#SBATCH --cpus-per-task=4",
        "#SBATCH --mem=32768M",
        "#SBATCH -t 1-00",
        "#SBATCH --no-requeue",
        "#SBATCH --constraint=a100",
        "module load cuda",
    ):
        assert line in script.splitlines(), script
    command = script.splitlines()[-1]
    program = f"exec {sys.executable} -m distributed.cli.dask_worker tcp://"
    assert command.startswith(program)
    for option in (
        "--nthreads 1",
        "--memory-limit 31.75GiB",
        "--interface lo",
        "--local-directory /scratch",
        "--dashboard-address 127.0.0.1:0",
        "--death-timeout 60",
    ):
        assert option in command


def test_job_options__leave_the_gpu_to_slurm():
    assert "gres" not in _script()
    script = _script(gpus_per_task=1)
    assert "CUDA_VISIBLE_DEVICES" not in script
    assert "JAX" not in script, "set by workers.pin, once the device is known"


def test_job_options__start_workers_as_local_ones_start():
    exported = dict(
        line.removeprefix("export ").split("=", 1)
        for line in _options()["job_script_prologue"]
    )
    assert exported == cluster.startup_environment()
    local = devices.worker_environment(None)
    assert devices.startup_environment().items() <= local.items()


def test_slurm_cluster__says_where_there_is_no_slurm(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    with (
        pytest.raises(InputError, match="sbatch is not there to submit jobs with; run"),
        slurm.slurm_cluster(SlurmConfig()),
    ):
        pass


def _pretend_sbatch(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "sbatch"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_slurm_cluster__passes_on_why_slurm_would_not_take_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    _pretend_sbatch(tmp_path, "echo no such partition >&2; exit 1", monkeypatch)
    config = SlurmConfig(interface="lo", shared_directory=str(tmp_path))
    message = r"would not take a worker's job \(no such partition\); mend --cluster-con"
    with pytest.raises(InputError, match=message), slurm.slurm_cluster(config):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["sbatch"]


def test_slurm_cluster__refuses_an_interface_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    _pretend_sbatch(tmp_path, "exit 0", monkeypatch)
    config = SlurmConfig(interface="ib9", shared_directory=str(tmp_path))
    with (
        pytest.raises(InputError, match="'ib9' is not a valid .*; check slurm.int"),
        slurm.slurm_cluster(config),
    ):
        pass


def test_slurm_cluster__refuses_a_shared_directory_that_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    _pretend_sbatch(tmp_path, "exit 0", monkeypatch)
    config = SlurmConfig(shared_directory=str(tmp_path / "sbatch" / "x"))
    with (
        pytest.raises(InputError, match="set slurm.shared_directory to a folder that"),
        slurm.slurm_cluster(config),
    ):
        pass


def _run(tmp_path: Path, *options: str) -> click.testing.Result:
    source = helpers.write_cohort(
        tmp_path / "cohort.vcz", helpers.random_genotypes(30, 10)
    )
    arguments = ["run", source, "--output", str(tmp_path / "out"), *options]
    return click.testing.CliRunner().invoke(cli.main, arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--cluster", "slurm", "--workers", "2"), "--workers and --cluster exclude"),
        (("--cluster-config", "x.toml"), "; give --cluster slurm"),
        (("--cluster", "slurm", "--cluster-config", "none.toml"), "none.toml: No such"),
        (("--cluster", "pbs"), "'pbs' is not 'slurm'"),
    ],
)
def test_run__bad_options_are_one_line(
    tmp_path: Path, options: tuple[str, ...], message: str
):
    result = _run(tmp_path, *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_run__without_the_extra_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delitem(sys.modules, "pipeline.slurm")
    monkeypatch.delattr("pipeline.slurm")
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    result = _run(tmp_path, "--cluster", "slurm")
    assert result.exit_code == 2
    assert "pip install '.[slurm]'" in result.stderr
