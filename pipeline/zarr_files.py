"""Chunks of Zarr arrays, in local files or objects: read as written, or an error.

zarr reads an absent chunk as the fill value, and as whatever is in memory where there
is none. Here a chunk that cannot be read or decoded, or of the pipeline's own stores
is absent, is an InputError that names it. On an object store, only an object that the
server says is missing counts as absent.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from pipeline.errors import InputError
from pipeline.location import PARALLEL_REQUESTS, Location, RemotePath, delete_tree

# The one array of the pipeline's own stores that lacks chunks: of blocks not done.
DONE = "done"
_CHUNK = re.compile(r"(.+?)/(\d+([./]\d+)*)")


def _describe(key: str) -> str:
    """What a key of a store is, in words.

    >>> _describe("call_genotype/1.0.0"), _describe("call_genotype/.zarray")
    ('chunk 1.0.0 of array call_genotype', 'call_genotype/.zarray')
    """
    match = _CHUNK.fullmatch(key)
    return f"chunk {match[2]} of array {match[1]}" if match else key


class ObjectStore(zarr.storage.Store):
    """A zarr store on an object store.

    zarr's own FSStore also takes a refused or failed request for a missing key, and
    so reads its chunk as the fill value. Here it is an InputError that names the array
    and the chunk.
    """

    def __init__(self, root: RemotePath) -> None:
        self.root = root

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectStore) and other.root == self.root

    def __getitem__(self, key: str) -> bytes:
        try:
            return (self.root / key).read_bytes()
        except FileNotFoundError:
            raise KeyError(key) from None
        except InputError as error:
            _, _, reason = str(error).partition(" cannot be read ")
            raise InputError(
                f"{self.root}: {_describe(key)} cannot be read {reason}"
            ) from error

    def getitems(
        self, keys: Sequence[str], *, contexts: Mapping[str, Any]
    ) -> dict[str, bytes]:
        """Several values at once, without those that are missing."""
        with ThreadPoolExecutor(PARALLEL_REQUESTS) as executor:
            found = dict(zip(keys, executor.map(self.get, keys), strict=True))
        return {key: value for key, value in found.items() if value is not None}

    def __setitem__(self, key: str, value: Any) -> None:
        (self.root / key).write_bytes(bytes(value))

    def setitems(self, values: Mapping[str, Any]) -> None:
        """Write several values at once."""
        with ThreadPoolExecutor(PARALLEL_REQUESTS) as executor:
            list(executor.map(self.__setitem__, values.keys(), values.values()))

    def __delitem__(self, key: str) -> None:
        try:
            (self.root / key).unlink()
        except FileNotFoundError:
            raise KeyError(key) from None

    def __contains__(self, key: object) -> bool:
        return (self.root / str(key)).is_file()

    def __iter__(self) -> Iterator[str]:
        return iter(self.root.keys())

    def __len__(self) -> int:
        return len(self.root.keys())

    def listdir(self, path: str = "") -> list[str]:
        """Names in a group or array, sorted."""
        folder = self.root / path if path else self.root
        return [item.name for item in folder.iterdir()]

    def rmdir(self, path: str = "") -> None:
        """Delete a group or array."""
        delete_tree(self.root / path if path else self.root)


def mapping(path: Location) -> zarr.storage.Store:
    """What zarr, xarray and sgkit open to read or write the store at a path."""
    if isinstance(path, RemotePath):
        return ObjectStore(path)
    return zarr.DirectoryStore(str(path))


class _WholeObjectStore(ObjectStore):
    """One of the pipeline's own stores, whose chunks are all there."""

    def getitems(
        self, keys: Sequence[str], *, contexts: Mapping[str, Any]
    ) -> dict[str, bytes]:
        """Several chunks at once."""
        return _check_found(keys, super().getitems(keys, contexts=contexts))


class _WholeDirectoryStore(zarr.DirectoryStore):
    """The same on a local file system."""

    def getitems(
        self, keys: Sequence[str], *, contexts: Mapping[str, Any]
    ) -> dict[str, bytes]:
        """Several chunks at once."""
        found = {key: self.get(key) for key in keys}
        return _check_found(keys, {k: v for k, v in found.items() if v is not None})


def _check_found(keys: Sequence[str], found: dict[str, bytes]) -> dict[str, bytes]:
    """Raise KeyError for a chunk that zarr would read as the fill value."""
    for key in keys:
        if key not in found and not key.startswith(f"{DONE}/"):
            raise KeyError(key)
    return found


def whole_mapping(path: Location) -> zarr.storage.Store:
    """As `mapping`, of one of the pipeline's own stores."""
    if isinstance(path, RemotePath):
        return _WholeObjectStore(path)
    return _WholeDirectoryStore(str(path))


def read(
    where: str | Location,
    array: zarr.Array,
    selection: tuple[Any, ...],
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """Values of a part of an array.

    Parameters
    ----------
    where
        The store, for errors.
    array
        The array.
    selection
        A slice for each of the first dimensions; none for all of it.
    out
        Where to put them, if not in new memory: of their shape and type.

    Raises
    ------
    InputError
        If a chunk of the pipeline's own stores is absent, or one cannot be decoded;
        names it.
    """
    try:
        return array.get_basic_selection(selection or ..., out=out)
    except InputError:
        raise
    except KeyError as error:
        raise _absent(where, error.args[0]) from error
    except (RuntimeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{where}: {_undecodable(array, selection)} cannot be decoded ({reason}); "
            "restore that chunk or make the store again"
        ) from error


def _undecodable(array: zarr.Array, selection: tuple[Any, ...]) -> str:
    """First chunk in a part of an array that cannot be decoded, in words."""
    for part in zarr.indexing.BasicIndexer(selection or ..., array):
        try:
            array.get_block_selection(part.chunk_coords)
        except (KeyError, RuntimeError, ValueError, OSError):
            return _describe(array._chunk_key(part.chunk_coords))
    return f"array {array.basename}"


def _absent(where: str | Location, key: str) -> InputError:
    return InputError(
        f"{where}: {_describe(key)} is absent; copy or write the store again"
    )


def is_present(array: zarr.Array, chunk: tuple[int, ...]) -> bool:
    """Whether a chunk of an array was written."""
    return array._chunk_key(chunk) in array.chunk_store


def check_present(where: str | Location, array: zarr.Array) -> None:
    """Raise InputError if a chunk of an array is absent, naming the first."""
    if array.nchunks_initialized == array.nchunks:
        return
    for chunk in np.ndindex(*array.cdata_shape):
        if not is_present(array, chunk):
            raise _absent(where, array._chunk_key(chunk))
