"""How a command starts and ends: on which workers, and with one line where it fails.

Worker processes import this again before their device is set, so the cluster, and what
imports jax, is imported when a command is called.
"""

import contextlib
import errno
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from pipeline.errors import BusyError, ClusterError, InputError

if TYPE_CHECKING:
    from pipeline.tasks import Cluster

Command = TypeVar("Command", bound=Callable[..., Any])

_FAILED = 1
_BAD_INPUT = 2
# EX_TEMPFAIL of sysexits.h, which mail and job schedulers know as "try again later".
_TRY_LATER = 75
# What a shell says of a command that a signal ended.
_BY_SIGNAL = 128
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)


class _StopSignalError(BaseException):
    """Unwinds a command that was told to stop, past every handler of errors."""


class Group(click.Group):
    """Ends with one line where the input is bad, workers are lost, or it is stopped."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was named."""
        try:
            with _stoppable():
                return super().invoke(ctx)
        except (BusyError, ClusterError) as error:
            _end(str(error), _TRY_LATER)
        except InputError as error:
            _end(str(error), _BAD_INPUT)
        except click.UsageError as error:
            # In one line like the others, where click would print three.
            command = error.ctx.command_path if error.ctx else "streamixture"
            _end(f"{error.format_message()} See {command} --help.", _BAD_INPUT)
        except _StopSignalError as stop:
            number = signal.Signals(stop.args[0])
            message = f"stopped by {number.name}; go on with --resume"
            _end(message, _BY_SIGNAL + number)
        except OSError as error:
            if error.errno not in _DISK_ERRORS:
                raise
            place = error.filename or "while writing the results"
            message = f"{error.strerror}: {place}; mend that and go on with --resume"
            _end(f"{message} where a run was interrupted", _FAILED)


def _end(message: str, status: int) -> None:
    click.echo(f"Error: {' '.join(message.split())}", err=True)
    sys.exit(status)


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Stop workers and keep what is finished when the command is told to stop.

    A second signal ends it at once; workers notice that their parent is gone.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)

    def stop(number: int, _: FrameType | None) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_DFL)
        raise _StopSignalError(number)

    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class Where:
    """Where to run, as the options say."""

    workers: int | None
    scheduler: str | None
    scheduler_file: Path | None
    worker_memory: str | None

    def cluster(self) -> "contextlib.AbstractContextManager[Cluster]":
        """The workers, not yet started or connected to.

        Raises
        ------
        InputError
            If several options are given, or the file or the GPUs will not do.
        """
        from pipeline import cluster, devices

        chosen = {k: v for k, v in asdict(self).items() if k != "worker_memory"}
        given = [f"--{k.replace('_', '-')}" for k, v in chosen.items() if v]
        if len(given) > 1:
            raise InputError(f"{' and '.join(given)} exclude each other; give one")
        if self.scheduler_file is not None:
            address = cluster.read_scheduler_file(self.scheduler_file)
            return cluster.existing_cluster(address)
        if self.scheduler is not None:
            return cluster.existing_cluster(self.scheduler)
        n_cores = len(os.sched_getaffinity(0))
        specs = devices.plan_workers(devices.visible_gpus(), n_cores, self.workers)
        limit = self.worker_memory and cluster.parse_memory(self.worker_memory)
        return cluster.local_cluster(specs, limit or None)


def on_workers(function: Command) -> Command:
    """Add the options that say where to run, given as the parameter ``where``."""

    @functools.wraps(function)
    def located(**values: Any) -> Any:
        where = Where(*(values.pop(field.name) for field in fields(Where)))
        return function(where=where, **values)

    for option in (
        click.option(
            "--workers",
            type=click.IntRange(min=1),
            help="Worker processes on this machine; by default one for each GPU, "
            "or without GPUs one for each core.",
        ),
        click.option("--scheduler", help="Address of a Dask scheduler to use instead."),
        click.option(
            "--scheduler-file",
            type=click.Path(path_type=Path),
            help="File to which the scheduler to use instead wrote its address.",
        ),
        click.option(
            "--worker-memory",
            help="Memory that a worker on this machine may use, such as 700MiB; by "
            "default its share of the machine's.",
        ),
    ):
        located = option(located)
    return cast(Command, located)
