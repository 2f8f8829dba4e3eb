"""Which workers may work: checked and pinned before any work.

Those that join later are before they are used, and what goes wrong with workers ends in
one line.
"""

import collections
import contextlib
import importlib.metadata
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import distributed
from distributed import WorkerPlugin

from pipeline import provenance, tasks, workers
from pipeline.errors import ClusterError, InputError
from pipeline.tasks import Cluster

logger = logging.getLogger(__name__)

_PACKAGE = "streamixture"


class PinnedWorker(WorkerPlugin):
    """Refuses a worker that will not do, and pins one that will.

    Parameters
    ----------
    versions
        Of the packages, which the worker must have as the driver has them.
    """

    name = "streamixture-pinned-worker"

    def __init__(self, versions: Mapping[str, str]) -> None:
        self.versions = versions

    def setup(self, worker: distributed.Worker) -> None:
        """Check the process; called when a worker starts, and again after a restart.

        Also called by a later run on the same cluster, when the tasks of an earlier
        one have loaded jax.
        """
        report = workers.describe_worker(worker)
        try:
            workers.check_worker(report, self.versions)
        except InputError as error:
            # Dask would use a worker that joins, which has no heartbeat yet, all the
            # same.
            if not worker.periodic_callbacks["heartbeat"].is_running():
                worker.loop.add_callback(worker.close, reason=str(error))
            raise
        workers.pin(report)
        # The driver reports what a task raised; once is enough.
        logging.getLogger("distributed.worker").setLevel(logging.CRITICAL)


def pin_workers(cluster: Cluster) -> None:
    """Check the workers and pin each, and have those that join treated alike.

    Raises
    ------
    InputError
        If a worker will not do.
    ClusterError
        If one does not answer.
    """
    where = cluster.client.scheduler.address
    # Nothing of this package can even be sent to a worker that lacks it.
    for address, version in cluster.ask(importlib.metadata.version, _PACKAGE).items():
        _check_answer(address, version)
    reports = cluster.ask(workers.describe_worker)
    expected = provenance.package_versions()
    for address, report in reports.items():
        _check_answer(address, report)
        workers.check_worker(report, expected)
        logger.debug("%s", report)
    workers.check_devices(list(reports.values()))
    try:
        cluster.client.sync(
            lambda: cluster.client.register_plugin(PinnedWorker(expected)),
            callback_timeout=tasks.ANSWER_TIMEOUT_SECONDS,
        )
    except (OSError, TimeoutError) as error:
        raise ClusterError(f"the workers at {where} do not answer: {error}") from error
    kinds = collections.Counter(report.device.kind for report in reports.values())
    found = ", ".join(f"{count} on {kind}" for kind, count in sorted(kinds.items()))
    logger.info("workers: %s", found)


def _check_answer(address: str, answer: Any) -> None:
    if isinstance(answer, ImportError):
        raise InputError(
            f"worker {address} lacks {_PACKAGE} ({answer}); install the same "
            "environment everywhere"
        )
    if isinstance(answer, (OSError, TimeoutError)):
        raise ClusterError(
            f"worker {address} does not answer ({answer}); stop it, and start another"
        )
    if isinstance(answer, Exception):
        raise answer


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn what dask raises when a cluster is lost into one line."""
    try:
        yield
    except distributed.KilledWorker as error:
        name = str(error.task).partition("-")[0]
        raise ClusterError(
            f"{error.allowed_failures + 1} workers died one after the other at task "
            f"{name}, perhaps for want of memory; give each more of it (fewer workers "
            "to a machine), and go on with --resume"
        ) from error
    except (distributed.CancelledError, distributed.comm.CommClosedError) as error:
        raise ClusterError(
            "the connection to the scheduler was lost; start it again and go on with "
            "--resume"
        ) from error
