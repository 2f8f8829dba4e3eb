"""Measure a command as a whole: wall time, CPU time and memory of all its processes."""

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

SAMPLING_SECONDS = 0.1


@dataclass(frozen=True)
class Cost:
    """What one run of a command used.

    Attributes
    ----------
    wall_seconds
        From start to exit.
    cpu_seconds
        User and system time of the command and all its descendants.
    peak_bytes
        Largest sum of resident memory over its processes, sampled.
    """

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int


def _resident_bytes(process: psutil.Process) -> int:
    total = 0
    with contextlib.suppress(psutil.Error):
        for member in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += member.memory_info().rss
    return total


def measure(command: Sequence[str | Path], log: Path) -> Cost:
    """Run a command to its end, with its output in a file.

    Raises
    ------
    subprocess.CalledProcessError
        If it fails.
    """
    peak = 0
    with log.open("w") as output:
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        finished = threading.Event()

        def sample() -> None:
            nonlocal peak
            process = psutil.Process(child.pid)
            while not finished.wait(SAMPLING_SECONDS):
                peak = max(peak, _resident_bytes(process))

        sampler = threading.Thread(target=sample)
        sampler.start()
        _, status, usage = os.wait4(child.pid, 0)
        wall_seconds = time.perf_counter() - start
        finished.set()
        sampler.join()
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, list(map(str, command)))
    return Cost(wall_seconds, usage.ru_utime + usage.ru_stime, peak)
