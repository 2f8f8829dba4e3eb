import logging
from typing import Any

import pytest

from pipeline import patience
from pipeline.errors import ClusterError
from pipeline.patience import Patience

LIMIT_SECONDS = 300.0


class Scheduler:
    """Workers as a scheduler knows them, and a clock that a test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.workers: dict[str, Any] = {}
        self.answers = True
        monkeypatch.setattr(patience.time, "monotonic", lambda: self.now)

    def hear(self, address: str, **states: int) -> None:
        metrics = {"task_counts": states}
        self.workers[address] = {"last_seen": self.now, "metrics": metrics}

    def look(self) -> dict[str, Any]:
        if not self.answers:
            raise ClusterError("the scheduler does not answer")
        return self.workers

    def last(self, watch: Patience, seconds: float) -> None:
        """Check as a wait does, for some seconds."""
        end = self.now + seconds
        while self.now < end:
            self.now += patience.CHECK_SECONDS
            for address, worker in self.workers.items():
                if not address.startswith("frozen"):
                    self.hear(address, **worker["metrics"]["task_counts"])
            watch.check()


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch) -> Scheduler:
    return Scheduler(monkeypatch)


def test_patience__has_no_end_while_a_worker_is_at_work(scheduler):
    scheduler.hear("slow", executing=1)
    scheduler.hear("idle")
    scheduler.last(Patience(scheduler.look, LIMIT_SECONDS), 24 * 3_600)


@pytest.mark.parametrize(
    ("address", "states"),
    [("frozen", {"executing": 1}), ("idle", {}), ("paused", {"ready": 3})],
)
def test_patience__ends_while_no_worker_gets_on(scheduler, address, states):
    scheduler.hear(address, **states)
    watch = Patience(scheduler.look, LIMIT_SECONDS)
    scheduler.last(watch, LIMIT_SECONDS - patience.CHECK_SECONDS)
    message = r"no worker has been at work for 30\d s \(1 connected\); start work"
    with pytest.raises(ClusterError, match=message):
        scheduler.last(watch, 2 * patience.CHECK_SECONDS)


def test_patience__starts_anew_when_a_worker_comes_in_time(scheduler, caplog):
    watch = Patience(scheduler.look, LIMIT_SECONDS)
    with caplog.at_level(logging.WARNING):
        scheduler.last(watch, 290)
    expected = "no worker is at work (0 connected); waiting 300 s for one"
    assert [record.getMessage() for record in caplog.records] == [expected]
    scheduler.hear("new", executing=1)
    scheduler.last(watch, 10)
    del scheduler.workers["new"]
    scheduler.last(watch, 290)


def test_patience__counts_a_silent_scheduler_as_no_worker(scheduler):
    scheduler.hear("slow", executing=1)
    scheduler.answers = False
    watch = Patience(scheduler.look, LIMIT_SECONDS)
    scheduler.last(watch, 100)
    with pytest.raises(ClusterError, match=r"no worker has been .* \(0 connected\)"):
        scheduler.last(watch, 250)


def test_is_at_work__while_a_result_is_on_its_way():
    assert patience.is_at_work({"metrics": {"transfer": {"outgoing_bytes": 8}}})
    assert not patience.is_at_work({"metrics": {"transfer": {"outgoing_bytes": 0}}})
    assert not patience.is_at_work({"metrics": {}})
