"""Publishing where nothing can be renamed: a small pointer written last.

A store on an object store is built in a version folder beside its final name, and is
published by one object at that name, which says where it is. The stores of a run have
one pointer together, run.json. Invariant: a reader finds the earlier store or the new
one, each whole.
"""

import contextlib
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline import location
from pipeline.location import Location, RemotePath

RUN_FILE = "run.json"
_KEY = "location"
# A pointer is shorter; what stands at the name may be anything, and large.
_MOST_BYTES = 4_096


def new_version(name: str) -> str:
    """Name of a folder that does not exist yet."""
    return f"{name}-{secrets.token_hex(8)}"


def resolve(path: Location) -> Location:
    """Where a published store or file really is; a local path is itself."""
    if not isinstance(path, RemotePath):
        return path
    target = _target(path)
    if target is not None:
        return path.parent / target
    with contextlib.suppress(FileNotFoundError):
        run = _parse((path.parent / RUN_FILE).read_bytes())
        if _KEY in run:
            built = path.parent / str(run[_KEY]) / path.name
            return built if built.exists() else path
    return path


def published_url(url: str) -> str:
    """URL of a published store, for libraries that know nothing of pointers.

    >>> published_url("out/ancestry.zarr")
    'out/ancestry.zarr'
    """
    return str(resolve(location.locate(url)))


def _target(path: RemotePath) -> str | None:
    """What the pointer at a path names, if one is there."""
    info = path.info()
    if info is None or info["type"] != "file" or info["size"] > _MOST_BYTES:
        return None
    found = _parse(path.read_bytes()).get(_KEY)
    return found if isinstance(found, str) else None


def _parse(data: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        value = json.loads(data)
        return value if isinstance(value, dict) else {}
    return {}


def point(path: RemotePath, built: RemotePath) -> None:
    """Publish what was built in a version folder beside, and delete the earlier one."""
    previous = resolve(path)
    target = built.url.removeprefix(f"{path.parent}/")
    assert target != built.url, f"{built} is not beside {path}"
    path.write_bytes(json.dumps({_KEY: target}).encode() + b"\n")
    if previous == path:
        # Files of a store that was copied here without a pointer.
        location.delete_tree(path)
    elif previous != built:
        location.delete_tree(previous.parent)


@contextlib.contextmanager
def build_beside(path: RemotePath) -> Iterator[RemotePath]:
    """Yield a version folder, of which only what was published is kept."""
    folder = path.parent / new_version(f".{path.name}")
    try:
        yield folder
    except BaseException:
        location.delete_tree(folder, ignore_errors=True)
        raise
    published = resolve(path)
    for item in folder.iterdir():
        if item != published:
            location.delete_tree(item)
            item.unlink(missing_ok=True)


@contextlib.contextmanager
def build_locally(path: RemotePath, folder: Path) -> Iterator[Path]:
    """Yield a local path for a store that is uploaded and published afterwards."""
    yield folder / "store"
    with build_beside(path) as version:
        location.upload(folder / "store", version / path.name)
        point(path, version / path.name)
