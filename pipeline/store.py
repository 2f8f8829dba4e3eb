"""The pipeline's own Zarr stores: lay out, fill by aligned regions, publish whole.

The only module that imports zarr. A store is built under a working name with its
arrays laid out first; a block is marked in the array `done` only after it was written,
because an absent chunk may also be one that equals the fill value. A store with that
array is laid out, and can be continued after its makers were killed. `publish` renames
the finished store into place.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numcodecs
import numpy as np
import numpy.typing as npt
import zarr

from pipeline.errors import InputError
from pipeline.plan import Rows
from pipeline.schema import SCHEMA_VERSION, ArraySpec

_COMPRESSOR = numcodecs.Blosc("zstd", 1, numcodecs.Blosc.SHUFFLE)
_DIMENSIONS = "_ARRAY_DIMENSIONS"  # xarray's name for them
_DONE = "done"
_CONSOLIDATED = ".zmetadata"  # written last of all


class Store:
    """A Zarr group of the pipeline's own making.

    Parameters
    ----------
    path
        Directory of the group.
    group
        The open group.
    """

    def __init__(self, path: Path, group: zarr.Group) -> None:
        # With threads of its own, Blosc orders a chunk's blocks as they finish, and
        # the same values give other bytes every time.
        numcodecs.blosc.use_threads = False
        self.path = path
        self._group = group

    @classmethod
    def create(cls, path: Path, kind: str) -> "Store":
        """Start an empty store, in place of anything unfinished at the path."""
        shutil.rmtree(path, ignore_errors=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        group = zarr.open_group(zarr.DirectoryStore(str(path)), mode="w")
        group.attrs.update({"kind": kind, "schema_version": SCHEMA_VERSION})
        return cls(path, group)

    @classmethod
    def resume(cls, path: Path, kind: str) -> "Store | None":
        """Open an unfinished store whose layout is whole; None if there is none."""
        if not is_under_way(path):
            return None
        return cls.open(path, kind, writable=True)

    @classmethod
    def open(cls, path: Path, kind: str, *, writable: bool = False) -> "Store":
        """Open a store of a kind ("prepared", "model" or "ancestry").

        Raises
        ------
        InputError
            If nothing is there, or something else is.
        """
        if not path.exists():
            raise InputError(f"{path} does not exist; check the path")
        try:
            store = zarr.DirectoryStore(str(path))
            group = zarr.open_group(store, mode="r+" if writable else "r")
        except (zarr.errors.GroupNotFoundError, zarr.errors.ContainsArrayError):
            raise InputError(
                f"{path} is not a Zarr store; expected a streamixture {kind} store"
            ) from None
        found = group.attrs.get("kind")
        if found != kind:
            raise InputError(
                f"{path} is not a streamixture {kind} store (kind: {found}); "
                f"name the {kind} store"
            )
        version = group.attrs.get("schema_version")
        if version != SCHEMA_VERSION:
            raise InputError(
                f"{path} has schema version {version}, this release reads "
                f"{SCHEMA_VERSION}; run the earlier stages again"
            )
        return cls(path, group)

    @property
    def attrs(self) -> dict[str, Any]:
        """All attributes of the group."""
        return dict(self._group.attrs)

    def check_whole(self) -> None:
        """Refuse a store of which chunks are absent.

        Raises
        ------
        InputError
            If an array has fewer chunks on disk than it should; names the first.
        """
        for _, array in self._group.arrays():
            _check_chunks(self.path, array)

    def set_attrs(self, **values: Any) -> None:
        """Set attributes, which must be JSON values."""
        self._group.attrs.update(values)

    def names(self) -> list[str]:
        """Names of the arrays, sorted."""
        return sorted(self._group.array_keys())

    def __contains__(self, name: str) -> bool:
        return name in self._group

    def lay_out(
        self,
        name: str,
        spec: ArraySpec,
        shape: tuple[int, ...],
        chunks: tuple[int, ...],
    ) -> None:
        """Create an array without values."""
        is_text = spec.dtype == "str"
        array = self._group.create_dataset(
            name,
            shape=shape,
            chunks=tuple(max(min(c, s), 1) for c, s in zip(chunks, shape, strict=True)),
            dtype=object if is_text else spec.dtype,
            object_codec=numcodecs.VLenUTF8() if is_text else None,
            compressor=_COMPRESSOR,
            fill_value="" if is_text else None,
        )
        array.attrs[_DIMENSIONS] = list(spec.dims)
        array.attrs["description"] = spec.doc

    def write(self, name: str, spec: ArraySpec, values: npt.NDArray[Any]) -> None:
        """Create a small array with its values, in one piece per 100,000 rows."""
        self.lay_out(name, spec, values.shape, (100_000, *values.shape[1:]))
        self._group[name][...] = (
            values.astype(object) if spec.dtype == "str" else values
        )

    def read(self, name: str, *selection: Any) -> npt.NDArray[Any]:
        """Values of an array, or of a part of it; text as numpy strings.

        Raises
        ------
        InputError
            If a chunk cannot be decoded.
        """
        try:
            values = self._group[name][selection or ...]
        except (RuntimeError, ValueError, OSError) as error:
            raise InputError(
                f"{self.path}: array {name} cannot be read at {selection}: {error}; "
                "restore the store or make it again"
            ) from error
        return values.astype(str) if values.dtype == object else values

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of an array."""
        return self._group[name].shape

    def chunks(self, name: str) -> tuple[int, ...]:
        """Chunk shape of an array."""
        return self._group[name].chunks

    def write_rows(self, name: str, rows: Rows, values: npt.NDArray[Any]) -> None:
        """Fill a run of rows that is a whole number of the array's chunks."""
        array = self._group[name]
        size = array.chunks[0]
        aligned = rows.start % size == 0 and (
            rows.stop % size == 0 or rows.stop == array.shape[0]
        )
        # Two writers that share a chunk lose each other's rows without an error.
        assert aligned, f"rows {rows} of {name} do not cover whole chunks of {size}"
        array[rows.slice] = values

    def track_blocks(self, n_blocks: int) -> None:
        """Remember from now on which blocks were written, when all else is laid out.

        In a store that is continued, those written already are remembered.
        """
        if _DONE in self._group:
            return
        array = self._group.create_dataset(
            _DONE, shape=(n_blocks,), chunks=(1,), dtype="f8", fill_value=np.nan
        )
        array.attrs[_DIMENSIONS] = ["blocks"]

    def mark_done(self, block: int, figure: float = 0.0) -> None:
        """Record that a block was written, after it was, with a figure of it."""
        assert not np.isnan(figure), f"the figure of block {block} is not a number"
        self._group[_DONE][block] = figure

    def blocks_left(self) -> list[int]:
        """Blocks not yet written."""
        return [int(i) for i in np.flatnonzero(np.isnan(self._group[_DONE][:]))]

    def block_figures(self) -> list[float]:
        """Figures that the blocks were marked with, in order of the blocks."""
        return self._group[_DONE][:].tolist()

    def finish(self) -> None:
        """Check that every block was written, and consolidate the metadata.

        Last of all, because consolidated readers do not see later attributes, and
        because they are what tells a finished store.
        """
        if _DONE in self._group:
            assert not self.blocks_left(), f"{self.path}: blocks were not written"
            del self._group[_DONE]
        # Writers that were killed leave the files that they had not yet renamed.
        for path in self.path.rglob("*.partial"):
            path.unlink(missing_ok=True)
        self.set_attrs(complete=True)
        zarr.consolidate_metadata(self._group.store)


Genotypes: TypeAlias = zarr.Array


def open_genotypes(url: str) -> Genotypes:
    """The call_genotype array of a VCF Zarr store, for reading plain chunks.

    Read without xarray, which would apply the fill value as a mask.
    """
    return zarr.open_array(zarr.DirectoryStore(url), mode="r", path="call_genotype")


def check_genotypes(url: str) -> None:
    """Refuse a cohort of which chunks are absent, as after a copy cut short.

    zarr reads an absent chunk as the fill value, and as whatever is in memory where
    there is none. Only a negative fill value says that the genotypes are missing.

    Raises
    ------
    InputError
        If an absent chunk would be read as genotypes.
    """
    genotypes = open_genotypes(url)
    if genotypes.fill_value is None or genotypes.fill_value >= 0:
        _check_chunks(url, genotypes)


def _check_chunks(where: str | Path, array: zarr.Array) -> None:
    if array.nchunks_initialized == array.nchunks:
        return
    grid = np.ndindex(*array.cdata_shape)
    absent = next(
        chunk for chunk in grid if array._chunk_key(chunk) not in array.chunk_store
    )
    raise InputError(
        f"{where}: chunk {'.'.join(map(str, absent))} of array "
        f"{array.basename} is absent; copy or write the store again"
    )


def is_complete(path: Path, kind: str) -> bool:
    """Whether a finished store of the kind is at the path."""
    if not (path / _CONSOLIDATED).exists():
        return False
    return bool(Store.open(path, kind).attrs.get("complete"))


def is_under_way(path: Path) -> bool:
    """Whether an unfinished store with its layout whole is at the path."""
    return (path / _DONE / ".zarray").exists()


def write_all(
    store: Store, specs: Mapping[str, ArraySpec], values: Mapping[str, npt.NDArray[Any]]
) -> None:
    """Write several small arrays, each by its specification."""
    for name, array in values.items():
        store.write(name, specs[name], array)


def publish(source: Path, target: Path) -> None:
    """Move a finished file or store into place, replacing an earlier one.

    A directory cannot be replaced in one system call on every file system: the
    earlier one is renamed aside first and deleted afterwards.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.replaced")
    shutil.rmtree(aside, ignore_errors=True)
    if target.is_dir():
        target.rename(aside)
    source.rename(target)
    shutil.rmtree(aside, ignore_errors=True)
