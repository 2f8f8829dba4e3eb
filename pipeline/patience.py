"""How long to wait for workers: as long as one of them gets on, however slowly.

Knows workers only by what their scheduler says of them, and measures no total time: a
task may take hours. What ends a wait is that no worker has been at work for long.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.errors import ClusterError

logger = logging.getLogger(__name__)

# How often a wait looks at the workers.
CHECK_SECONDS = 5.0
_WORKING_STATES = ("executing", "flight")
_TRANSFERS = ("outgoing_bytes", "incoming_bytes")


class Patience:
    """Ends a wait in which no worker has been at work for some time.

    Parameters
    ----------
    look
        Gives what the scheduler knows of each worker, by address, or raises
        ClusterError where the scheduler does not answer.
    limit_seconds
        How long to bear that none gets on.
    """

    def __init__(
        self, look: Callable[[], Mapping[str, Any]], limit_seconds: float
    ) -> None:
        self._look = look
        self._limit_seconds = limit_seconds
        self._heard: dict[str, float] = {}
        self._last_work = time.monotonic()
        self._has_warned = False

    def check(self) -> bool:
        """Look at the workers, and tell whether one is at work.

        Raises
        ------
        ClusterError
            If none has been at work for too long.
        """
        found: Mapping[str, Any] = {}
        with contextlib.suppress(ClusterError):
            found = self._look()
        heard = {address: worker["last_seen"] for address, worker in found.items()}
        # Of a frozen worker the scheduler goes on telling the last that it heard.
        gets_on = any(
            is_at_work(worker) and heard[address] != self._heard.get(address)
            for address, worker in found.items()
        )
        if gets_on:
            self._last_work, self._has_warned = time.monotonic(), False
        self._heard = heard
        self._judge(time.monotonic() - self._last_work, len(found))
        return gets_on

    def _judge(self, quiet_seconds: float, n_workers: int) -> None:
        if quiet_seconds >= self._limit_seconds:
            raise ClusterError(
                f"no worker has been at work for {quiet_seconds:.0f} s ({n_workers} "
                "connected); start workers, or give them more memory, and go on with "
                "--resume"
            )
        if quiet_seconds >= 2 * CHECK_SECONDS and not self._has_warned:
            self._has_warned = True
            text = "no worker is at work (%d connected); waiting %.0f s for one"
            logger.warning(text, n_workers, self._limit_seconds)


def is_at_work(worker: Mapping[str, Any]) -> bool:
    """Whether a worker's last message tells of a task or a transfer under way.

    >>> is_at_work({"metrics": {"task_counts": {"executing": 1}}})
    True
    >>> is_at_work({"metrics": {"task_counts": {"ready": 3}}})
    False
    """
    metrics = worker["metrics"]
    counts, transfer = metrics.get("task_counts", {}), metrics.get("transfer", {})
    states = [counts.get(state) for state in _WORKING_STATES]
    return any(states) or any(transfer.get(name) for name in _TRANSFERS)
