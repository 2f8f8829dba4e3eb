"""Watching a command: log lines as JSON, dashboard, report, metrics."""

import json
import logging
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import prometheus_client.parser
import pytest

from pipeline import logs, meter, metrics, progress
from tests import helpers
from tests.dask_processes import ROOT
from tests.test_pipeline_cli import assert_refused, call

STREAMIXTURE = str(Path(sys.executable).parent / "streamixture")
GENOTYPES = helpers.random_genotypes(60, 20)


def parse(path: Path) -> dict[str, float]:
    """Value of every metric, by name and stage."""
    found = {}
    for family in prometheus_client.parser.text_string_to_metric_families(
        path.read_text()
    ):
        for sample in family.samples:
            stage = sample.labels.get("stage")
            name = sample.name.removeprefix("streamixture_")
            found[name if stage is None else f"{name} {stage}"] = sample.value
    return found


def test_metrics__follow_stages_and_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "run.prom"
    monkeypatch.setattr(metrics, "INTERVAL_SECONDS", 0.0)
    measured = meter.Meter(helpers.SerialCluster(), tmp_path / "stages.json")
    with metrics.written_to(path):
        assert math.isnan(parse(path)["success"])
        with measured.stage("fit"), progress.track("fitting") as shown:
            assert parse(path)["stage fit"] == 1
            shown.advance(round=1, log_likelihood=-12.5, genotypes=1_000)
            found = parse(path)
            assert (found["round"], found["log_likelihood"]) == (1, -12.5)
            assert found["work_done"] == 1
            assert math.isnan(found["work_total"])
            assert found["genotypes_per_second"] > 0
    found = parse(path)
    assert (found["stage fit"], found["success"]) == (0, 1)
    record = measured.records[0]
    assert found["stage_wall_seconds fit"] == record["wall_seconds"]
    assert found["bytes_read"] == record["bytes_read"]
    assert [item.name for item in tmp_path.glob("run.prom*")] == ["run.prom"]
    with pytest.raises(KeyError), metrics.written_to(path):
        raise KeyError
    assert parse(path)["success"] == 0
    # Nobody listens any longer.
    before = path.read_bytes()
    progress.tell(progress.Event(stage="apply"))
    assert path.read_bytes() == before


def test_json__a_line_is_an_object_with_figures():
    said = {logs.FIGURES: {"stage": "fit", "round": 3}}
    record = logging.makeLogRecord(
        {"msg": "round %d", "args": (3,), "levelname": "INFO", "name": "x", **said}
    )
    line = json.loads(logs.JsonFormatter().format(record))
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "INFO",
        "logger": "x",
        "message": "round 3",
        "stage": "fit",
        "round": 3,
    }


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a command leaves that is watched in every way."""
    folder = tmp_path_factory.mktemp("watch")
    helpers.write_cohort(folder / "cohort.vcz", GENOTYPES)
    command = [STREAMIXTURE, "--log-format", "json", "prepare", "cohort.vcz"]
    command += ["--output", "p.zarr", "--no-qc", "--workers", "1", "--dashboard"]
    command += ["--performance-report", "report.html", "--metrics-file", "run.prom"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env=_environment()
    )
    assert done.returncode == 0, done.stderr
    (folder / "stderr").write_text(done.stderr)
    return folder


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": ROOT}


def test_logs__every_line_is_json_and_names_nobody(watched: Path):
    lines = [json.loads(line) for line in (watched / "stderr").read_text().splitlines()]
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
    work = [line.get("work") for line in lines]
    assert "preparing genotypes" in work
    assert not re.search(r"\bs1?[0-9]\b", (watched / "stderr").read_text())


def test_dashboard__is_on_loopback(watched: Path):
    links = re.findall(r"dashboard: (\S+)\"", (watched / "stderr").read_text())
    assert len(links) == 1
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/status", links[0])


def test_report__needs_nothing_from_elsewhere(watched: Path):
    page = (watched / "report.html").read_text()
    loaded = re.findall(
        r"<(?:script|link|img)[^>]*(?:src|href)\s*=\s*[\"']?([^\"'> ]+)", page
    )
    assert [each for each in loaded if not each.startswith(("data:", "#"))] == []
    assert "Bokeh" in page
    assert not list(watched.glob("report.html.partial"))
    assert parse(watched / "run.prom")["success"] == 1


def test_options__refused_before_any_work(tmp_path: Path):
    path = helpers.write_cohort(tmp_path / "cohort.vcz", GENOTYPES)
    output = tmp_path / "out"
    command = ("run", path, "--output", output, "-k", "2")
    nowhere = tmp_path / "none" / "file"
    result = call(*command, "--performance-report", nowhere)
    assert_refused(result, "cannot be written; give --performance-report")
    assert_refused(call(*command, "--metrics-file", nowhere), "give --metrics-file")
    assert not output.exists()


def test_error__is_json_too(tmp_path: Path):
    command = [STREAMIXTURE, "export", "none.zarr", "q"]
    environment = {**_environment(), "STREAMIXTURE_LOG_FORMAT": "json"}
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 2
    line = json.loads(done.stderr.splitlines()[-1])
    assert (line["level"], line["exit_status"]) == ("ERROR", 2)
    assert "none.zarr does not exist" in line["message"]
