import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from pipeline import provenance
from pipeline.errors import InputError
from pipeline.location import Location
from pipeline.store import Store
from pipeline.workspace import (
    FILES,
    STORES,
    Workspace,
    build_beside,
    check_output,
    open_workspace,
)
from tests.helpers import local

INPUTS = {"cohort": "abc", "configuration": {"dims": (8, 4)}, "versions": {"jax": "1"}}


def _open(
    output: Path, *, resume: bool = False, overwrite: bool = False
) -> AbstractContextManager[Workspace]:
    return open_workspace(output, resume=resume, overwrite=overwrite)


def _build(path: Location, kind: str, note: str) -> None:
    made = Store.create(path, kind)
    made.set_attrs(note=note)
    made.finish()


def _build_all(workspace: Workspace, note: str) -> None:
    for name, kind in STORES.items():
        _build(workspace.building(name), kind, note)
    for name in FILES:
        workspace.building(name).write_bytes(note.encode())


def _notes(output: Path) -> set[str]:
    stores = {Store.open(output / n, k).attrs["note"] for n, k in STORES.items()}
    return stores | {(output / name).read_text() for name in FILES}


def _publish_a_run(output: Path, note: str) -> None:
    with _open(output) as workspace:
        _build_all(workspace, note)
        workspace.publish()


def _fail(
    output: Path,
    error: BaseException,
    *,
    stores: Sequence[str] = (),
    begun: str = "",
    resume: bool = False,
) -> None:
    """A run that ends in an error, with some stages finished and one begun."""
    with _open(output, resume=resume) as workspace:
        workspace.check_inputs(INPUTS)
        for name in stores:
            _build(workspace.building(name), STORES[name], "kept")
        if begun:
            workspace.building(begun).mkdir()
        raise error


def _interrupt_a_run(output: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _fail(output, KeyboardInterrupt(), stores=["prepared.zarr"])


def test_open_workspace__publishes_everything_and_leaves_nothing_else(tmp_path):
    output = tmp_path / "deep" / "results"
    _publish_a_run(output, "first")
    assert {path.name for path in output.iterdir()} == {*STORES, *FILES}
    assert _notes(output) == {"first"}


def test_open_workspace__refuses_a_file(tmp_path):
    (tmp_path / "results").write_text("text")
    message = r"results is a file; name a directory for --output"
    with pytest.raises(InputError, match=message), _open(tmp_path / "results"):
        pass


@pytest.mark.parametrize("name", [*STORES, *FILES, ".work"])
def test_open_workspace__refuses_what_is_there_already(tmp_path, name):
    (tmp_path / name).mkdir()
    message = (
        rf"has {name} already; pass --resume to finish an interrupted run, --overwrite "
        "to replace it, or name another --output"
    )
    with pytest.raises(InputError, match=message), _open(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_open_workspace__takes_a_directory_with_other_things(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    _publish_a_run(tmp_path, "first")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_open_workspace__resume_finds_what_is_finished(tmp_path):
    _interrupt_a_run(tmp_path)
    with _open(tmp_path, resume=True) as workspace:
        workspace.check_inputs(INPUTS)
        assert workspace.is_built("prepared.zarr")
        assert not workspace.is_built("model.zarr")


def test_open_workspace__a_store_begun_is_not_built(tmp_path):
    with _open(tmp_path) as workspace:
        Store.create(workspace.building("model.zarr"), "model")
        assert not workspace.is_built("model.zarr")


def test_open_workspace__resume_of_nothing_starts(tmp_path):
    with _open(tmp_path / "new", resume=True) as workspace:
        workspace.check_inputs(INPUTS)
        assert not any(workspace.is_built(name) for name in STORES)


def test_open_workspace__overwrite_starts_afresh(tmp_path):
    _interrupt_a_run(tmp_path)
    with _open(tmp_path, overwrite=True) as workspace:
        assert [path.name for path in workspace.work.iterdir()] == ["lock"]
        workspace.check_inputs({"cohort": "another"})


def test_open_workspace__resume_goes_before_overwrite(tmp_path):
    _interrupt_a_run(tmp_path)
    with _open(tmp_path, resume=True, overwrite=True) as workspace:
        assert workspace.is_built("prepared.zarr")


def test_open_workspace__overwrite_keeps_the_old_until_the_new_is_published(tmp_path):
    _publish_a_run(tmp_path, "old")
    with _open(tmp_path, overwrite=True) as workspace:
        _build_all(workspace, "new")
        assert _notes(tmp_path) == {"old"}
        workspace.publish()
    assert _notes(tmp_path) == {"new"}


def test_open_workspace__overwrite_that_fails_keeps_the_old(tmp_path):
    _publish_a_run(tmp_path, "old")
    with pytest.raises(InputError, match="bad cohort"), _open(tmp_path, overwrite=True):
        raise InputError("bad cohort")
    assert _notes(tmp_path) == {"old"}
    assert {path.name for path in tmp_path.iterdir()} == {*STORES, *FILES}


BAD = InputError("bad cohort")


@pytest.mark.parametrize("stores", [(), ("prepared.zarr",)])
def test_open_workspace__bad_input_leaves_nothing_behind(tmp_path, stores):
    output = tmp_path / "results"
    with pytest.raises(InputError, match="bad cohort"):
        _fail(output, BAD, stores=stores, begun="model.zarr")
    assert not output.exists()


def test_open_workspace__bad_input_keeps_a_directory_that_was_there(tmp_path):
    with pytest.raises(InputError, match="bad cohort"):
        _fail(tmp_path, BAD)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("stores", "begun"),
    [
        (["prepared.zarr"], "rounds"),
        (["prepared.zarr", "model.zarr"], ""),
        (["prepared.zarr", "model.zarr"], "ancestry.zarr"),
    ],
)
def test_open_workspace__bad_input_keeps_a_fit(tmp_path, stores, begun):
    with pytest.raises(InputError, match="bad cohort"):
        _fail(tmp_path, BAD, stores=stores, begun=begun)
    with _open(tmp_path, resume=True) as workspace:
        assert [name for name in STORES if workspace.is_built(name)] == stores
        assert not begun or workspace.building(begun).exists()


def test_open_workspace__bad_input_to_resume_keeps_what_was_there(tmp_path):
    _interrupt_a_run(tmp_path)
    with pytest.raises(InputError, match="bad cohort"):
        _fail(tmp_path, BAD, resume=True)
    with _open(tmp_path, resume=True) as workspace:
        assert workspace.is_built("prepared.zarr")


HOLDER = """
import sys
from pathlib import Path
from pipeline.workspace import open_workspace
with open_workspace(Path(sys.argv[1]), resume=True, overwrite=False):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("end", ["kill", "exit"])
def test_open_workspace__another_process_at_work_refuses(tmp_path, end):
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        cwd=Path(__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        message = r": another run is at work there; wait for it, or name another --out"
        for options in ({"resume": True}, {"overwrite": True}):
            with pytest.raises(InputError, match=message), _open(tmp_path, **options):
                pass
        assert (tmp_path / ".work" / "lock").exists()
        if end == "kill":
            holder.kill()
        holder.stdin.close()
        holder.wait(timeout=30)
    with _open(tmp_path, resume=True) as workspace:
        assert workspace.work.exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cohort", "abd"),
        ("configuration", {"dims": (8, 5)}),
        ("versions", {"jax": "2"}),
    ],
)
def test_check_inputs__names_what_differs(tmp_path, key, value):
    _interrupt_a_run(tmp_path)
    message = (
        rf"the unfinished run has another {key}; run with the same inputs to --resume, "
        "or --overwrite to start afresh"
    )
    with _open(tmp_path, resume=True) as workspace:
        with pytest.raises(InputError, match=message):
            workspace.check_inputs({**INPUTS, key: value})
        workspace.check_inputs(INPUTS)


def test_check_inputs__are_kept_from_the_first_time(tmp_path):
    with _open(tmp_path) as workspace:
        workspace.check_inputs(INPUTS)
        kept = json.loads((workspace.work / "inputs.json").read_text())
    assert provenance.digest(kept) == provenance.digest(INPUTS)


def test_publish__resumes_after_some_were_moved(tmp_path):
    with _open(tmp_path) as workspace:
        _build_all(workspace, "new")
        local(workspace.building("prepared.zarr")).rename(tmp_path / "prepared.zarr")
        workspace.publish()
    assert _notes(tmp_path) == {"new"}


def test_check_output__allows_what_is_not_there(tmp_path):
    check_output(tmp_path / "model.zarr", "model", overwrite=False)


def test_check_output__refuses_what_exists(tmp_path):
    _build(tmp_path / "model.zarr", "model", "old")
    message = r"model\.zarr exists already; pass --overwrite to replace it, or name an"
    with pytest.raises(InputError, match=message):
        check_output(tmp_path / "model.zarr", "model", overwrite=False)
    check_output(tmp_path / "model.zarr", "model", overwrite=True)


def test_check_output__refuses_to_replace_anything_else(tmp_path):
    (tmp_path / "home").mkdir()
    with pytest.raises(InputError, match="home is not a Zarr store; expected"):
        check_output(tmp_path / "home", "model", overwrite=True)
    _build(tmp_path / "prepared.zarr", "prepared", "old")
    with pytest.raises(InputError, match=r"not a streamixture model store \(kind: pre"):
        check_output(tmp_path / "prepared.zarr", "model", overwrite=True)


def test_build_beside__is_on_the_outputs_file_system_and_goes_away(tmp_path):
    output = tmp_path / "new" / "model.zarr"
    with build_beside(output) as folder:
        assert folder.parent == output.parent
        (folder / "model.zarr").mkdir()
        local(folder / "model.zarr").rename(output)
    assert [path.name for path in output.parent.iterdir()] == ["model.zarr"]


def _fail_beside(output: Path) -> None:
    with build_beside(output) as folder:
        (folder / "half").write_bytes(b"done")
        raise BAD


def test_build_beside__goes_away_after_an_error(tmp_path):
    with pytest.raises(InputError, match="bad cohort"):
        _fail_beside(tmp_path / "model.zarr")
    assert list(tmp_path.iterdir()) == []
