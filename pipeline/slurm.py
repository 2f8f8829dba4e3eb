"""Workers as jobs of Slurm: the script of a job, and the cluster of them.

The scheduler runs in this process, which is on a login node or in a small job of its
own; each worker is a job with one device. Jobs that end, by preemption or at their time
limit, are replaced while there is work.
"""

import contextlib
import logging
import math
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
from dask_jobqueue import SLURMCluster

from pipeline import cluster, stopping
from pipeline.errors import ClusterError, InputError
from pipeline.slurm_config import SlurmConfig
from pipeline.tasks import Cluster

# The nanny that restarts the worker within its job.
_NANNY_BYTES = 256 * 2**20
# A worker whose scheduler is gone ends its job, so that a run that was killed leaves
# none in the queue.
_DEATH_TIMEOUT_SECONDS = 60
# How often the number of jobs is thought over, and how many times in a row a job must
# look idle: between rounds all do for a moment, and a new one has to queue.
_ADAPT_INTERVAL = "5s"
_ADAPT_WAIT_COUNT = 12
_SUBMIT_SECONDS = 60


def job_options(config: SlurmConfig) -> dict[str, Any]:
    """What dask-jobqueue makes a job's script of.

    `workers.pin` sets what jax reads once the worker is there; CUDA_VISIBLE_DEVICES is
    Slurm's.
    """
    exports = [
        f"export {name}={shlex.quote(value)}"
        for name, value in cluster.startup_environment().items()
    ]
    gpus = [f"--gres=gpu:{config.gpus_per_task}"] if config.gpus_per_task else []
    return {
        "job_name": "streamixture",
        "queue": config.partition or None,
        "account": config.account or None,
        "walltime": config.walltime,
        "job_cpu": config.cpus_per_task,
        "job_mem": f"{math.ceil(config.memory_bytes / 2**20)}M",
        # One process with one thread.
        "cores": 1,
        "processes": 1,
        "memory": f"{config.memory_bytes - _NANNY_BYTES}B",
        # Slurm would requeue a job whose place another has already taken.
        "job_extra_directives": ["--no-requeue", *gpus, *config.directives],
        "job_script_prologue": [*exports, *config.prologue],
        "worker_extra_args": ["--dashboard-address", f"{cluster.LOOPBACK}:0"],
        "death_timeout": _DEATH_TIMEOUT_SECONDS,
        "interface": config.interface or None,
        "local_directory": config.local_directory or None,
        "log_directory": config.log_directory or None,
        # In the shell's place, so that Slurm's signals, SIGKILL at last, reach it: of
        # processes whose shell has ended, Slurm may lose sight.
        "python": f"exec {shlex.quote(sys.executable)}",
    }


@contextlib.contextmanager
def slurm_cluster(config: SlurmConfig) -> Iterator[Cluster]:
    """Start workers as jobs of Slurm, keep their number, and cancel them afterwards.

    Raises
    ------
    InputError
        If Slurm is not there or would not take such a job, or a worker will not do.
    ClusterError
        If no job begins, or all are lost and none begins, for too long.
    """
    for name in ("distributed", "dask_jobqueue"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    settings = {"distributed.scheduler.worker-ttl": cluster.SILENCE_TIMEOUT}
    with (
        _security(config) as security,
        dask.config.set(settings),
        cluster.io_loop() as loop,
        _start(config, security, loop) as started,
    ):
        # Of a fixed number of jobs (`scale`), dask-jobqueue replaces none.
        started.adapt(
            minimum_jobs=config.min_workers,
            maximum_jobs=config.max_workers,
            interval=_ADAPT_INTERVAL,
            wait_count=_ADAPT_WAIT_COUNT,
        )
        with cluster.queued_cluster(started, config.wait_seconds) as running:
            yield running


@contextlib.contextmanager
def _security(config: SlurmConfig) -> Iterator[Any]:
    """What scheduler and jobs know each other by, while the run lasts."""
    if not config.encrypt:
        yield None
        return
    chosen = config.shared_directory or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    shared = Path(chosen).expanduser()
    with contextlib.ExitStack() as stack:
        try:
            shared.mkdir(parents=True, exist_ok=True)
            folder = stack.enter_context(stopping.scratch_folder(shared))
        except OSError as error:
            raise InputError(
                f"{shared}: {error.strerror}; set slurm.shared_directory to a folder "
                "that all nodes see"
            ) from error
        yield cluster.write_certificates(Path(folder))


@contextlib.contextmanager
def _start(config: SlurmConfig, security: Any, loop: Any) -> Iterator[SLURMCluster]:
    if shutil.which("sbatch") is None:
        raise InputError(
            "sbatch is not there to submit jobs with; run where Slurm is, or without "
            "--cluster slurm"
        )
    try:
        started = SLURMCluster(
            **job_options(config),
            security=security,
            loop=loop,
            scheduler_options={
                "dashboard": False,
                "dashboard_address": f"{cluster.LOOPBACK}:0",
            },
        )
    except RuntimeError as error:
        raise InputError(
            f"the scheduler does not start here ({error.__cause__ or error}); check "
            "slurm.interface"
        ) from error
    # Jobs are cancelled one by one, and would queue on for a command that is gone.
    stopping.allow(cluster.CLOSE_TIMEOUT_SECONDS)
    try:
        check_job(started.job_script())
        yield started
    finally:
        with contextlib.suppress(TimeoutError):
            started.close(timeout=cluster.CLOSE_TIMEOUT_SECONDS)


def check_job(script: str) -> None:
    """Ask Slurm whether it would take a job; what it refuses would never begin.

    Raises
    ------
    InputError
        If it would not; the message has its reason.
    """
    command = ["sbatch", "--test-only"]
    try:
        answer = subprocess.run(
            command,
            input=script,
            capture_output=True,
            text=True,
            check=False,
            timeout=_SUBMIT_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise ClusterError(
            f"Slurm does not answer in {_SUBMIT_SECONDS} s; try again later"
        ) from error
    if answer.returncode:
        reason = answer.stderr.strip().splitlines() or ["no reason given"]
        raise InputError(
            f"Slurm would not take a worker's job ({reason[-1]}); mend --cluster-config"
        )
