"""Commands that are told to stop, by real signals to real processes."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from pipeline.simulate import simulate
from tests.dask_processes import ROOT, wait_until
from tests.source_files import admixed_calls, write_bed
from tests.test_pipeline_stopping import SCRIPT

# One line, in the second that a quick machine takes, or the three that a busy one may.
SECONDS = 3.0
N_TRIES = 40


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("launch") / "cohort.vcz"
    sizes = {"n_samples": 200, "n_variants": 1_000, "n_populations": 2}
    simulate(path, **sizes, seed=3)  # type: ignore[arg-type]
    return path


def start(*words: str | Path) -> "subprocess.Popen[str]":
    """Start the command as a terminal does: as the leader of a group of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *map(str, words)],
        env={**os.environ, "PYTHONPATH": ROOT},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@dataclass(frozen=True)
class Stopped:
    status: int
    lines: list[str]
    seconds: float
    left: list[int]


def stop(
    process: "subprocess.Popen[str]", number: signal.Signals, *, group: bool
) -> Stopped:
    began, moment = time.monotonic(), datetime.now(UTC)
    (os.killpg if group else os.kill)(process.pid, number)
    _, errors = process.communicate(timeout=60)
    seconds = time.monotonic() - began
    lines = [line for line in errors.splitlines() if not _logged_before(line, moment)]
    return Stopped(process.returncode, lines, seconds, _of(process.pid))


def _logged_before(line: str, moment: datetime) -> bool:
    """Whether a line was logged before a moment; what has no time was not."""
    with contextlib.suppress(ValueError):
        stamp = json.loads(line)["time"] if line.startswith("{") else line[:23]
        return datetime.fromisoformat(stamp.replace(",", ".")).astimezone(UTC) < moment
    return False


def _of(session: int) -> list[int]:
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(pid) == session:
                found.append(pid)
    return found


@pytest.mark.parametrize(
    ("number", "group", "log_format"),
    [
        (signal.SIGINT, True, "json"),
        (signal.SIGTERM, False, "text"),
        pytest.param(signal.SIGINT, False, "text", marks=pytest.mark.soak),
        pytest.param(signal.SIGTERM, True, "json", marks=pytest.mark.soak),
    ],
)
def test_run__stopped_leaves_no_worker_and_one_line(
    cohort: Path,
    tmp_path: Path,
    number: signal.Signals,
    group: bool,
    log_format: str,
):
    output = tmp_path / "out"
    watched: tuple[str | Path, ...] = ("--metrics-file", tmp_path / "run.prom")
    watched += ("--performance-report", tmp_path / "report.html")
    process = start(
        *("--log-format", log_format, "run", cohort, "--output", output, "-k", "2"),
        *("--workers", "2", "--no-qc", *watched),
    )
    rounds = output / ".work" / "rounds"
    wait_until((rounds / "search.json").exists, 120)
    assert len(psutil.Process(process.pid).children(recursive=True)) >= 2
    ended = stop(process, number, group=group)
    assert ended.status == 128 + number
    assert ended.seconds < SECONDS
    assert ended.left == []
    message = f"stopped by {number.name}; go on with --resume"
    if log_format == "json":
        lines = [json.loads(line) for line in ended.lines]
        said = [line for line in lines if line["level"] != "INFO"]
        assert [(line["message"], line["exit_status"]) for line in said] == [
            (message, 128 + number)
        ]
    else:
        said = [line for line in ended.lines if " INFO " not in line]
        assert said == [f"Error: {message}"]
    assert rounds.exists()
    assert not (output / "ancestry.zarr").exists()
    assert "streamixture_success 0.0" in (tmp_path / "run.prom").read_text()
    assert not (tmp_path / "report.html").exists()


@pytest.mark.soak
def test_run__killed_leaves_no_worker(cohort: Path, tmp_path: Path):
    output = tmp_path / "out"
    process = start("run", cohort, "--output", output, "-k", "2", "--no-qc")
    wait_until((output / ".work" / "rounds" / "search.json").exists, 120)
    process.kill()
    _, errors = process.communicate(timeout=60)
    wait_until(lambda: not _of(process.pid), 20)
    assert [line for line in errors.splitlines() if " INFO " not in line] == []


def _tree(folder: Path) -> dict[str, bytes]:
    """Contents of the stores of a folder, or of one store."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in paths
        if ".zarr" in str(path) or ".vcz" in str(path)
    }


@dataclass(frozen=True)
class Work:
    """A command, what makes it go on, and where its result is."""

    words: tuple[str, ...]
    way_on: tuple[str, ...]
    folder: Path


def _work(kind: str, folder: Path, cohort: Path, model: Path, bed: Path) -> Work:
    folder.mkdir()
    quick = folder / "quick.toml"
    quick.write_text("[fit]\nmax_rounds = 3\n[train]\nepochs = 1\n")
    words: tuple[str, ...]
    if kind == "run":
        words = ("run", str(cohort), "--output", str(folder / "out"), "-k", "2")
        words += ("--no-qc", "--workers", "2", "--config", str(quick))
    elif kind == "apply":
        words = ("apply", str(model), str(cohort), "--output", str(folder / "q.zarr"))
        words += ("--workers", "2")
    elif kind == "import":
        words = ("import", str(bed), "--output", str(folder / "new.vcz"))
        words += ("--workers", "2")
    else:
        config = folder / "reprocess.toml"
        config.write_text(
            f'cohort = "{cohort}"\noutput = "{folder / "versions"}"\n'
            "[run.qc]\nenabled = false\n"
            "[run.fit]\nn_populations = 2\nmax_rounds = 3\n[run.train]\nepochs = 1\n"
        )
        words = ("reprocess", str(config), "--workers", "2")
    return Work(words, () if kind == "reprocess" else ("--resume",), folder)


@pytest.mark.soak
@pytest.mark.timeout(3_600)
def test_stop__at_any_moment_is_one_line_and_is_gone_on_with(
    cohort: Path, tmp_path: Path
):
    """Of four commands, to the driver alone and to its group, by either signal."""
    bed = tmp_path / "files" / "cohort.bed"
    bed.parent.mkdir()
    write_bed(bed, admixed_calls(60_000, 700))
    kinds = ("run", "apply", "import", "reprocess")
    model = tmp_path / "0-run" / "out" / "model.zarr"
    whole, seconds = {}, {}
    for kind in kinds:
        # Twice, for the kernels to be compiled.
        for attempt in range(2):
            work = _work(kind, tmp_path / f"{attempt}-{kind}", cohort, model, bed)
            began = time.monotonic()
            assert start(*work.words).wait() == 0
            seconds[kind] = time.monotonic() - began
        whole[kind] = _tree(work.folder)
    chance = random.Random(24)
    for attempt in range(N_TRIES):
        kind = kinds[attempt % len(kinds)]
        number = chance.choice([signal.SIGINT, signal.SIGTERM])
        group = chance.random() < 0.5
        moment = chance.uniform(0.2, 0.95 * seconds[kind])
        work = _work(kind, tmp_path / f"try-{attempt}", cohort, model, bed)
        process = start(*work.words)
        time.sleep(moment)
        case = f"{kind} {number.name} {group=} after {moment:.2f} s"
        if process.poll() is not None:
            # Quicker than before; nothing is left to stop.
            assert process.communicate()[1] is not None
            assert process.returncode == 0, case
            continue
        ended = stop(process, number, group=group)
        said = [line for line in ended.lines if " INFO " not in line]
        assert ended.status == 128 + number, (case, ended)
        assert len(said) == 1, (case, ended)
        assert said[0].startswith(f"Error: stopped by {number.name}; "), case
        assert ended.seconds < SECONDS, (case, ended)
        assert ended.left == [], (case, ended)
        again = start(*work.words, *work.way_on)
        _, errors = again.communicate(timeout=300)
        assert again.returncode == 0, (case, errors)
        assert _tree(work.folder) == whole[kind], case
        shutil.rmtree(work.folder)
