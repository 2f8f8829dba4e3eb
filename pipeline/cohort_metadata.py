"""The files of a cohort: where they are, and what their metadata says.

Reads the JSON metadata of a VCF Zarr (zarr format 2) store; no array is opened.
Writes nothing. Invariant: metadata that passed the checks describe calls of at most
two alleles, or dosages, and arrays whose shapes agree.
"""

import json
from collections.abc import Container, Mapping
from typing import Any

import numpy as np

from pipeline.errors import InputError
from pipeline.location import Location
from pipeline.schema import CALLS, DOSAGES, VCF_DOSAGES, calls_array

# Dimensions of each array that is used, and the kinds its dtype may be of.
SPECS = {
    CALLS: (("variants", "samples", "ploidy"), "i"),
    "sample_id": (("samples",), "OUS"),
    "variant_contig": (("variants",), "iu"),
    "variant_position": (("variants",), "iu"),
    "variant_allele": (("variants", "alleles"), "OUS"),
    "contig_id": (("contigs",), "OUS"),
}
# What takes the place of the genotypes in a store without them.
_DOSAGE_SPEC = (("variants", "samples"), "f")
# A VCF's DS may be declared to have a value for each alternate allele.
_OF_ALLELES = ("alt_alleles",)
MAX_PLOIDY = 2
_KINDS = {
    "f": "floating-point numbers, with NaN for a missing dosage",
    "i": "signed integers, with -1 for a missing allele",
    "iu": "integers",
    "OUS": "text",
}


def arrays_used(names: Container[str]) -> dict[str, tuple[tuple[str, ...], str]]:
    """Dimensions and kinds of the arrays that are used of those that a store has.

    Dosages are used only where there are no genotypes.
    """
    calls = calls_array(names)
    if calls == CALLS:
        return SPECS
    others = {name: spec for name, spec in SPECS.items() if name != CALLS}
    return {calls: _DOSAGE_SPEC, **others}


def is_consolidated(path: Location) -> bool:
    """Whether all metadata of a store are in one file."""
    return (path / ".zmetadata").is_file()


def read_metadata(path: Location) -> dict[str, Any]:
    """Group attributes and the .zarray and .zattrs of the arrays that are used.

    Raises
    ------
    InputError
        If nothing is there, it cannot be read, or it is not a zarr format 2 group.
    """
    try:
        _check_group(path)
        if is_consolidated(path):
            return dict(_read_json(path / ".zmetadata")["metadata"])
        parts = [
            f"{name}/{part}"
            for name in (*SPECS, DOSAGES, VCF_DOSAGES)
            for part in (".zarray", ".zattrs")
        ]
        return {
            part: _read_json(path / part)
            for part in [".zattrs", *parts]
            if (path / part).is_file()
        }
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error}); check permissions and credentials"
        ) from error


def _read_json(path: Location) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_bytes()))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path}: is not JSON ({error}); convert the cohort again"
        ) from error


def _check_group(path: Location) -> None:
    if not path.exists():
        raise InputError(f"{path}: no such store; check the path")
    if path.is_file():
        reason = "is a file, not a VCF Zarr directory; run `streamixture import` first"
    elif (path / ".zgroup").is_file():
        return
    elif (path / "zarr.json").is_file():
        reason = (
            "is in zarr format 3, which sgkit does not read; rewrite it in zarr "
            "format 2, for example with bio2zarr without --zarr-format 3"
        )
    elif (path / ".zarray").is_file():
        reason = "is a single Zarr array; give the VCF Zarr group that holds it"
    else:
        reason = "is not a Zarr group (no .zgroup); give the root of a VCF Zarr store"
    raise InputError(f"{path}: {reason}")


def check_arrays(url: str, metadata: Mapping[str, Any]) -> None:
    """Check the dimensions, types and sizes that the metadata state.

    Raises
    ------
    InputError
        If an array is missing, is not as VCF Zarr has it, disagrees with another
        about a size, is empty, or has genotypes of more than two alleles.
    """
    stored = {
        name for name in (*SPECS, DOSAGES, VCF_DOSAGES) if f"{name}/.zarray" in metadata
    }
    specs = arrays_used(stored)
    missing = [name for name in specs if name not in stored]
    present = [name for name in specs if name in stored]
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
        _check_array(url, name, specs[name], layout, attributes)
        for dim, size in zip(specs[name][0], layout["shape"], strict=False):
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
    url: str,
    name: str,
    spec: tuple[tuple[str, ...], str],
    layout: Mapping[str, Any],
    attributes: Mapping[str, Any],
) -> None:
    expected, kinds = spec
    dims = attributes.get("_ARRAY_DIMENSIONS", [])
    if name == VCF_DOSAGES and tuple(dims) == (*expected, *_OF_ALLELES):
        expected = (*expected, *_OF_ALLELES)
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
    if name == CALLS and layout["shape"][2] > MAX_PLOIDY:
        raise InputError(
            f"{url}: call_genotype has ploidy {layout['shape'][2]}, and at most "
            f"{MAX_PLOIDY} is supported; keep the haploid and diploid calls only"
        )
