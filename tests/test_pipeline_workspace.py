import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from pipeline import provenance, store
from pipeline.errors import BusyError, InputError
from pipeline.location import Location, locate
from pipeline.store import Store
from pipeline.workspace import (
    FILES,
    STORES,
    Workspace,
    check_apart,
    open_store_workspace,
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


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("c.vcz", "c.vcz"),
        ("c.vcz", "c.vcz/out"),
        ("c.vcz", "other/../c.vcz/out"),
        ("s3://bucket/c.vcz", "s3://bucket/c.vcz"),
        ("s3://bucket/c.vcz", "s3://bucket/c.vcz/out"),
    ],
)
def test_check_apart__refuses_results_in_the_cohort(source, output):
    with pytest.raises(InputError, match=r"is in the cohort \S*c\.vcz itself; name"):
        check_apart(source, locate(output))


@pytest.mark.parametrize("source", ["out/prepared.zarr", "out/.work/c.vcz"])
@pytest.mark.parametrize("root", ["", "s3://bucket/"])
def test_check_apart__refuses_a_cohort_in_the_place_of_results(root, source):
    message = r"is where the results of \S*out go; name another --output"
    with pytest.raises(InputError, match=message):
        check_apart(root + source, locate(f"{root}out"))


@pytest.mark.parametrize("source", ["c.vcz", "out/cohort.vcz", "out.vcz", "o"])
def test_check_apart__lets_the_others_be(source):
    check_apart(source, locate("out"))


@pytest.mark.parametrize("name", ["", "model.zarr"])
def test_open_workspace__refuses_what_cannot_be_made(tmp_path, name):
    (tmp_path / "file").touch()
    output, options = tmp_path / "file" / "out", {"resume": False, "overwrite": False}
    message = r"out cannot be made \(Not a directory: .*file.*\); name another"
    opened = (
        open_store_workspace(output, name, **options)
        if name
        else open_workspace(output, **options)
    )
    with pytest.raises(InputError, match=message), opened:
        pytest.fail("there is no such place")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


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
            with pytest.raises(BusyError, match=message), _open(tmp_path, **options):
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


def _fail_with_blocks(output: Path) -> None:
    with _open(output) as workspace:
        made = Store.create(workspace.building("prepared.zarr"), "prepared")
        made.track_blocks(2)
        raise BAD


def test_open_workspace__bad_input_keeps_blocks(tmp_path):
    with pytest.raises(InputError, match="bad cohort"):
        _fail_with_blocks(tmp_path)
    with _open(tmp_path, resume=True) as workspace:
        path = workspace.building("prepared.zarr")
        again = Store.resume(path, "prepared")
        assert again is not None
        assert again.blocks_left() == [0, 1]


def _open_model(
    output: Path, *, resume: bool = False, overwrite: bool = False
) -> AbstractContextManager[Workspace]:
    options = {"resume": resume, "overwrite": overwrite}
    return open_store_workspace(output, "model.zarr", **options)


def _build_model(workspace: Workspace, stamp: str) -> None:
    made = Store.create(workspace.building("model.zarr"), "model")
    made.set_attrs(stamp=stamp)
    made.finish()


def _publish_a_model(output: Path, stamp: str) -> None:
    with _open_model(output) as workspace:
        workspace.check_inputs(INPUTS)
        _build_model(workspace, stamp)
        workspace.publish()


def _stamp(output: Path) -> str:
    return Store.open(output, "model").attrs["stamp"]


def test_open_store_workspace__is_beside_the_store_and_goes_away(tmp_path):
    output = tmp_path / "new" / "m.zarr"
    _publish_a_model(output, "first")
    assert [path.name for path in output.parent.iterdir()] == ["m.zarr"]
    assert _stamp(output) == "first"


def test_open_store_workspace__bad_input_leaves_nothing_behind(tmp_path):
    output = tmp_path / "new" / "m.zarr"
    with pytest.raises(InputError, match="bad cohort"), _open_model(output):
        raise BAD
    assert list(tmp_path.iterdir()) == []


def test_open_store_workspace__refuses_what_exists(tmp_path):
    output = tmp_path / "m.zarr"
    _publish_a_model(output, "old")
    message = r"m\.zarr exists already; pass --overwrite to replace it, or name an"
    with pytest.raises(InputError, match=message), _open_model(output):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["m.zarr"]


def _begin_a_model(output: Path, *, overwrite: bool) -> None:
    with _open_model(output, overwrite=overwrite) as workspace:
        workspace.check_inputs(INPUTS)
        Store.create(workspace.building("model.zarr"), "model").track_blocks(2)
        raise KeyboardInterrupt


def _interrupt_a_model(output: Path, *, overwrite: bool = False) -> None:
    """A stage that had begun its store, and was killed."""
    with pytest.raises(KeyboardInterrupt):
        _begin_a_model(output, overwrite=overwrite)


def test_open_store_workspace__refuses_what_was_begun(tmp_path):
    output = tmp_path / "m.zarr"
    _interrupt_a_model(output)
    message = (
        r"m\.zarr was begun in \.m\.zarr\.work; pass --resume to finish it, --over"
    )
    with pytest.raises(InputError, match=message), _open_model(output):
        pass
    with _open_model(output, overwrite=True) as workspace:
        assert [path.name for path in workspace.work.iterdir()] == ["lock"]


def test_open_store_workspace__refuses_to_replace_anything_else(tmp_path):
    (tmp_path / "home").mkdir()
    message = "home is not a Zarr store; expected"
    with (
        pytest.raises(InputError, match=message),
        _open_model(tmp_path / "home", overwrite=True),
    ):
        pass
    _build(tmp_path / "prepared.zarr", "prepared", "old")
    message = r"not a streamixture model store \(kind: pre"
    for options in ({"overwrite": True}, {"resume": True}):
        with (
            pytest.raises(InputError, match=message),
            _open_model(tmp_path / "prepared.zarr", **options),
        ):
            pass


def test_open_store_workspace__another_at_work_refuses(tmp_path):
    output = tmp_path / "m.zarr"
    message = r"m\.zarr: another run is at work there; wait for it"
    with (
        _open_model(output),
        pytest.raises(BusyError, match=message),
        _open_model(output, resume=True),
    ):
        pass


def test_conclude__of_what_is_not_finished_is_none(tmp_path):
    output = tmp_path / "m.zarr"
    _interrupt_a_model(output)
    with _open_model(output, resume=True) as workspace:
        assert workspace.conclude("new") is None
        assert Store.resume(workspace.building("model.zarr"), "model") is not None


def test_conclude__leaves_what_is_published_alone(tmp_path):
    output = tmp_path / "m.zarr"
    _publish_a_model(output, "old")
    before = output.stat().st_mtime_ns
    with _open_model(output, resume=True) as workspace:
        assert workspace.conclude("old") == Store.open(output, "model").attrs
    assert [path.name for path in tmp_path.iterdir()] == ["m.zarr"]
    assert output.stat().st_mtime_ns == before
    message = r"m\.zarr: the finished run had another cohort, configuration or software"
    with (
        pytest.raises(InputError, match=message),
        _open_model(output, resume=True) as workspace,
    ):
        workspace.conclude("new")
    assert [path.name for path in tmp_path.iterdir()] == ["m.zarr"]


def test_conclude__goes_on_with_a_replacement_that_was_begun(tmp_path):
    output = tmp_path / "m.zarr"
    _publish_a_model(output, "old")
    _interrupt_a_model(output, overwrite=True)
    with _open_model(output, resume=True) as workspace:
        # Not even the inputs of the earlier result turn it away.
        assert workspace.conclude("old") is None
        workspace.check_inputs(INPUTS)
        _build_model(workspace, "new")
        assert _stamp(output) == "old"
        workspace.publish()
    assert _stamp(output) == "new"


def _replace_a_model(output: Path, stamp: str) -> None:
    with _open_model(output, overwrite=True) as workspace:
        workspace.check_inputs(INPUTS)
        _build_model(workspace, stamp)
        workspace.publish()


@pytest.mark.parametrize("has_moved", [False, True])
def test_conclude__publishes_what_was_cut_short(tmp_path, monkeypatch, has_moved):
    output = tmp_path / "m.zarr"
    _publish_a_model(output, "old")
    move = store.publish

    def die(source: Path, target: Path) -> None:
        if has_moved:
            move(source, target)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store, "publish", die)
        with pytest.raises(KeyboardInterrupt):
            _replace_a_model(output, "new")
    assert _stamp(output) == ("new" if has_moved else "old")
    with _open_model(output, resume=True) as workspace:
        found = workspace.conclude("new")
        assert found is not None
        assert found["stamp"] == "new"
    assert _stamp(output) == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["m.zarr"]
