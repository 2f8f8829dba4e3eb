"""Chunks of Zarr arrays, in local files or objects: read as written, or an error.

zarr reads an absent chunk as the fill value, and as whatever is in memory where there
is none. Here a chunk that cannot be read or decoded, or that is absent where there is
no fill value or in one of the pipeline's own stores, is an InputError that names it. On
an object store, only an object that the server says is missing counts as absent.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias, TypeGuard

import numpy as np
import numpy.typing as npt
import zarr

from pipeline.errors import InputError
from pipeline.location import PARALLEL_REQUESTS, Location, RemotePath, delete_tree

Array: TypeAlias = zarr.Array

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
    and the chunk, and so is an absent chunk without a fill value.
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
        return self._checked(
            keys, {key: value for key, value in found.items() if value is not None}
        )

    def _checked(
        self, keys: Sequence[str], found: dict[str, bytes]
    ) -> dict[str, bytes]:
        return _check_filled(self, self.root, keys, found)

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


class DirectoryStore(zarr.DirectoryStore):
    """A zarr store on a local file system, with the same guard."""

    def getitems(
        self, keys: Sequence[str], *, contexts: Mapping[str, Any]
    ) -> dict[str, bytes]:
        """Several values at once, without those that are missing."""
        found = {key: self.get(key) for key in keys}
        return self._checked(keys, {k: v for k, v in found.items() if v is not None})

    def _checked(
        self, keys: Sequence[str], found: dict[str, bytes]
    ) -> dict[str, bytes]:
        return _check_filled(self, self.path, keys, found)


def _check_filled(
    files: zarr.storage.Store,
    where: str | Location,
    keys: Sequence[str],
    found: dict[str, bytes],
) -> dict[str, bytes]:
    """Refuse an absent chunk that zarr would read as what the memory held."""
    for key in keys:
        chunk = None if key in found else _CHUNK.fullmatch(key)
        if chunk and _fill_value(files, chunk[1]) is None:
            raise _absent(where, key, _remedy(None))
    return found


def _fill_value(files: zarr.storage.Store, name: str) -> Any:
    return json.loads(files[f"{name}/.zarray"])["fill_value"]


def mapping(path: Location) -> zarr.storage.Store:
    """What zarr, xarray and sgkit open to read or write the store at a path."""
    if isinstance(path, RemotePath):
        return ObjectStore(path)
    return DirectoryStore(str(path))


class _WholeObjectStore(ObjectStore):
    """One of the pipeline's own stores, whose chunks are all there."""

    def _checked(
        self, keys: Sequence[str], found: dict[str, bytes]
    ) -> dict[str, bytes]:
        return _check_found(keys, found)


class _WholeDirectoryStore(DirectoryStore):
    """The same on a local file system."""

    def _checked(
        self, keys: Sequence[str], found: dict[str, bytes]
    ) -> dict[str, bytes]:
        return _check_found(keys, found)


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


_COPY = "copy or write the store again"


def _absent(where: str | Location, key: str, remedy: str = _COPY) -> InputError:
    return InputError(f"{where}: {_describe(key)} is absent; {remedy}")


def _remedy(fill_value: Any) -> str:
    """What to do about an absent chunk of a store that others wrote."""
    if fill_value is not None:
        return _COPY
    return (
        "copy the store again if it was lost; if it was left out as all zero, as zarr "
        "3 and bio2zarr 0.2 do, convert the cohort with `streamixture import` or with "
        "larger chunks"
    )


def is_array(value: object) -> TypeGuard[zarr.Array]:
    """Whether a value is an array of zarr."""
    return isinstance(value, zarr.Array)


def place(array: zarr.Array) -> str:
    """Where the store of an array is, as far as it says."""
    files = array.chunk_store
    inner = getattr(files, "_mutable_mapping", files)
    where = getattr(inner, "path", None) or getattr(inner, "root", None)
    return str(where or "a store")


def sibling(array: zarr.Array, name: str) -> zarr.Array | None:
    """Another array of an array's group; None where there is none."""
    group, _, _ = array.path.rpartition("/")
    path = f"{group}/{name}" if group else name
    try:
        return zarr.open_array(
            array.store, "r", path=path, chunk_store=array.chunk_store
        )
    except zarr.errors.ArrayNotFoundError:
        return None


def with_zeros(array: zarr.Array) -> zarr.Array:
    """The same array, with zeros where chunks are absent, as zarr 3 reads them."""
    key = f"{array.path}/.zarray"
    stored = array.store[key]  # parsed already, where metadata are consolidated
    layout = stored if isinstance(stored, dict) else json.loads(stored)
    filled = json.dumps({**layout, "fill_value": 0}).encode()
    metadata = zarr.storage.KVStore({key: filled})
    # Without the guard of this module's stores, if it is one of them.
    chunks = zarr.storage.KVStore(array.chunk_store)
    return zarr.Array(metadata, array.path, read_only=True, chunk_store=chunks)


def is_present(array: zarr.Array, chunk: tuple[int, ...]) -> bool:
    """Whether a chunk of an array was written."""
    return array._chunk_key(chunk) in array.chunk_store


def absent_chunk(
    array: zarr.Array, among: Iterable[int] | None = None
) -> tuple[int, ...] | None:
    """The first chunk of an array that is absent, of all or of some by number."""
    # zarr's own count takes what a killed writer left for chunks.
    names = set(zarr.storage.listdir(array.chunk_store, array.path))
    numbers = range(array.nchunks) if among is None else among
    for number in numbers:
        chunk = tuple(int(i) for i in np.unravel_index(number, array.cdata_shape))
        name = array._chunk_key(chunk).removeprefix(f"{array.path}/")
        # Nested chunks are not in the list.
        if name not in names and not is_present(array, chunk):
            return chunk
    return None


def check_present(
    where: str | Location, array: zarr.Array, among: Iterable[int] | None = None
) -> None:
    """Raise InputError if a chunk of an array is absent, naming the first."""
    chunk = absent_chunk(array, among)
    if chunk is not None:
        key = array._chunk_key(chunk)
        ours = isinstance(array.chunk_store, _WholeObjectStore | _WholeDirectoryStore)
        raise _absent(where, key, _COPY if ours else _remedy(array.fill_value))
