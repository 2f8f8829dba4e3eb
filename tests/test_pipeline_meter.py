import json
import time
from pathlib import Path

import pytest

from pipeline import provenance
from pipeline.meter import Meter
from pipeline.provenance import ProcessUsage
from tests.helpers import SerialCluster


class _Workers(SerialCluster):
    """Workers whose use of the machine is told beforehand, call by call."""

    def __init__(self, *usages: dict[str, ProcessUsage]) -> None:
        self._usages = iter(usages)

    def usage(self) -> dict[str, ProcessUsage]:
        return next(self._usages)


@pytest.fixture(autouse=True)
def _driver(monkeypatch):
    """A driver that uses 1 s, 1,000 bytes of memory and reads 10 bytes a call."""
    usages = (ProcessUsage(1.0 * n, 1_000 * n, 10 * n) for n in range(100))
    monkeypatch.setattr(provenance, "process_usage", lambda: next(usages))


def test_stage__adds_what_driver_and_workers_used(tmp_path):
    before = {"a": ProcessUsage(5.0, 100, 7), "b": ProcessUsage(1.0, 100, 0)}
    after = {"a": ProcessUsage(7.5, 300, 9), "b": ProcessUsage(1.25, 200, 5)}
    meter = Meter(_Workers(before, after), tmp_path / "stages.json")
    with meter.stage("fit"):
        time.sleep(0.05)
    (record,) = meter.records
    assert 0.05 <= record.pop("wall_seconds") < 5
    assert record == {
        "name": "fit",
        "attempts": 1,
        "cpu_seconds": 1.0 + 2.5 + 0.25,
        "peak_rss_bytes": {"driver": 1_000, "worker": 300},
        "bytes_read": 10 + 2 + 5,
    }


def test_stage__a_worker_that_replaced_a_lost_one_counts_from_its_start(tmp_path):
    before = {"a": ProcessUsage(50.0, 900, 70)}
    after = {"b": ProcessUsage(2.0, 300, 9)}
    meter = Meter(_Workers(before, after), tmp_path / "stages.json")
    with meter.stage("fit"):
        pass
    assert meter.records[0]["cpu_seconds"] == 3.0
    assert meter.records[0]["bytes_read"] == 19


def _meter(path: Path) -> Meter:
    return Meter(_Workers(*[{"a": ProcessUsage(0.0, 1, 0)}] * 4), path)


def test_stage__records_are_kept_for_a_run_that_resumes(tmp_path):
    path = tmp_path / "stages.json"
    with _meter(path).stage("prepare"):
        pass
    resumed = _meter(path)
    with resumed.stage("fit"):
        pass
    assert [record["name"] for record in resumed.records] == ["prepare", "fit"]
    assert json.loads(path.read_text()) == resumed.records


def _fail(meter: Meter) -> None:
    with meter.stage("fit"):
        raise RuntimeError("worker died")


def test_stage__one_that_failed_is_an_attempt(tmp_path):
    path = tmp_path / "stages.json"
    for attempts in (1, 2):
        with pytest.raises(RuntimeError, match="worker died"):
            _fail(_meter(path))
        expected = [{"name": "fit", "attempts": attempts}]
        assert json.loads(path.read_text()) == expected
    resumed = _meter(path)
    with resumed.stage("fit"):
        pass
    (record,) = resumed.records
    assert record["attempts"] == 3
    assert record["cpu_seconds"] == 1.0


def test_stage__one_that_was_finished_keeps_its_figures(tmp_path):
    path = tmp_path / "stages.json"
    with _meter(path).stage("fit"):
        pass
    before = path.read_bytes()
    with _meter(path).stage("fit"):
        time.sleep(0.01)
    assert path.read_bytes() == before
