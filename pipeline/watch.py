"""Watching a command at work: dashboard, performance report, metrics, by options.

Holds what `launch` adds to every command that uses workers. The libraries that these
options need are an extra, and are imported when one is given.
"""

import contextlib
import importlib.util
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from pipeline import output_names, stopping
from pipeline.errors import InputError, install_extra

if TYPE_CHECKING:
    from pipeline.tasks import Cluster

logger = logging.getLogger(__name__)

_ICON = re.compile(r'<link [^>]*rel="[^"]*icon"[^>]*>')

OPTIONS = (
    click.option(
        "--dashboard",
        is_flag=True,
        help="Serve Dask's dashboard of workers on this machine, on loopback, and say "
        "where; of a scheduler that exists, say where its own is.",
    ),
    click.option(
        "--performance-report",
        type=click.Path(path_type=Path),
        help="HTML file for Dask's report of what the workers did.",
    ),
    click.option(
        "--metrics-file",
        type=click.Path(path_type=Path),
        help="File to keep Prometheus metrics in, for the node exporter's textfile "
        "collector (FILE.prom).",
    ),
)


class Place(Protocol):
    """Where a command runs."""

    def cluster(self, *, dashboard: bool) -> "AbstractContextManager[Cluster]":
        """The workers, not yet started or connected to."""


@dataclass(frozen=True)
class Watched:
    """Where to run, and how to watch it, as the options say."""

    place: Place
    dashboard: bool
    performance_report: Path | None
    metrics_file: Path | None

    def check(self) -> None:
        """Refuse, before any work, what cannot be done.

        Raises
        ------
        InputError
            If a library is missing, or a file could not be written.
        """
        if self.dashboard or self.performance_report:
            _require("bokeh", "--dashboard and --performance-report")
        if self.metrics_file:
            _require("prometheus_client", "--metrics-file")
        report = self.performance_report
        if report and report.suffix:
            html = output_names.HTML
            output_names.check_suffix(str(report), html, "--performance-report")
        if self.metrics_file and self.metrics_file.suffix:
            # The node exporter reads no others.
            name, prom = str(self.metrics_file), (".prom",)
            output_names.check_suffix(name, prom, "--metrics-file")
        if report and not os.access(report.absolute().parent, os.W_OK):
            raise InputError(
                f"{report} cannot be written; give --performance-report a file in a "
                "directory that exists and may be written to"
            )

    def metrics(self) -> AbstractContextManager[None]:
        """Keep the file of metrics, if one is asked for, until the block ends."""
        if self.metrics_file is None:
            return nullcontext()
        from pipeline import metrics

        return metrics.written_to(self.metrics_file)

    @contextlib.contextmanager
    def _watch(self, started: "AbstractContextManager[Cluster]") -> "Iterator[Cluster]":
        with started as cluster:
            if self.dashboard:
                logger.info("dashboard: %s", cluster.client.dashboard_link)
            with _reporting(cluster.client, self.performance_report):
                yield cluster

    def cluster(self) -> "AbstractContextManager[Cluster]":
        """The workers, not yet started or connected to.

        Raises
        ------
        InputError
            If the options do not go together.
        """
        return self._watch(self.place.cluster(dashboard=self.dashboard))


def _require(module: str, options: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise InputError(
            f"{options} need {module}; {install_extra('watch')}, where the scheduler "
            "runs too"
        )


@contextlib.contextmanager
def _reporting(client: Any, path: Path | None) -> Iterator[None]:
    """Write dask's report of what is done until the block ends, well or badly."""
    if path is None:
        yield
        return
    start = time.time()
    count = client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.monitor.count)
    client.get_task_stream(start=0, stop=0)
    try:
        yield
    finally:
        # A scheduler that is gone has nothing to tell, and why is told already. A
        # command that is to stop has no time for it.
        with contextlib.suppress(OSError, TimeoutError):
            if not stopping.is_under_way():
                _write_report(client, path, start, count)


def _write_report(client: Any, path: Path, start: float, count: int) -> None:
    # As dask's own context, which would take the default client, load BokehJS from
    # elsewhere, and quote the source of whoever called it.
    page = client.sync(
        client.scheduler.performance_report,
        start=start,
        last_count=count,
        code="",
        mode="inline",
    )
    # The page would still ask dask's site for its icon.
    page = _ICON.sub("", page)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(page)
    os.replace(partial, path)
