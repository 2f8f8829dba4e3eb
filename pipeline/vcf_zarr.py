"""Write VCF Zarr stores (zarr format 2) from genotypes in memory, chunk by chunk.

The invariant: a store appears at its destination complete or not at all, and the same
genotypes and chunk sizes give the same bytes.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.array as da
import numcodecs
import numpy as np
import xarray as xr
from jaxtyping import Float32, Int8, Int32, Shaped

from pipeline import publication
from pipeline.errors import InputError
from pipeline.location import Location, RemotePath, locate
from pipeline.schema import CALLS, DOSAGES

VCF_ZARR_VERSION = "0.2"

_GENOTYPE_COMPRESSOR = numcodecs.Blosc("zstd", 1, numcodecs.Blosc.BITSHUFFLE)

_UNFINISHED = ".partial"

Genotypes = Int8[np.ndarray, "variants samples 2"]
Dosages = Float32[np.ndarray, "variants samples"]
GenotypeSource = Callable[[slice, slice], Genotypes | Dosages]


@contextlib.contextmanager
def new_store(
    destination: str | Location, *, overwrite: bool = False
) -> Iterator[Path]:
    """Yield a path to write a store to, and move it into place if the block succeeds.

    The path lies in a hidden folder beside the destination, which is removed whatever
    happens; the folder may hold scratch files too. A store for an object store is
    written into the system's temporary directory, and uploaded.

    Parameters
    ----------
    destination
        Where the finished store goes. Missing parent folders are made.
    overwrite
        Replace a Zarr store that is already there. Anything else is never replaced.

    Raises
    ------
    InputError
        If the destination exists and may not be replaced.
    """
    target = locate(destination)
    _check_replaceable(target, overwrite)
    if isinstance(target, RemotePath):
        with (
            tempfile.TemporaryDirectory(prefix="streamixture-") as scratch,
            publication.build_locally(target, Path(scratch)) as store,
        ):
            yield store
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    workspace = Path(tempfile.mkdtemp(_UNFINISHED, f".{target.name}.", target.parent))
    try:
        yield workspace / "store"
        if target.exists():
            target.rename(workspace / "replaced")
        (workspace / "store").rename(target)
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


def clear_unfinished(destination: Location) -> None:
    """Delete what writers of a store that were killed left beside it.

    For a local folder in which nobody else writes. An object store has none: what
    was left there goes with the folder.
    """
    if not isinstance(destination, Path):
        return
    for path in destination.parent.glob(f".{destination.name}.*{_UNFINISHED}"):
        shutil.rmtree(path)


def _check_replaceable(target: Location, overwrite: bool) -> None:
    if not (os.path.lexists(target) if isinstance(target, Path) else target.exists()):
        return
    if not overwrite:
        raise InputError(
            f"{target} already exists; pass --overwrite to replace it, "
            "or name another output"
        )
    if not (publication.resolve(target) / ".zgroup").is_file():
        raise InputError(
            f"{target} is not a Zarr store, so --overwrite will not replace it; "
            "name another output"
        )


def cohort_variables(
    contig_ids: list[str],
    contig: Int32[np.ndarray, " variants"],
    position: Int32[np.ndarray, " variants"],
    alleles: Shaped[np.ndarray, "variants 2"],
    sample_ids: list[str],
) -> xr.Dataset:
    """Everything in a VCF Zarr store but genotypes; ids are contig:position:ref:alt.

    Parameters
    ----------
    contig_ids
        Names of the contigs.
    contig, position
        Index into `contig_ids` and base-pair position of each variant.
    alleles
        Reference and alternate allele.
    sample_ids
        One unique name per person.
    """
    places = zip(contig.tolist(), position.tolist(), alleles.tolist(), strict=True)
    variant_ids = [
        f"{contig_ids[index]}:{place}:{reference}:{alternate}"
        for index, place, (reference, alternate) in places
    ]
    return xr.Dataset(
        {
            "contig_id": ("contigs", np.array(contig_ids, object)),
            "variant_contig": ("variants", contig),
            "variant_position": ("variants", position),
            "variant_allele": (("variants", "alleles"), alleles.astype(object)),
            "variant_id": ("variants", np.array(variant_ids, object)),
            "sample_id": ("samples", np.array(sample_ids, object)),
        }
    )


def write_vcf_zarr(
    path: str | Path,
    variables: xr.Dataset,
    genotypes: GenotypeSource,
    *,
    dosages: bool = False,
    chunk_variants: int = 10_000,
    chunk_samples: int = 1_000,
) -> None:
    """Lay out a VCF Zarr store (zarr format 2), then fill its genotypes chunk by chunk.

    Parameters
    ----------
    path
        A path where nothing is yet.
    variables
        The other variables, as `cohort_variables` makes them, and attributes.
    genotypes
        Called with the slice of variants and that of samples of each chunk; returns
        allele indices, missing -1, or dosages.
    dosages
        Write call_dosage, missing NaN, instead of call_genotype.
    chunk_variants, chunk_samples
        Size of a chunk.
    """
    sizes = {
        "variants": variables.sizes["variants"],
        "samples": variables.sizes["samples"],
    }
    chunks = {"variants": chunk_variants, "samples": chunk_samples}
    dims: tuple[str, ...] = ("variants", "samples", "ploidy")
    shape: tuple[int, ...] = (*sizes.values(), 2)
    name, dtype = CALLS, "int8"
    if dosages:
        name, dtype, dims, shape = DOSAGES, "float32", dims[:2], shape[:2]
    # One lazy block, whose values are never computed, stands for the whole array.
    template = variables.assign(
        {name: (dims, da.empty(shape, dtype=dtype, chunks=shape))}
    )
    template.attrs["vcf_zarr_version"] = VCF_ZARR_VERSION
    encoding = {name: _encoding(template[name], chunks) for name in template.variables}
    with _repeatable_compression():
        template.to_zarr(
            path, mode="w-", compute=False, consolidated=True, encoding=encoding
        )
        for rows in _slices(sizes["variants"], chunk_variants):
            for columns in _slices(sizes["samples"], chunk_samples):
                block = xr.Dataset({name: (dims, genotypes(rows, columns))})
                block.to_zarr(path, region={"variants": rows, "samples": columns})


@contextlib.contextmanager
def _repeatable_compression() -> Iterator[None]:
    # On several threads, Blosc stores the blocks of a chunk in the order in which they
    # happen to be finished.
    before = numcodecs.blosc.use_threads
    numcodecs.blosc.use_threads = False
    try:
        yield
    finally:
        numcodecs.blosc.use_threads = before


def _encoding(variable: xr.DataArray, chunks: dict[str, int]) -> dict[str, Any]:
    sizes = variable.sizes
    # A fill value would make xarray read every equal genotype as missing.
    encoding: dict[str, Any] = {
        "_FillValue": None,
        "chunks": tuple(min(chunks.get(str(d), n), n) for d, n in sizes.items()),
    }
    if variable.name in (CALLS, DOSAGES):
        encoding["compressor"] = _GENOTYPE_COMPRESSOR
    return encoding


def _slices(size: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, size)) for start in range(0, size, step)]
