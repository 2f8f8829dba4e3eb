"""Where a store or file is: a path of this machine, or a URL of an object store.

`RemotePath` has the methods of `pathlib.Path` that the pipeline uses, so that one
code serves both. Invariant: an answer is never guessed. Only a server that says so
makes a file missing; a request that is refused or keeps failing is an error.
"""

import contextlib
import functools
import io
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import fsspec

from pipeline.errors import InputError, install_extra

# Requests of one process at a time: an object store answers each slowly.
PARALLEL_REQUESTS = 16
_REMEDY = "check the URL, credentials, permissions and the server, then run again"


@dataclass(frozen=True, order=True)
class RemotePath:
    """A file or folder on any file system that fsspec knows.

    Attributes
    ----------
    url
        With its protocol, without a slash at the end.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, key: str) -> "RemotePath":
        return RemotePath(f"{self.url}/{key}")

    @property
    def name(self) -> str:
        """Last part of the URL."""
        return self.url.rpartition("/")[2]

    @property
    def parent(self) -> "RemotePath":
        """The URL without its last part."""
        return RemotePath(self.url.rpartition("/")[0])

    def with_name(self, name: str) -> "RemotePath":
        """The URL with another last part."""
        return self.parent / name

    @property
    def _filesystem(self) -> Any:
        return _connect(self.url.partition("://")[0])

    @property
    def _path(self) -> str:
        return str(self._filesystem._strip_protocol(self.url))

    def info(self) -> dict[str, Any] | None:
        """What the file system tells of a file or folder; None if it is missing."""
        with self._explained("looked up"), contextlib.suppress(FileNotFoundError):
            return dict(self._filesystem.info(self._path))
        return None

    def exists(self) -> bool:
        """Whether a file, or a folder with files in it, is there."""
        return self.info() is not None

    def is_file(self) -> bool:
        """Whether a file is there."""
        info = self.info()
        return info is not None and info["type"] == "file"

    def is_dir(self) -> bool:
        """Whether a folder with files in it is there."""
        info = self.info()
        return info is not None and info["type"] == "directory"

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: folders of an object store come with their files."""

    def iterdir(self) -> Iterator["RemotePath"]:
        """Files and folders in a folder, sorted; none if it is missing."""
        with self._explained("listed"), contextlib.suppress(FileNotFoundError):
            found = self._filesystem.ls(self._path, detail=False)
            names = {path.rstrip("/").rpartition("/")[2] for path in found}
            yield from (self / name for name in sorted(names - {self.name}))

    def keys(self) -> list[str]:
        """Files in a folder and below, relative to it, sorted."""
        prefix = f"{self._path}/"
        with self._explained("listed"):
            found = self._filesystem.find(self._path)
        return sorted(p[len(prefix) :] for p in found if p.startswith(prefix))

    def marks(self) -> dict[str, str]:
        """What tells of each file below that it was written again, in one listing."""
        prefix = f"{self._path}/"
        with self._explained("listed"):
            found = self._filesystem.find(self._path, detail=True)
        return {
            path[len(prefix) :]: f"{info.get('size')} {info.get('ETag')}"
            for path, info in found.items()
            if path.startswith(prefix)
        }

    def read_bytes(self, start: int | None = None, stop: int | None = None) -> bytes:
        """Bytes of a file, or a range of them."""
        with self._explained("read"):
            data = bytes(self._filesystem.cat_file(self._path, start=start, end=stop))
        _received.add(len(data))
        return data

    def read_text(self) -> str:
        """Text of a file."""
        return self.read_bytes().decode()

    def open(self, mode: str) -> BinaryIO:
        """A file in memory with the bytes, for reading ("rb")."""
        assert mode == "rb", "remote files are read whole; `replacing` writes them"
        return io.BytesIO(self.read_bytes())

    def write_bytes(self, data: bytes, **conditions: Any) -> None:
        """Make or replace a file, in one step."""
        with self._explained("written", missing="no such bucket"):
            self._filesystem.pipe_file(self._path, data, **conditions)

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Delete a file."""
        with self._explained("deleted"):
            try:
                self._filesystem.rm_file(self._path)
            except FileNotFoundError:
                if not missing_ok:
                    raise

    @contextlib.contextmanager
    def _explained(self, action: str, missing: str = "") -> Iterator[None]:
        """Turn what a file system raises, except that a file is missing or there."""
        try:
            yield
        except FileExistsError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            if isinstance(error, FileNotFoundError):
                if not missing:
                    raise
                reason = missing
            raise InputError(
                f"{self.url} cannot be {action} ({reason}); {_REMEDY}"
            ) from error


Location: TypeAlias = Path | RemotePath


class _Counter:
    """Adds up numbers from several threads."""

    def __init__(self) -> None:
        self.total = 0
        self._lock = threading.Lock()

    def add(self, number: int) -> None:
        with self._lock:
            self.total += number


_received = _Counter()


def bytes_received() -> int:
    """Bytes that this process has read of remote files so far."""
    return _received.total


def locate(text: str | Path | RemotePath) -> Location:
    """Take a text for a URL if it has a protocol, else for a local path.

    Raises
    ------
    InputError
        If no file system is known for the protocol, or the text is empty.

    >>> locate("s3://bucket/cohort.vcz/").name, locate("folder/cohort.vcz").name
    ('cohort.vcz', 'cohort.vcz')
    """
    if not isinstance(text, str):
        return text
    if not text:
        # To pathlib it is the current directory, and to a shell an unset variable.
        raise InputError("a path is empty; name a directory, a file or a URL")
    protocol, separator, rest = text.partition("://")
    if not separator:
        return Path(text)
    if protocol in ("file", "local"):
        return Path(rest)
    try:
        _connect(protocol)
    except (ImportError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{text}: no file system for this URL ({error}); use a directory or "
            f"install what its protocol needs; for s3, {install_extra('s3')}"
        ) from error
    return RemotePath(text.rstrip("/"))


@functools.cache
def _connect(protocol: str) -> Any:
    """One file system a process: fsspec's own cache would keep one a thread."""
    if protocol in ("s3", "s3a"):
        # An extra, and slow to import where it is not needed.
        from pipeline import s3

        return s3.connect(PARALLEL_REQUESTS)
    return fsspec.filesystem(protocol)


def files_below(path: Location) -> list[str]:
    """Files in a folder and below, relative to it, sorted; none if it is missing."""
    if isinstance(path, RemotePath):
        return path.keys()
    found = (item for item in path.rglob("*") if item.is_file())
    return sorted(item.relative_to(path).as_posix() for item in found)


def file_marks(path: Location) -> dict[str, str]:
    """What tells of each file in a folder and below that it was written again.

    Size and time, or an object's size and tag, without reading any.
    """
    if isinstance(path, RemotePath):
        return path.marks()
    return {key: file_mark(path / key) for key in files_below(path)}


def file_mark(path: Path) -> str:
    """Size of a local file and time of its last change."""
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns}"


def read_range(path: Location, start: int, stop: int) -> bytes:
    """Some of the bytes of a file; fewer where it ends before."""
    if isinstance(path, RemotePath):
        return path.read_bytes(start, stop)
    with path.open("rb") as file:
        file.seek(start)
        return file.read(stop - start)


@contextlib.contextmanager
def replacing(path: Location) -> Iterator[BinaryIO]:
    """Yield a file that appears at the path, whole, when the block succeeds."""
    if isinstance(path, RemotePath):
        buffer = io.BytesIO()
        yield buffer
        path.write_bytes(buffer.getvalue())
        return
    temporary = f"{os.fspath(path)}.partial"
    with open(temporary, "wb") as file:
        yield file
    os.replace(temporary, path)


def delete_tree(path: Location, *, ignore_errors: bool = False) -> None:
    """Delete a folder with all that is in it; one that is missing is fine."""
    if not isinstance(path, RemotePath):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=ignore_errors)
        return
    with contextlib.suppress(InputError) if ignore_errors else contextlib.nullcontext():
        files = [path / key for key in path.keys()]
        with ThreadPoolExecutor(PARALLEL_REQUESTS) as executor:
            # Not in bulk: s3fs does not tell which files such a request left.
            list(executor.map(lambda file: file.unlink(missing_ok=True), files))


def upload(folder: Path, target: RemotePath) -> None:
    """Copy a local folder to an object store."""

    def copy(key: str) -> None:
        (target / key).write_bytes((folder / key).read_bytes())

    with ThreadPoolExecutor(PARALLEL_REQUESTS) as executor:
        list(executor.map(copy, files_below(folder)))
