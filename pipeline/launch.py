"""How a command starts and ends: on which workers, and with one line where it fails.

The cluster, and what imports jax, is imported when a command is called: bad usage and
`--help` need not wait for it.
"""

import contextlib
import errno
import functools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

import click

from pipeline import logs, stopping, watch, workers
from pipeline.errors import BusyError, ClusterError, InputError, install_extra
from pipeline.usage import CommandGroup

if TYPE_CHECKING:
    from pipeline.tasks import Cluster

Command = TypeVar("Command", bound=Callable[..., Any])

JOB_SYSTEMS = ("slurm",)

_FAILED = 1
_BAD_INPUT = 2
# EX_TEMPFAIL of sysexits.h, which mail and job schedulers know as "try again later".
_TRY_LATER = 75
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)


class Group(CommandGroup):
    """Ends with one line where the input is bad, workers are lost, or it is stopped."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Take the process's arguments, and the signals that it is sent."""
        of_process = not args and extra.get("args") is None
        with stopping.whole_process() if of_process else contextlib.nullcontext():
            return super().main(*args, **extra)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Read the arguments in front of the command."""
        try:
            return super().make_context(*args, **extra)
        except click.exceptions.NoArgsIsHelpError:
            raise
        except click.UsageError as error:
            _end_usage(error)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was named."""
        workers.collect_seldom()
        try:
            with stopping.obeyed(lambda: self._way_on(ctx)):
                return super().invoke(ctx)
        except (BusyError, ClusterError) as error:
            _end(str(error), _TRY_LATER)
        except InputError as error:
            _end(str(error), _BAD_INPUT)
        except click.UsageError as error:
            _end_usage(error)
        except stopping.StopSignalError as stop:
            if stopping.is_under_way():
                raise
            _end(f"stopped by {stop.number.name}; {self._way_on(ctx)}", stop.status)
        except OSError as error:
            if error.errno not in _DISK_ERRORS:
                raise
            place = error.filename or "while writing the results"
            message = f"{error.strerror}: {place}; mend that and {self._way_on(ctx)}"
            _end(message, _FAILED)

    def _way_on(self, ctx: click.Context) -> str:
        """How to go on after the command that was named was interrupted."""
        command = self.get_command(ctx, ctx.invoked_subcommand or "")
        names = [parameter.name for parameter in command.params] if command else []
        return "go on with --resume" if "resume" in names else "run it again"


def _end_usage(error: click.UsageError) -> NoReturn:
    """End in one line like others, where click would print three."""
    command = error.ctx.command_path if error.ctx else "streamixture"
    _end(f"{error.format_message()} See {command} --help.", _BAD_INPUT)


def _end(message: str, status: int) -> NoReturn:
    click.echo(logs.describe_end(message, status), err=True)
    sys.exit(status)


@dataclass(frozen=True)
class Where:
    """Where to run, as the options say."""

    workers: int | None
    scheduler: str | None
    scheduler_file: Path | None
    worker_memory: str | None
    job_system: str | None
    cluster_config: Path | None
    min_workers: int

    def cluster(
        self, *, dashboard: bool = False
    ) -> "contextlib.AbstractContextManager[Cluster]":
        """The workers, not yet started or connected to.

        Parameters
        ----------
        dashboard
            Serve dask's dashboard of workers on this machine.

        Raises
        ------
        InputError
            If several options are given, or the file or the GPUs will not do.
        """
        from pipeline import cluster, devices, quantities

        self._check()
        if self.job_system is not None:
            return _slurm_cluster(self.cluster_config)
        if self.scheduler_file is not None:
            address = cluster.read_scheduler_file(self.scheduler_file)
            return cluster.existing_cluster(address, self.min_workers)
        if self.scheduler is not None:
            return cluster.existing_cluster(self.scheduler, self.min_workers)
        n_cores = len(os.sched_getaffinity(0))
        specs = devices.plan_workers(devices.visible_gpus(), n_cores, self.workers)
        limit = self.worker_memory and quantities.parse_memory(
            self.worker_memory, at_least=devices.WORKER_BYTES
        )
        return cluster.local_cluster(specs, limit or None, dashboard=dashboard)

    def _check(self) -> None:
        chosen = {
            "--workers": self.workers,
            "--scheduler": self.scheduler,
            "--scheduler-file": self.scheduler_file,
            "--cluster": self.job_system,
        }
        given = [option for option, value in chosen.items() if value]
        if len(given) > 1:
            raise InputError(f"{' and '.join(given)} exclude each other; give one")
        if self.cluster_config is not None and self.job_system is None:
            raise InputError(
                "--cluster-config describes the jobs of --cluster; give --cluster slurm"
            )


def _slurm_cluster(path: Path | None) -> "contextlib.AbstractContextManager[Cluster]":
    try:
        from pipeline import slurm, slurm_config
    except ImportError as error:
        raise InputError(
            f"--cluster slurm needs an extra ({error}); {install_extra('slurm')}"
        ) from error
    return slurm.slurm_cluster(slurm_config.load_config(path))


def on_workers(function: Command) -> Command:
    """Add the options that say where to run, given as the parameter ``where``."""

    @functools.wraps(function)
    def located(**values: Any) -> Any:
        where = Where(*(values.pop(field.name) for field in fields(Where)))
        names = [field.name for field in fields(watch.Watched)][1:]
        watched = watch.Watched(where, *map(values.pop, names))
        watched.check()
        with watched.metrics():
            return function(where=watched, **values)

    for option in (
        click.option(
            "--workers",
            type=click.IntRange(min=1),
            show_default="one for each GPU, or without GPUs for each core",
            help="Worker processes on this machine.",
        ),
        click.option("--scheduler", help="Address of a Dask scheduler to use instead."),
        click.option(
            "--scheduler-file",
            type=click.Path(path_type=Path),
            help="File to which the scheduler to use instead wrote its address.",
        ),
        click.option(
            "--min-workers",
            type=click.IntRange(min=1),
            default=1,
            show_default=True,
            help="Workers of that scheduler to wait for before the run begins.",
        ),
        click.option(
            "--worker-memory",
            show_default="its share of the machine's",
            help="Memory that a worker on this machine may use, such as 700MiB.",
        ),
        click.option(
            "--cluster",
            "job_system",
            type=click.Choice(JOB_SYSTEMS),
            help="Run the workers as jobs of this batch system.",
        ),
        click.option(
            "--cluster-config",
            type=click.Path(path_type=Path),
            help="TOML file that says what each of these jobs needs, and how many.",
        ),
        *watch.OPTIONS,
    ):
        located = option(located)
    return cast(Command, located)
