"""Publishing where nothing can be renamed: a small pointer written last.

Results on an object store are built in a version folder beside their final names, and
are published by one object that says where they are: of a single store at its name, of
a run its run.json. Invariant: a reader finds the earlier results or the new ones, each
whole.
"""

import contextlib
import json
import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline import location
from pipeline.location import Location, RemotePath

RUN_FILE = "run.json"
_KEY = "location"
_VERSION = re.compile("(.+)-[0-9a-f]{16}")
# The pointer of a store is shorter; what stands at its name may be anything, and large.
_MOST_BYTES = 4_096


def new_version(name: str) -> str:
    """Name of a folder that does not exist yet."""
    return f"{name}-{secrets.token_hex(8)}"


def resolve(path: Location) -> Location:
    """Where a published store or file really is; a local path is itself.

    Of a link, what it names now: a reader keeps to one version, though another be
    published meanwhile.
    """
    if not isinstance(path, RemotePath):
        linked = path.is_symlink() or path.parent.is_symlink()
        return path.resolve() if linked else path
    if path.name == RUN_FILE:
        return path
    target = _pointed(path)
    if target is not None:
        return target
    version = _pointed(path.parent / RUN_FILE)
    if version is not None and (version / path.name).exists():
        return version / path.name
    return path


def find_result(path: Location, name: str) -> Location:
    """Where a store is that is named itself, or by the directory of a run.

    Parameters
    ----------
    path
        The store, or a directory of results that has it.
    name
        What it is called there, such as "ancestry.zarr".
    """
    inside = resolve(path / name)
    return inside if inside.exists() else resolve(path)


def published_url(url: str) -> str:
    """URL of a published store, for libraries that know nothing of pointers.

    >>> published_url("out/ancestry.zarr")
    'out/ancestry.zarr'
    """
    return str(resolve(location.locate(url)))


def _pointed(path: RemotePath) -> RemotePath | None:
    """What the pointer at a path names, if one is there."""
    info = path.info()
    if info is None or info["type"] != "file":
        return None
    if info["size"] > _MOST_BYTES and path.name != RUN_FILE:
        return None
    target = _parse(path.read_bytes()).get(_KEY)
    if isinstance(target, str) and _VERSION.fullmatch(target.partition("/")[0]):
        return path.parent / target
    return None


def _parse(data: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        value = json.loads(data)
        return value if isinstance(value, dict) else {}
    return {}


def published_version(path: RemotePath) -> RemotePath | None:
    """The version folder that the pointer at a path names, if one is there."""
    target = _pointed(path)
    if target is None or path.name == RUN_FILE:
        return target
    return target.parent


def point(path: RemotePath, built: RemotePath) -> None:
    """Publish what was built in a version folder beside the path."""
    is_run = built.name == RUN_FILE
    content = _parse(built.read_bytes()) if is_run else {}
    target = built.parent if is_run else built
    assert built.parent.parent == path.parent, f"{built} is not beside {path}"
    content[_KEY] = target.url.removeprefix(f"{path.parent}/")
    path.write_bytes(json.dumps(content, indent=2).encode() + b"\n")
    # Files of a store that was copied here without a pointer.
    location.delete_tree(path)


def publish(version: RemotePath, targets: Mapping[str, RemotePath]) -> None:
    """Publish what was built in a version folder, and delete all that is left over.

    Whenever this is cut short, it can be repeated.

    Parameters
    ----------
    version
        The folder. Results that are published already need not be there.
    targets
        Where each result goes, by name; the last becomes the pointer.
    """
    *others, last = targets
    if (version / last).exists():
        point(targets[last], version / last)
        for name in others:
            _delete(targets[name])
        for item in version.iterdir():
            if item.name not in targets:
                _delete(item)
    else:
        location.delete_tree(version)
    sweep(version, targets[last])


def sweep(version: RemotePath, target: RemotePath) -> None:
    """Delete version folders like this one, but not it and the published one."""
    keep = (version, published_version(target))
    name = _VERSION.fullmatch(version.name)
    assert name is not None, f"{version} is not a version folder"
    for item in version.parent.iterdir():
        found = _VERSION.fullmatch(item.name)
        if found is not None and found[1] == name[1] and item not in keep:
            location.delete_tree(item)


def _delete(path: RemotePath) -> None:
    """Delete a file or folder, with the version that it points to."""
    version = published_version(path)
    path.unlink(missing_ok=True)
    for folder in (path, version):
        if folder is not None:
            location.delete_tree(folder)


@contextlib.contextmanager
def build_locally(path: RemotePath, folder: Path) -> Iterator[Path]:
    """Yield a local path for a store that is uploaded and published afterwards."""
    yield folder / "store"
    version = path.parent / new_version(f".{path.name}")
    try:
        location.upload(folder / "store", version / path.name)
    except BaseException:
        location.delete_tree(version, ignore_errors=True)
        raise
    previous = published_version(path)
    point(path, version / path.name)
    if previous is not None:
        location.delete_tree(previous)
