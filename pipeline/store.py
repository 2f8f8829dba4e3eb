"""The pipeline's own Zarr stores: lay out, fill by aligned regions, publish whole.

A store is built under a working name with its
arrays laid out first; a block is marked in the array `done` only after it was written,
because an absent chunk may also be one that equals the fill value. A store with that
array is laid out, and can be continued after its makers were killed. `publish` renames
the finished store into place. An absent chunk is never read as the fill value.
"""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numcodecs
import numpy as np
import numpy.typing as npt
import zarr

from pipeline import zarr_files
from pipeline.errors import InputError
from pipeline.location import Location, RemotePath, delete_tree, locate
from pipeline.plan import Rows
from pipeline.schema import CALLS, DOSAGES, SCHEMA_VERSION, VCF_DOSAGES, ArraySpec
from pipeline.zarr_files import DONE


class _Checked(numcodecs.zstd.Zstd):
    """Zstandard with a checksum in each frame.

    Every reader checks it, because the frame says that it is there. The metadata do
    not, because tensorstore refuses an array whose metadata do.
    """

    def get_config(self) -> dict[str, Any]:
        """What the metadata say, of which a reader makes its codec."""
        return {"id": self.codec_id, "level": self.level}


# Without its checksum a flipped bit would be another genotype. Blosc has none, and its
# blocks, too small for Zstandard, take twice the time.
_COMPRESSOR = _Checked(1, checksum=True)
_DIMENSIONS = "_ARRAY_DIMENSIONS"  # xarray's name for them
_CONSOLIDATED = ".zmetadata"  # written last of all


def _open_group(path: Location, *, writable: bool) -> zarr.Group:
    files = zarr_files.whole_mapping(path)
    if isinstance(path, RemotePath) and not writable:
        # One request, where several for each array would be needed.
        with contextlib.suppress(KeyError):
            return zarr.open_consolidated(files, mode="r")
    if not path.exists():
        raise FileNotFoundError(path)
    return zarr.open_group(files, mode="r+" if writable else "r")


class Store:
    """A Zarr group of the pipeline's own making.

    Parameters
    ----------
    path
        Where the group is.
    group
        The open group.
    """

    def __init__(self, path: Location, group: zarr.Group) -> None:
        self.path = path
        self._group = group

    @classmethod
    def create(cls, path: Location, kind: str) -> "Store":
        """Start an empty store, in place of anything unfinished at the path."""
        delete_tree(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        zarr.open_group(zarr_files.mapping(path), mode="w")
        group = _open_group(path, writable=True)
        group.attrs.update({"kind": kind, "schema_version": SCHEMA_VERSION})
        return cls(path, group)

    @classmethod
    def resume(cls, path: Location, kind: str) -> "Store | None":
        """Open an unfinished store whose layout is whole; None if there is none."""
        if not is_under_way(path):
            return None
        return cls.open(path, kind, writable=True)

    @classmethod
    def open(cls, path: Location, kind: str, *, writable: bool = False) -> "Store":
        """Open a store of a kind ("prepared", "model" or "ancestry").

        Raises
        ------
        InputError
            If nothing is there, or something else is.
        """
        try:
            group = _open_group(path, writable=writable)
        except FileNotFoundError:
            raise InputError(f"{path} does not exist; check the path") from None
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
            zarr_files.check_present(self.path, array)

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
        attrs: Mapping[str, Any] | None = None,
    ) -> None:
        """Create an array without values, in place of what a killed maker left."""
        is_text = spec.dtype == "str"
        array = self._group.create_dataset(
            name,
            shape=shape,
            chunks=tuple(max(min(c, s), 1) for c, s in zip(chunks, shape, strict=True)),
            dtype=object if is_text else spec.dtype,
            object_codec=numcodecs.VLenUTF8() if is_text else None,
            compressor=_COMPRESSOR,
            fill_value="" if is_text else None,
            overwrite=True,
        )
        array.attrs[_DIMENSIONS] = list(spec.dims)
        array.attrs["description"] = spec.doc
        array.attrs.update(attrs or {})

    def write(self, name: str, spec: ArraySpec, values: npt.NDArray[Any]) -> None:
        """Create a small array with its values, in one piece per 100,000 rows."""
        self.lay_out(name, spec, values.shape, (100_000, *values.shape[1:]))
        self._open_to_write(name)[...] = (
            values.astype(object) if spec.dtype == "str" else values
        )

    def _open_to_write(self, name: str) -> zarr.Array:
        """An array whose chunks are written with the checksum."""
        array = self._group[name]
        array._compressor = _COMPRESSOR
        return array

    def read(self, name: str, *selection: Any) -> npt.NDArray[Any]:
        """Values of an array, or of a part of it; text as numpy strings.

        Raises
        ------
        InputError
            If a chunk is absent or cannot be decoded.
        """
        values = zarr_files.read(self.path, self._group[name], selection)
        return values.astype(str) if values.dtype == object else values

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of an array."""
        return self._group[name].shape

    def dtype(self, name: str) -> np.dtype[Any]:
        """Type of an array's values."""
        return self._group[name].dtype

    def chunks(self, name: str) -> tuple[int, ...]:
        """Chunk shape of an array."""
        return self._group[name].chunks

    def write_rows(self, name: str, rows: Rows, values: npt.NDArray[Any]) -> None:
        """Fill a run of rows that is a whole number of the array's chunks."""
        array = self._open_to_write(name)
        size = array.chunks[0]
        aligned = rows.start % size == 0 and (
            rows.stop % size == 0 or rows.stop == array.shape[0]
        )
        # Two writers that share a chunk lose each other's rows without an error.
        assert aligned, f"rows {rows} of {name} do not cover whole chunks of {size}"
        array[rows.slice] = values.astype(array.dtype, copy=False)

    def discard(self, name: str) -> None:
        """Delete an array, or what is left of one whose deletion was cut short."""
        zarr.storage.rmdir(self._group.store, name)

    def track_blocks(self, n_blocks: int) -> None:
        """Remember from now on which blocks were written, when all else is laid out.

        In a store that is continued, those written already are remembered.
        """
        if DONE in self._group:
            return
        array = self._group.create_dataset(
            DONE, shape=(n_blocks,), chunks=(1,), dtype="f8", fill_value=np.nan
        )
        array.attrs[_DIMENSIONS] = ["blocks"]

    def mark_done(self, block: int, figure: float = 0.0) -> None:
        """Record that a block was written, after it was, with a figure of it."""
        assert not np.isnan(figure), f"the figure of block {block} is not a number"
        self._group[DONE][block] = figure

    def blocks_left(self) -> list[int]:
        """Blocks not yet written."""
        return [int(i) for i in np.flatnonzero(np.isnan(self._group[DONE][:]))]

    def block_figures(self) -> list[float]:
        """Figures that the blocks were marked with, in order of the blocks."""
        return self._group[DONE][:].tolist()

    def finish(self) -> None:
        """Check that every block was written, and consolidate the metadata.

        Last of all, because consolidated readers do not see later attributes, and
        because they are what tells a finished store.
        """
        if DONE in self._group:
            assert not self.blocks_left(), f"{self.path}: blocks were not written"
            del self._group[DONE]
        if isinstance(self.path, Path):
            # Writers that were killed leave the files that they had not yet renamed.
            for path in self.path.rglob("*.partial"):
                path.unlink(missing_ok=True)
        self.set_attrs(complete=True)
        zarr.consolidate_metadata(self._group.store)


Genotypes: TypeAlias = zarr.Array


def open_array(url: str, name: str) -> zarr.Array:
    """An array of a VCF Zarr store, for reading plain chunks.

    Read without xarray, which would apply the fill value as a mask.
    """
    return zarr.open_array(zarr_files.mapping(locate(url)), mode="r", path=name)


def group_attrs(url: str) -> dict[str, Any]:
    """Attributes of a VCF Zarr store."""
    return dict(zarr.open_group(zarr_files.mapping(locate(url)), mode="r").attrs)


def find_array(url: str, name: str) -> zarr.Array | None:
    """The same of an array that need not be there."""
    try:
        return open_array(url, name)
    except zarr.errors.ArrayNotFoundError:
        return None


def open_genotypes(url: str) -> Genotypes:
    """The calls of a VCF Zarr store: call_genotype or, without one, dosages."""
    for name in (CALLS, DOSAGES):
        found = find_array(url, name)
        if found is not None:
            return found
    return open_array(url, VCF_DOSAGES)


def check_genotypes(url: str) -> None:
    """Refuse a cohort of which chunks are absent, as after a copy cut short.

    zarr reads an absent chunk as the fill value, and as whatever is in memory where
    there is none. Only a negative fill value, or NaN, says that calls are missing.

    Raises
    ------
    InputError
        If an absent chunk would be read as genotypes.
    """
    genotypes = open_genotypes(url)
    if genotypes.fill_value is None or genotypes.fill_value >= 0:
        zarr_files.check_present(url, genotypes)


def kind_of(path: Location) -> str | None:
    """Kind of a store that the pipeline made; None of anything else."""
    attributes = path / ".zattrs"
    if not attributes.is_file():
        return None
    try:
        found = json.loads(attributes.read_bytes())
    except ValueError:
        return None
    return found.get("kind") if isinstance(found, dict) else None


def is_complete(path: Location, kind: str) -> bool:
    """Whether a finished store of the kind is at the path."""
    if not (path / _CONSOLIDATED).exists():
        return False
    return bool(Store.open(path, kind).attrs.get("complete"))


def is_under_way(path: Location) -> bool:
    """Whether an unfinished store with its layout whole is at the path."""
    return (path / DONE / ".zarray").exists()


def has_blocks(path: Location, kind: str) -> bool:
    """Whether there is an unfinished store of which some blocks are written."""
    if not is_under_way(path):
        return False
    store = Store.open(path, kind)
    return len(store.blocks_left()) < len(store.block_figures())


def write_all(
    store: Store, specs: Mapping[str, ArraySpec], values: Mapping[str, npt.NDArray[Any]]
) -> None:
    """Write several small arrays, each by its specification."""
    for name, array in values.items():
        store.write(name, specs[name], array)


def publish(source: Location, target: Location) -> None:
    """Move a finished file or store into place, replacing an earlier one.

    A directory cannot be replaced in one system call on every file system: the
    earlier one is renamed aside first and deleted afterwards.
    """
    assert isinstance(source, Path), "an object store renames nothing"
    assert isinstance(target, Path), "built beside the target"
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.replaced")
    delete_tree(aside, ignore_errors=True)
    if target.is_dir():
        target.rename(aside)
    source.rename(target)
    delete_tree(aside, ignore_errors=True)
