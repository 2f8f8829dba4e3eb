import io
import os
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline import location
from pipeline.errors import InputError
from pipeline.location import RemotePath, delete_tree, locate, replacing


@pytest.fixture
def remote():
    folder = locate("memory://bucket/folder/")
    assert isinstance(folder, RemotePath)
    for key in ("b", "a/x", "a/y"):
        (folder / key).write_bytes(key.encode())
    yield folder
    fsspec.filesystem("memory").rm("/bucket", recursive=True)


def test_locate__takes_urls_and_paths():
    assert locate("folder/store") == Path("folder/store")
    assert locate("file:///folder/store") == Path("/folder/store")
    assert locate("memory://b/store/") == RemotePath("memory://b/store")
    assert locate(RemotePath("memory://b/store")) == RemotePath("memory://b/store")


def test_locate__refuses_an_unknown_protocol():
    with pytest.raises(InputError, match="nonsense://x: no file system for this URL"):
        locate("nonsense://x")


def test_remote_path__is_taken_apart_and_put_together(remote):
    assert remote.name == "folder"
    assert remote.parent == RemotePath("memory://bucket")
    assert remote.with_name("other") == RemotePath("memory://bucket/other")
    assert str(remote / "a" / "x") == "memory://bucket/folder/a/x"


def test_remote_path__tells_files_from_folders(remote):
    assert (remote / "b").is_file()
    assert not (remote / "b").is_dir()
    assert (remote / "a").is_dir()
    assert not (remote / "a").is_file()
    assert not (remote / "c").exists()
    assert [item.name for item in remote.iterdir()] == ["a", "b"]
    assert list((remote / "c").iterdir()) == []
    assert location.files_below(remote) == ["a/x", "a/y", "b"]


def test_remote_path__reads_ranges(remote):
    before = location.bytes_received()
    assert (remote / "a/x").read_bytes(1, 3) == b"/x"
    assert (remote / "a/x").open("rb").read() == b"a/x"
    assert location.bytes_received() - before == 5
    with pytest.raises(FileNotFoundError):
        (remote / "c").read_bytes()


def test_remote_path__a_refusal_is_not_an_absence(remote, monkeypatch):
    def refuse(self, path, **kwargs):
        raise PermissionError("403")

    for method in ("info", "cat_file", "ls", "find"):
        monkeypatch.setattr(MemoryFileSystem, method, refuse)
    for action, ask in (
        ("looked up", remote.exists),
        ("looked up", remote.is_file),
        ("listed", remote.keys),
        ("listed", lambda: list(remote.iterdir())),
        ("read", remote.read_text),
    ):
        with pytest.raises(InputError, match=rf"cannot be {action} \(403\); check the"):
            ask()


def test_delete_tree__deletes_all_below(remote):
    delete_tree(remote / "a")
    assert remote.keys() == ["b"]
    delete_tree(remote / "a")


def test_upload__copies_a_folder(remote, tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "file").write_bytes(b"1")
    (tmp_path / "top").write_bytes(b"2")
    location.upload(tmp_path, remote / "copy")
    assert (remote / "copy").keys() == ["deep/er/file", "top"]
    assert (remote / "copy/top").read_bytes() == b"2"


def _fail_to_write(path: location.Location) -> None:
    with replacing(path) as file:
        file.write(b"half")
        raise OSError("disk full")


def test_replacing__keeps_the_old_file_after_an_error(remote, tmp_path):
    for path in (tmp_path / "b", remote / "b"):
        path.write_bytes(b"old")
        with pytest.raises(OSError, match="disk full"):
            _fail_to_write(path)
        assert path.read_bytes() == b"old"


def test_replacing__the_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "file"
    with replacing(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("span", [(0, 2), (2, 100)])
def test_read_range__is_the_same_locally(remote, tmp_path, span):
    (tmp_path / "x").write_bytes(b"a/x")
    expected = io.BytesIO(b"a/x").getvalue()[slice(*span)]
    for folder in (tmp_path, remote / "a"):
        assert location.read_range(folder / "x", *span) == expected


def test_locate__refuses_what_an_unset_variable_leaves():
    with pytest.raises(InputError, match="a path is empty; name a directory"):
        locate("")
