"""The files of a cohort: where they are, and what their metadata says.

Reads the JSON metadata of a VCF Zarr (zarr format 2) store on any file system that
fsspec knows; no array is opened. Writes nothing. Invariant: metadata that passed the
checks describe diploid, signed integer genotypes and arrays whose shapes agree.
"""

import json
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, NoReturn, Self

import fsspec
import numpy as np
from fsspec.implementations.local import LocalFileSystem

from pipeline.errors import InputError

# Dimensions of each array that is used, and the kinds its dtype may be of.
SPECS = {
    "call_genotype": (("variants", "samples", "ploidy"), "i"),
    "sample_id": (("samples",), "OUS"),
    "variant_contig": (("variants",), "iu"),
    "variant_position": (("variants",), "iu"),
    "variant_allele": (("variants", "alleles"), "OUS"),
    "contig_id": (("contigs",), "OUS"),
}
_KINDS = {
    "i": "signed integers, with -1 for a missing allele",
    "iu": "integers",
    "OUS": "text",
}


@dataclass(frozen=True)
class CohortFiles:
    """Where a store is.

    Attributes
    ----------
    url
        The place as the user gave it.
    filesystem, root
        Its file system, and its path there.
    """

    url: str
    filesystem: fsspec.AbstractFileSystem
    root: str

    @classmethod
    def locate(cls, url: str, storage_options: Mapping[str, Any] | None = None) -> Self:
        """Find the file system of a directory or URL.

        Raises
        ------
        InputError
            If fsspec does not know the URL's protocol.
        """
        try:
            filesystem, root = fsspec.url_to_fs(url, **(storage_options or {}))
        except (ImportError, ValueError) as error:
            raise InputError(
                f"{url}: no file system for this URL ({error}); use a directory or "
                "install what its protocol needs"
            ) from error
        return cls(url, filesystem, str(root).rstrip("/"))

    def path(self, key: str) -> str:
        """Path of one of the store's files."""
        return f"{self.root}/{key}"

    @property
    def is_consolidated(self) -> bool:
        """Whether all metadata are in one file."""
        return bool(self.filesystem.isfile(self.path(".zmetadata")))

    @property
    def store(self) -> "str | RemoteStore":
        """What zarr can open."""
        if isinstance(self.filesystem, LocalFileSystem):
            return self.root
        return RemoteStore(self.filesystem, self.root)


class RemoteStore(MutableMapping[str, bytes]):
    """A store on any fsspec file system, read only.

    Only a file that does not exist is a missing key. zarr's own FSStore also takes
    a refused or failed request for one, and so reads its chunk as the fill value.
    """

    def __init__(self, filesystem: fsspec.AbstractFileSystem, root: str) -> None:
        self.filesystem = filesystem
        self.root = root

    def __getitem__(self, key: str) -> bytes:
        try:
            return bytes(self.filesystem.cat_file(f"{self.root}/{key}"))
        except FileNotFoundError as error:
            raise KeyError(key) from error

    def __contains__(self, key: object) -> bool:
        try:
            return bool(self.filesystem.info(f"{self.root}/{key}")["type"] == "file")
        except FileNotFoundError:
            return False

    def __iter__(self) -> Iterator[str]:
        prefix = len(self.root) + 1
        return (path[prefix:] for path in self.filesystem.find(self.root))

    def __len__(self) -> int:
        return len(self.filesystem.find(self.root))

    def __setitem__(self, key: str, value: bytes) -> NoReturn:
        raise TypeError("a cohort is opened for reading only")

    def __delitem__(self, key: str) -> NoReturn:
        raise TypeError("a cohort is opened for reading only")


def read_metadata(files: CohortFiles) -> dict[str, Any]:
    """Group attributes and the .zarray and .zattrs of the arrays that are used.

    Raises
    ------
    InputError
        If nothing is there, it cannot be read, or it is not a zarr format 2 group.
    """
    try:
        _check_group(files)
        if files.is_consolidated:
            return dict(_read_json(files, ".zmetadata")["metadata"])
        parts = [f"{name}/{part}" for name in SPECS for part in (".zarray", ".zattrs")]
        return {
            part: _read_json(files, part)
            for part in [".zattrs", *parts]
            if files.filesystem.isfile(files.path(part))
        }
    except FileNotFoundError as error:
        raise InputError(f"{files.url}: no such store; check the path") from error
    except OSError as error:
        raise InputError(
            f"{files.url}: cannot be read ({error}); check permissions and credentials"
        ) from error


def _read_json(files: CohortFiles, key: str) -> dict[str, Any]:
    path = files.path(key)
    try:
        return dict(json.loads(files.filesystem.cat_file(path)))
    except ValueError as error:
        raise InputError(
            f"{path}: is not JSON ({error}); convert the cohort again"
        ) from error


def _check_group(files: CohortFiles) -> None:
    filesystem = files.filesystem
    if filesystem.info(files.root)["type"] == "file":
        reason = "is a file, not a VCF Zarr directory; run `streamixture import` first"
    elif filesystem.isfile(files.path(".zgroup")):
        return
    elif filesystem.isfile(files.path("zarr.json")):
        reason = (
            "is in zarr format 3, which sgkit does not read; rewrite it in zarr "
            "format 2, for example with bio2zarr without --zarr-format 3"
        )
    elif filesystem.isfile(files.path(".zarray")):
        reason = "is a single Zarr array; give the VCF Zarr group that holds it"
    else:
        reason = "is not a Zarr group (no .zgroup); give the root of a VCF Zarr store"
    raise InputError(f"{files.url}: {reason}")


def check_arrays(url: str, metadata: Mapping[str, Any]) -> None:
    """Check the dimensions, types and sizes that the metadata state.

    Raises
    ------
    InputError
        If an array is missing, is not as VCF Zarr has it, disagrees with another
        about a size, is empty, or has genotypes that are not diploid.
    """
    missing = [name for name in SPECS if f"{name}/.zarray" not in metadata]
    present = [name for name in SPECS if name not in missing]
    if "contigs" in metadata.get(".zattrs", {}) and "contig_id" in missing:
        missing.remove("contig_id")
    if missing:
        raise InputError(
            f"{url}: is not VCF Zarr: it lacks {', '.join(missing)}; convert the "
            "cohort with `streamixture import` or bio2zarr"
        )
    sizes: dict[str, int] = {}
    for name in present:
        layout = metadata[f"{name}/.zarray"]
        attributes = metadata.get(f"{name}/.zattrs", {})
        _check_array(url, name, layout, attributes)
        for dim, size in zip(SPECS[name][0], layout["shape"], strict=True):
            if size != sizes.setdefault(dim, size):
                raise InputError(
                    f"{url}: {name} has {size} {dim}, other arrays {sizes[dim]}; "
                    "convert the cohort again"
                )
            if size == 0:
                raise InputError(
                    f"{url}: {name} has no {dim}; check how the cohort was converted"
                )


def _check_array(
    url: str, name: str, layout: Mapping[str, Any], attributes: Mapping[str, Any]
) -> None:
    expected, kinds = SPECS[name]
    dims = attributes.get("_ARRAY_DIMENSIONS", [])
    if tuple(dims) != expected or len(layout["shape"]) != len(expected):
        raise InputError(
            f"{url}: {name} has dimensions ({', '.join(dims)}), not "
            f"({', '.join(expected)}); convert the cohort again"
        )
    # A list is a structured type, of which no array here may be.
    dtype = layout["dtype"]
    if not isinstance(dtype, str) or np.dtype(dtype).kind not in kinds:
        raise InputError(
            f"{url}: {name} has dtype {dtype}; rewrite it as {_KINDS[kinds]}"
        )
    if name == "call_genotype":
        ploidy = "mixed" if attributes.get("mixed_ploidy") else layout["shape"][2]
        if ploidy != 2:
            raise InputError(
                f"{url}: call_genotype has ploidy {ploidy}, and only 2 is supported; "
                "keep the diploid calls only"
            )
