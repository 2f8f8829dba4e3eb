"""Versions: one is shown, whole, whatever is killed when; old ones can come back."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import lock, publication, versions
from pipeline.errors import InputError
from tests import helpers
from tests.dask_processes import ROOT


def make(output: Path, number: int) -> None:
    """A version of three files that say which version they are of."""
    folder = helpers.local(versions.version_path(output, number))
    for name in ("ancestry.zarr/a", "ancestry.zarr/b", "model.zarr/a"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(str(number))
    (folder / "report.html").write_text(str(number))
    record = {
        **{"version": number, "cause": "update", "created": versions.now()},
        **{"people": {"total": 1}, "n_populations": 2, "source": {}},
        **{"fit_settings": "f", "apply_settings": "a", "refit_due": []},
    }
    (folder / "run.json").write_text(json.dumps(record))


def publish(output: Path, number: int) -> None:
    make(output, number)
    versions.publish(output, number, lambda: None)
    record = versions.read_record(output, number)
    versions.append_journal(output, versions.journal_entry(record))


def test_publish__readers_keep_to_the_version_that_they_opened(tmp_path: Path):
    publish(tmp_path, 1)
    opened = publication.resolve(tmp_path / "ancestry.zarr")
    through = publication.resolve(tmp_path / "current" / "ancestry.zarr")
    assert opened == through
    publish(tmp_path, 2)
    assert isinstance(opened, Path)
    assert (opened / "a").read_text() == (opened / "b").read_text() == "1"
    assert (tmp_path / "ancestry.zarr" / "a").read_text() == "2"
    assert (tmp_path / "current" / "run.json").exists()
    assert versions.current(tmp_path) == 2


def test_mend__publication_cut_short(tmp_path: Path):
    publish(tmp_path, 1)
    # Whole, and never shown; begun; and shown, but not written down.
    make(tmp_path, 2)
    (versions.version_path(tmp_path, 3) / "ancestry.zarr").mkdir(parents=True)
    versions.mend(tmp_path)
    assert versions.numbers(tmp_path) == [1]
    assert not versions.version_path(tmp_path, 3).exists()
    make(tmp_path, 2)
    versions.publish(tmp_path, 2, lambda: None)
    versions.mend(tmp_path)
    assert [e["version"] for e in versions.read_journal(tmp_path)] == [1, 2]
    seen = versions.read_seen(tmp_path)
    assert seen is not None
    assert seen["version"] == 2
    before = (tmp_path / "journal.jsonl").read_bytes()
    versions.mend(tmp_path)
    assert (tmp_path / "journal.jsonl").read_bytes() == before


def test_retain__keeps_the_current_one_and_the_latest(tmp_path: Path):
    for number in (1, 2, 3, 4):
        publish(tmp_path, number)
    versions.roll_back(tmp_path, 1)
    assert versions.retain(tmp_path, 2) == [2, 3]
    assert versions.numbers(tmp_path) == [1, 4]
    assert versions.next_number(tmp_path) == 5


def test_roll_back__refusals(tmp_path: Path):
    with pytest.raises(InputError, match="has no version yet"):
        versions.roll_back(tmp_path, None)
    publish(tmp_path, 1)
    with pytest.raises(InputError, match="has no version before 1"):
        versions.roll_back(tmp_path, None)
    with pytest.raises(InputError, match="has no version 7; kept are 1"):
        versions.roll_back(tmp_path, 7)
    publish(tmp_path, 2)
    assert versions.roll_back(tmp_path, None) == 1
    assert versions.read_journal(tmp_path)[-1]["cause"] == "roll-back"


def test_describe__versions_runs_and_whether_one_is_at_work(tmp_path: Path):
    assert versions.describe(tmp_path) == [f"{tmp_path}: no version yet"]
    for number in (1, 2):
        publish(tmp_path, number)
    versions.roll_back(tmp_path, None)
    first, *runs = versions.describe(tmp_path)
    assert first == f"{tmp_path}: versions 1 (current), 2"
    assert "version 2: update, K = 2; people: 1 total" in runs[1]
    assert runs[2].endswith("rolled back from 2 to 1")
    with lock.hold(tmp_path / ".lock", tmp_path):
        assert versions.describe(tmp_path)[0].endswith("; a run is at work")


PUBLISHER = """
import sys
from pathlib import Path
from pipeline import lock, versions
from tests.test_pipeline_versions import publish
output = Path(sys.argv[1])
with lock.hold(output / ".lock", output):
    versions.mend(output)
    while True:
        publish(output, versions.next_number(output))
        versions.retain(output, 40)
"""


def test_publish__killed_at_any_time_shows_one_whole_version(tmp_path: Path):
    """Real processes, killed while they publish one version after another."""
    output = tmp_path / "out"
    output.mkdir()
    publish(output, 1)
    environment = {**os.environ, "PYTHONPATH": ROOT}
    last = 1
    for turn in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", PUBLISHER, str(output)], env=environment
        )
        deadline = time.monotonic() + 60
        while versions.current(output) == last:
            assert time.monotonic() < deadline
        end = time.monotonic() + 0.02 + turn * 0.026
        while time.monotonic() < end:
            check_shown(output)
        process.send_signal(signal.SIGKILL)
        process.wait()
        last = check_shown(output)
        versions.mend(output)
        assert versions.current(output) == last
        known = {e["version"] for e in versions.read_journal(output)}
        assert {last, *versions.numbers(output)} <= known


def check_shown(output: Path) -> int:
    """What a reader finds: files of one version, all of them."""
    opened = publication.resolve(output / "current")
    assert isinstance(opened, Path)
    names = ("ancestry.zarr/a", "ancestry.zarr/b", "model.zarr/a", "report.html")
    found = {(opened / name).read_text() for name in names}
    record = json.loads((opened / "run.json").read_text())
    assert found == {str(record["version"])}
    return int(record["version"])
