"""Schedulers and workers as processes of their own, as on a cluster of machines."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

LOOPBACK = "127.0.0.1"
ROOT = str(Path(__file__).parents[1])


class DaskProcesses:
    """A scheduler on loopback, and workers that come and go.

    Parameters
    ----------
    folder
        For the scheduler file and the workers' scratch.
    protocol
        "tcp" or "tls".
    environment
        More variables for all of them.
    """

    def __init__(self, folder: Path, protocol: str = "tcp", **environment: str) -> None:
        self.file = folder / "scheduler.json"
        self._folder, self._protocol = folder, protocol
        self._environment = {**os.environ, "PYTHONPATH": ROOT, **environment}
        # What this process gave jax is not what a worker elsewhere would have.
        for name in ("XLA_FLAGS", "JAX_PLATFORMS"):
            self._environment.pop(name, None)
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self.scheduler = self._start(
            "dask_scheduler", "--port", "0", "--scheduler-file", str(self.file)
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in reversed(self._processes):
            process.kill()
            process.wait()

    def _start(self, module: str, *arguments: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", f"distributed.cli.{module}", *arguments]
        common = ["--host", LOOPBACK, "--protocol", self._protocol]
        common += ["--dashboard-address", f"{LOOPBACK}:0"]
        process = subprocess.Popen(
            [*command, *common],
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._processes.append(process)
        return process

    def is_announced(self) -> bool:
        """Whether the scheduler file is there, with the address written into it."""
        return self.file.exists() and self.file.stat().st_size > 0

    def worker(self, name: str, *options: str) -> "subprocess.Popen[bytes]":
        """Start a worker without a nanny, so that it is one process and stays dead."""
        return self._start(
            "dask_worker",
            *("--scheduler-file", str(self.file), "--name", name, "--no-nanny"),
            *("--local-directory", str(self._folder)),
            *(options or ("--nthreads", "1")),
        )


def wait_until(condition: object, seconds: float = 60) -> None:
    """Wait until a function of nothing returns something true."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{condition} did not come true"
        time.sleep(0.05)


@contextlib.contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Freeze a process until the block ends."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
