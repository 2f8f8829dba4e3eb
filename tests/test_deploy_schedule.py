"""Schedules and settings of reprocessing are read by what they are written for."""

import dataclasses
import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from pipeline import cli
from pipeline.reprocess_config import ReprocessConfig, load_reprocess_config
from pipeline.simulate import simulate
from tests.dask_processes import ROOT

DEPLOY = Path(__file__).parents[1] / "deploy"
SCHEDULE = DEPLOY / "schedule"
EXAMPLE = DEPLOY / "reprocess.toml"


def test_example__is_the_defaults():
    found = load_reprocess_config(EXAMPLE)
    assert found == ReprocessConfig("/data/cohort.vcz", "/data/ancestry")


def test_example__names_every_setting():
    written = tomllib.loads(EXAMPLE.read_text())
    defaults = dataclasses.asdict(load_reprocess_config(EXAMPLE))

    def names(table: dict[str, object]) -> dict[str, object]:
        return {
            key: names(value) if isinstance(value, dict) else None
            for key, value in table.items()
        }

    assert names(written) == names(defaults)


def check_command(line: str) -> None:
    """A command line that the program takes, on the example's own path."""
    program, *arguments = shlex.split(line)
    assert Path(program).name == "streamixture"
    name, *rest = arguments
    command = cli.main.get_command(click.Context(cli.main), name)
    assert command is not None
    context = command.make_context(name, rest)
    assert context.params["config_path"] == Path("/data") / EXAMPLE.name


def test_scrontab__commands_and_options():
    lines = (SCHEDULE / "scrontab").read_text().splitlines()
    jobs = [line for line in lines if line and not line.startswith("#")]
    assert len(jobs) == 1
    assert len(jobs[0].split()[:5]) == 5
    check_command(jobs[0].split(maxsplit=5)[5])
    options = [line.split()[1] for line in lines if line.startswith("#SCRON")]
    assert {o.partition("=")[0] for o in options} >= {"--mem", "--time", "--output"}


def test_systemd__units(tmp_path: Path):
    name = "streamixture-reprocess"
    service = (SCHEDULE / f"{name}.service").read_text()
    line = next(x for x in service.splitlines() if x.startswith("ExecStart="))
    check_command(line.removeprefix("ExecStart="))
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not here")
    installed = line.removeprefix("ExecStart=").split()[0]
    there = str(Path(sys.executable).parent / "streamixture")
    (tmp_path / f"{name}.service").write_text(service.replace(installed, there))
    shutil.copy(SCHEDULE / f"{name}.timer", tmp_path)
    units = [str(tmp_path / f"{name}.{kind}") for kind in ("service", "timer")]
    done = subprocess.run(
        [analyze, "verify", "--man=no", *units],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "streamixture" not in done.stderr


SETTINGS = """
cohort = "cohort.vcz"
output = "ancestry"
[run.qc]
enabled = false
[run.fit]
n_populations = 2
[run.train]
epochs = 0
[run.apply]
standard_errors = "none"
"""


def install_snakemake(folder: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    done = subprocess.run([*pip, "snakemake>=9.27,<10"], check=False)
    if done.returncode:
        pytest.skip("snakemake cannot be installed here")
    return folder / "bin" / "snakemake"


@pytest.mark.soak
@pytest.mark.timeout(1_200)
def test_snakefile__runs_for_real(tmp_path: Path):
    snakemake = install_snakemake(tmp_path / "snakemake")
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "reprocess.toml").write_text(SETTINGS)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": ROOT}
    command = [str(snakemake), "--snakefile", str(SCHEDULE / "Snakefile")]
    command += ["--cores", "2", "--forcerun", "reprocess"]

    def run() -> str:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    sizes = {"n_variants": 1_000, "n_populations": 2, "seed": 3}
    simulate(folder / "cohort.vcz", n_samples=100, **sizes)  # type: ignore[arg-type]
    assert "published version 1" in run()
    exported = sorted(path.name for path in (folder / "exported").iterdir())
    assert exported == ["done", "q.2.P", "q.2.Q", "q.samples", "q.variants"]
    before = {
        path: path.read_bytes()
        for path in (folder / "ancestry").rglob("*")
        if path.is_file()
    }
    assert "nothing changed; version 1 is current" in run()
    assert {path: path.read_bytes() for path in before} == before
    shutil.rmtree(folder / "cohort.vcz")
    simulate(folder / "cohort.vcz", n_samples=110, **sizes)  # type: ignore[arg-type]
    assert "published version 2" in run()
    assert len((folder / "exported" / "q.samples").read_text().splitlines()) == 110
