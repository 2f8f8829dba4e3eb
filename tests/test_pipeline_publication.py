"""Publishing by a pointer, in memory and, as a soak test, on a server of S3."""

import contextlib
from collections.abc import Iterator
from typing import Any

import fsspec
import numpy as np
import pytest

from pipeline import location, provenance, publication, schema, workspace
from pipeline.errors import InputError
from pipeline.location import Location, RemotePath
from pipeline.store import Store
from tests import s3_server
from tests.s3_server import remote, remotely

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(
    scope="module", params=["memory", pytest.param("s3", marks=pytest.mark.soak)]
)
def root(request: pytest.FixtureRequest) -> Iterator[RemotePath]:
    if request.param == "s3":
        with s3_server.serve():
            yield remote("root")
        return
    yield RemotePath("memory://root")
    fsspec.filesystem("memory").rm("/root", recursive=True)


def _write(path: Location, kind: str, note: str) -> None:
    made = Store.create(path, kind)
    spec = schema.MODEL["variant_population_frequency"]
    made.write("variant_population_frequency", spec, np.full((4, 2), 0.5, np.float32))
    made.set_attrs(note=note, stamp="stamp")
    made.finish()


INPUTS = {"cohort": "abc"}


def _open_model(output: RemotePath, **flags: bool):
    return workspace.open_store_workspace(
        output, "model.zarr", **{"resume": False, "overwrite": False, **flags}
    )


def _publish(output: RemotePath, note: str, **flags: bool) -> None:
    with _open_model(output, **flags) as opened:
        opened.check_inputs(INPUTS)
        _write(opened.building("model.zarr"), "model", note)
        (remotely(opened.work) / "scratch" / "file").write_bytes(b"")
        opened.publish()


def _note(output: RemotePath) -> str:
    return Store.open(publication.resolve(output), "model").attrs["note"]


def test_publish__a_pointer_names_what_was_built(root: RemotePath):
    output = root / "single/model.zarr"
    _publish(output, "first")
    assert _note(output) == "first"
    with pytest.raises(InputError, match="exists already"):
        _publish(output, "second")
    _publish(output, "second", overwrite=True)
    assert _note(output) == "second"
    pointer, version = sorted(
        (item.name for item in output.parent.iterdir()), reverse=True
    )
    assert pointer == "model.zarr"
    assert [item.name for item in (output.parent / version).iterdir()] == ["model.zarr"]
    real = publication.published_url(str(output))
    assert real == f"{output.parent}/{version}/model.zarr"


def test_publish__a_failure_leaves_the_earlier_result(
    root: RemotePath, monkeypatch: pytest.MonkeyPatch
):
    output = root / "failed/model.zarr"
    _publish(output, "old")
    write = RemotePath.write_bytes

    def write_or_fail(path: RemotePath, data: bytes, **conditions: Any) -> None:
        if path.name == "0.0":
            raise InputError("refused")
        write(path, data, **conditions)

    with monkeypatch.context() as patch:
        patch.setattr(RemotePath, "write_bytes", write_or_fail)
        with pytest.raises(InputError, match="refused"):
            _publish(output, "new", overwrite=True)
    assert _note(output) == "old"
    assert len(list(output.parent.iterdir())) == 2


def test_publish__by_a_stage_leaves_the_rest_of_a_run(root: RemotePath):
    output = root / "mixed"
    _run(output, "run")
    with pytest.raises(InputError, match="exists already"):
        _publish(output / "model.zarr", "stage")
    _publish(output / "model.zarr", "stage", overwrite=True)
    assert _note(output / "model.zarr") == "stage"
    assert _notes(output) == {"run", "stage"}
    _run(output, "again", overwrite=True)
    assert _notes(output) == {"again"}
    assert len(list(output.iterdir())) == 2


@pytest.mark.parametrize("has_moved", [False, True])
def test_publish__of_a_stage_is_repeated_where_it_was_cut_short(
    has_moved: bool, root: RemotePath, monkeypatch: pytest.MonkeyPatch
):
    output = root / f"cut-{has_moved}/model.zarr"
    _publish(output, "old")
    point = publication.point

    def die(path: RemotePath, built: RemotePath) -> None:
        if has_moved:
            point(path, built)
        raise _KilledError

    with monkeypatch.context() as patch:
        patch.setattr(publication, "point", die)
        with pytest.raises(_KilledError):
            _publish(output, "new", overwrite=True)
    assert _note(output) == ("new" if has_moved else "old")
    with _open_model(output, resume=True) as opened:
        found = opened.conclude("stamp")
        assert found is not None
        assert found["note"] == "new"
    assert _note(output) == "new"
    assert len(list(output.parent.iterdir())) == 2


def _begin_a_model(output: RemotePath) -> None:
    with _open_model(output) as opened:
        opened.check_inputs(INPUTS)
        made = Store.create(opened.building("model.zarr"), "model")
        made.track_blocks(2)
        made.mark_done(1, 0.5)
        raise _KilledError


def test_store_workspace__resume_goes_on_with_the_blocks_left(root: RemotePath):
    output = root / "begun/model.zarr"
    with pytest.raises(_KilledError):
        _begin_a_model(output)
    message = r"was begun in \.model\.zarr\.work\.json; pass --resume"
    with pytest.raises(InputError, match=message):
        _publish(output, "new")
    with _open_model(output, resume=True) as opened:
        assert opened.conclude("stamp") is None
        found = Store.resume(opened.building("model.zarr"), "model")
        assert found is not None
        assert found.blocks_left() == [0]
        assert found.block_figures()[1] == 0.5
    _publish(output, "new", overwrite=True)
    assert len(list(output.parent.iterdir())) == 2


def _build_all(opened: workspace.Workspace, note: str) -> None:
    for name, kind in workspace.STORES.items():
        made = Store.create(opened.building(name), kind)
        made.set_attrs(note=note)
        made.finish()
    provenance.write_json(opened.building("run.json"), {"note": note, "stamp": "stamp"})
    opened.building("report.html").write_bytes(note.encode())


def _notes(output: RemotePath) -> set[str]:
    stores = (
        Store.open(publication.resolve(output / name), kind)
        for name, kind in workspace.STORES.items()
    )
    report = publication.resolve(output / "report.html").read_text()
    return {report, *(opened.attrs["note"] for opened in stores)}


def _open(output: RemotePath, **flags: bool):
    return workspace.open_workspace(
        output, **{"resume": False, "overwrite": False, **flags}
    )


def _run(output: RemotePath, note: str, **flags: bool) -> None:
    with _open(output, **flags) as opened:
        opened.check_inputs(INPUTS)
        _build_all(opened, note)
        opened.publish()


def test_workspace__publishes_a_version_by_run_json(root: RemotePath):
    output = root / "results/a"
    _run(output, "old")
    assert _notes(output) == {"old"}
    with pytest.raises(InputError, match=r"has run\.json already"):
        _run(output, "new")
    with _open(output, overwrite=True) as opened:
        _build_all(opened, "new")
        assert _notes(output) == {"old"}
        opened.publish()
    assert _notes(output) == {"new"}
    version, pointer = sorted(item.name for item in output.iterdir())
    assert pointer == "run.json"
    names = {item.name for item in (output / version).iterdir()}
    assert names == {*workspace.STORES, *workspace.FILES}


class _KilledError(BaseException):
    """Stands for a driver that dies: nothing after it runs."""


@pytest.mark.parametrize("n_deletions", [0, 4])
def test_workspace__publishing_is_repeated_where_it_was_cut_short(
    n_deletions: int, root: RemotePath, monkeypatch: pytest.MonkeyPatch
):
    output = root / f"results/cut-{n_deletions}"
    _run(output, "old")
    left = iter(range(n_deletions))
    delete = location.delete_tree

    def delete_or_die(path: RemotePath) -> None:
        if next(left, None) is None:
            raise _KilledError
        delete(path)

    def cut_short() -> None:
        with _open(output, overwrite=True) as opened:
            opened.check_inputs(INPUTS)
            _build_all(opened, "new")
            for name in ("rounds/a", "stages.json", "more"):
                (remotely(opened.work) / name).write_bytes(b"")
            monkeypatch.setattr(location, "delete_tree", delete_or_die)
            opened.publish()

    with contextlib.suppress(_KilledError):
        cut_short()
    monkeypatch.setattr(location, "delete_tree", delete)
    assert _notes(output) == {"new"}
    with _open(output, resume=True) as opened:
        assert opened.conclude("stamp") is not None
    assert _notes(output) == {"new"}
    assert len(list(output.iterdir())) == 2


def test_workspace__resume_finds_what_is_finished(root: RemotePath):
    output = root / "results/resumed"

    def die() -> None:
        with _open(output) as opened:
            opened.check_inputs(INPUTS)
            _write(opened.building("prepared.zarr"), "prepared", "kept")
            raise _KilledError

    with pytest.raises(_KilledError):
        die()
    with pytest.raises(InputError, match=r"has \.work\.json already; pass --resume"):
        _run(output, "new")
    with _open(output, resume=True) as opened:
        assert opened.conclude("stamp") is None
        assert opened.is_built("prepared.zarr")
        assert not opened.is_built("model.zarr")
        with pytest.raises(InputError, match="has another cohort"):
            opened.check_inputs({"cohort": "another"})
    _run(output, "new", overwrite=True)
    assert _notes(output) == {"new"}
    assert len(list(output.iterdir())) == 2


def test_workspace__bad_input_leaves_nothing(root: RemotePath):
    output = root / "results/bad"

    def fail() -> None:
        with _open(output) as opened:
            opened.check_inputs(INPUTS)
            raise InputError("bad")

    with pytest.raises(InputError, match="bad"):
        fail()
    assert not output.exists()
