"""deploy/README.md says what is there: its paths, commands and examples."""

import re
import shlex
import shutil
import textwrap
from pathlib import Path

import pytest

from pipeline import cli, slurm_config
from tests import kubernetes_schemas
from tests.test_deploy_kubernetes import build, containers

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "deploy" / "README.md").read_text()


def _blocks() -> list[str]:
    """The indented blocks of the page."""
    found = re.findall(r"(?:^    .*\n|^\n)+", TEXT, re.MULTILINE)
    return [textwrap.dedent(block).strip() for block in found if block.strip()]


def test_readme__links_and_paths_are_there():
    for link in re.findall(r"\]\(([^)#:]+)\)", TEXT):
        assert (ROOT / "deploy" / link).exists(), link
    for path in re.findall(r"\bdeploy/[\w./-]+\w", TEXT):
        assert (ROOT / path).exists() or "/mine" in path, path


def test_readme__make_targets_are_there():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([\w-]+)`", TEXT):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_readme__commands_have_the_options_that_the_program_has():
    lines = "\n".join(_blocks()).replace("\\\n", " ").splitlines()
    commands = [line for line in lines if " run cohort" in f" {line}"]
    assert len(commands) == 2
    for line in commands:
        words = shlex.split(line)
        arguments = words[words.index("run", words.index("cohort.vcz") - 1) + 1 :]
        with cli.run.make_context("run", arguments):
            pass


def test_readme__scripts_are_given_what_they_take():
    for line in (x for block in _blocks() for x in block.splitlines()):
        if line.startswith("sbatch"):
            words = shlex.split(line)
            arguments = words[words.index("cohort.vcz") :]
            with cli.run.make_context("run", arguments):
                pass


def test_readme__description_of_jobs_is_read(tmp_path: Path):
    (block,) = (block for block in _blocks() if block.startswith("[slurm]"))
    path = tmp_path / "cluster.toml"
    path.write_text(block)
    assert slurm_config.load_config(path).max_workers == 8


@pytest.mark.parametrize("version", kubernetes_schemas.VERSIONS)
def test_readme__overlay_of_your_own_builds(tmp_path: Path, version: str):
    (block,) = (block for block in _blocks() if "kind: Kustomization" in block)
    folder = tmp_path / "kubernetes"
    shutil.copytree(ROOT / "deploy" / "kubernetes", folder)
    mine = folder / "overlays" / "mine"
    mine.mkdir()
    (mine / "kustomization.yaml").write_text(block)
    built = build(mine)
    for manifest in built:
        kubernetes_schemas.check(manifest, version)
        assert manifest["metadata"]["namespace"] == "ancestry"
    images = {container["image"] for container in containers(built)}
    assert images == {"registry.example.org/lab/streamixture:0.1.0-cuda"}
