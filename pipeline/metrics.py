"""Prometheus metrics of a command, in a file for the node exporter's collector.

A file, because a batch job is often over before anybody asks it, and because its last
state should stay readable. It is replaced in one step every few seconds, so that a
reader always finds one whole state.
"""

import contextlib
import math
import time
from collections.abc import Iterator
from pathlib import Path

import prometheus_client

from pipeline import progress
from pipeline.errors import InputError

# Seconds between two states of the file.
INTERVAL_SECONDS = 5.0
_PREFIX = "streamixture_"
_GAUGES = {
    "start_time_seconds": "When the command began, in Unix time.",
    "update_time_seconds": "When this file was written last, in Unix time.",
    "success": "1 once the command has succeeded, 0 once it has failed.",
    "work_done": "Steps done of the piece of work at hand.",
    "work_total": "Steps of it; NaN where nobody knows.",
    "round": "Rounds of the fit done.",
    "log_likelihood": "Log-likelihood of the best point of the fit so far, in nats.",
    "genotypes_per_second": "Called genotypes a second in the last round of the fit.",
    "bytes_read": "Bytes that driver and workers read in the stages that are finished.",
}
_STAGE_GAUGES = {
    "stage": "1 for the stage at hand, 0 for those that are finished.",
    "stage_wall_seconds": "Wall time of a finished stage.",
    "stage_cpu_seconds": "CPU time of a finished stage, workers included.",
}


class Metrics:
    """What a command has done so far.

    Parameters
    ----------
    path
        The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._registry = prometheus_client.CollectorRegistry()
        self._gauges = {
            name: prometheus_client.Gauge(_PREFIX + name, doc, registry=self._registry)
            for name, doc in _GAUGES.items()
        }
        self._stages = {
            name: prometheus_client.Gauge(
                _PREFIX + name, doc, ["stage"], registry=self._registry
            )
            for name, doc in _STAGE_GAUGES.items()
        }
        for gauge in self._gauges.values():
            gauge.set(math.nan)
        self._gauges["start_time_seconds"].set(time.time())
        self._bytes_read = 0
        self._round_began = time.monotonic()
        self._written = -math.inf

    def take(self, event: progress.Event) -> None:
        """Take note of what happened, and write it if some time has passed."""
        if event.stage is not None:
            self._take_stage(event.stage, event)
        if event.done is not None:
            self._gauges["work_done"].set(event.done)
            total = math.nan if event.total is None else event.total
            self._gauges["work_total"].set(total)
        now = time.monotonic()
        if event.done == 0:
            self._round_began = now
        for name in ("round", "log_likelihood"):
            if name in event.figures:
                self._gauges[name].set(event.figures[name])
        if "genotypes" in event.figures:
            seconds = max(now - self._round_began, 1e-9)
            self._gauges["genotypes_per_second"].set(
                event.figures["genotypes"] / seconds
            )
            self._round_began = now
        if now - self._written >= INTERVAL_SECONDS:
            self.write()

    def _take_stage(self, stage: str, event: progress.Event) -> None:
        is_finished = "wall_seconds" in event.figures
        self._stages["stage"].labels(stage).set(0 if is_finished else 1)
        for name in ("wall_seconds", "cpu_seconds"):
            if name in event.figures:
                self._stages[f"stage_{name}"].labels(stage).set(event.figures[name])
        self._bytes_read += int(event.figures.get("bytes_read", 0))
        self._gauges["bytes_read"].set(self._bytes_read)

    def conclude(self, *, success: bool) -> None:
        """Write the last state."""
        self._gauges["success"].set(1 if success else 0)
        self.write()

    def write(self) -> None:
        """Replace the file by the present state."""
        self._written = time.monotonic()
        self._gauges["update_time_seconds"].set(time.time())
        prometheus_client.write_to_textfile(str(self._path), self._registry)


@contextlib.contextmanager
def written_to(path: Path) -> Iterator[None]:
    """Keep a file of metrics until the block ends.

    Raises
    ------
    InputError
        If it may not be written.
    """
    metrics = Metrics(path)
    try:
        metrics.write()
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}; give --metrics-file a file in a directory that "
            "exists and may be written to"
        ) from error
    success = False
    try:
        with progress.listening(metrics.take):
            yield
        success = True
    finally:
        # The directory may be gone since; the results are not less for that.
        with contextlib.suppress(OSError):
            metrics.conclude(success=success)
