"""Write VCF Zarr stores (zarr format 2) from genotypes in memory, chunk by chunk.

The invariant: a store appears at its destination complete or not at all, and the same
genotypes and chunk sizes give the same bytes.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array as da
import numcodecs
import numpy as np
import numpy.typing as npt
import xarray as xr
from jaxtyping import Float32, Int8, Int32, Shaped

from pipeline import publication, stopping
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
    check_replaceable(target, overwrite=overwrite)
    if isinstance(target, RemotePath):
        with (
            stopping.scratch_folder() as scratch,
            publication.build_locally(target, Path(scratch)) as store,
        ):
            yield store
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    workspace = Path(tempfile.mkdtemp(_UNFINISHED, f".{target.name}.", target.parent))
    try:
        yield workspace / "store"
        with stopping.whole():
            if target.exists():
                target.rename(workspace / "replaced")
            (workspace / "store").rename(target)
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


def check_replaceable(target: Location, *, overwrite: bool) -> None:
    """Refuse a destination that exists, or may not be replaced.

    Raises
    ------
    InputError
        If something is there and is no Zarr store, or ``overwrite`` is not set.
    """
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


@dataclass(frozen=True)
class CallArray:
    """The array of a store that holds what is known of each person at each variant.

    Attributes
    ----------
    name
        Its name in the VCF Zarr specification.
    dims
        Its dimensions.
    dtype
        numpy dtype.
    ploidy
        Alleles of a call, the length of the third dimension if there is one.
    """

    name: str
    dims: tuple[str, ...]
    dtype: str
    ploidy: tuple[int, ...]


GENOTYPE = CallArray(CALLS, ("variants", "samples", "ploidy"), "int8", (2,))
# Expected number of alternate alleles, in [0, 2]; NaN where nothing is known.
DOSAGE = CallArray(DOSAGES, ("variants", "samples"), "float32", ())


def variant_variables(
    contig_ids: list[str],
    contig: Int32[np.ndarray, " variants"],
    position: Int32[np.ndarray, " variants"],
    alleles: Shaped[np.ndarray, "variants alleles"],
    variant_ids: list[str],
) -> xr.Dataset:
    """Everything in a VCF Zarr store that belongs to the variants.

    Parameters
    ----------
    contig_ids
        Names of the contigs.
    contig, position
        Index into `contig_ids` and base-pair position of each variant.
    alleles
        Reference and alternate allele.
    variant_ids
        A name for each variant, '.' where it has none.
    """
    return xr.Dataset(
        {
            "contig_id": ("contigs", np.array(contig_ids, object)),
            "variant_contig": ("variants", contig),
            "variant_position": ("variants", position),
            "variant_allele": (("variants", "alleles"), alleles.astype(object)),
            "variant_id": ("variants", np.array(variant_ids, object)),
        }
    )


def cohort_variables(
    contig_ids: list[str],
    contig: Int32[np.ndarray, " variants"],
    position: Int32[np.ndarray, " variants"],
    alleles: Shaped[np.ndarray, "variants alleles"],
    sample_ids: list[str],
) -> xr.Dataset:
    """Everything in a VCF Zarr store but genotypes; ids are contig:position:ref:alt.

    Parameters
    ----------
    contig_ids, contig, position, alleles
        As for `variant_variables`.
    sample_ids
        One unique name per person.
    """
    places = zip(contig.tolist(), position.tolist(), alleles.tolist(), strict=True)
    variant_ids = [
        f"{contig_ids[index]}:{place}:{reference}:{alternate}"
        for index, place, (reference, alternate) in places
    ]
    variables = variant_variables(contig_ids, contig, position, alleles, variant_ids)
    return variables.assign(sample_id=("samples", np.array(sample_ids, object)))


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
    calls = DOSAGE if dosages else GENOTYPE
    lay_out(path, variables, calls, chunk_variants, chunk_samples)
    for rows in _slices(variables.sizes["variants"], chunk_variants):
        for columns in _slices(variables.sizes["samples"], chunk_samples):
            _write(path, calls, rows, columns, genotypes(rows, columns))


def lay_out(
    path: str | Path,
    variables: xr.Dataset,
    calls: CallArray,
    chunk_variants: int,
    chunk_samples: int,
) -> None:
    """Write a store that is whole but for the calls of its people.

    Parameters
    ----------
    path
        A path where nothing is yet.
    variables
        The other variables, and attributes.
    calls
        The array to be filled.
    chunk_variants, chunk_samples
        Size of its chunks.
    """
    sizes = (variables.sizes["variants"], variables.sizes["samples"])
    chunks = {"variants": chunk_variants, "samples": chunk_samples}
    shape = (*sizes, *calls.ploidy)
    # One lazy block, whose values are never computed, stands for the whole array.
    values = da.empty(shape, dtype=calls.dtype, chunks=shape)
    template = variables.assign({calls.name: (calls.dims, values)})
    template.attrs["vcf_zarr_version"] = VCF_ZARR_VERSION
    encoding = {name: _encoding(template[name], chunks) for name in template.variables}
    encoding[calls.name]["compressor"] = _GENOTYPE_COMPRESSOR
    with _repeatable_compression():
        template.to_zarr(
            path, mode="w-", compute=False, consolidated=True, encoding=encoding
        )


def copy_dataset(path: str | Path, dataset: xr.Dataset) -> None:
    """Write a cohort that is a Dataset, by dask where that has it.

    Parameters
    ----------
    path
        A path where nothing is yet.
    dataset
        Variables with their names in VCF Zarr. Chunks that zarr would not take are
        made regular: of the size of the first.
    """
    template = dataset.assign_attrs(vcf_zarr_version=VCF_ZARR_VERSION)
    for name, variable in dataset.variables.items():
        # What the variable was read with, such as filters, is of another store.
        template[name].encoding = {}
        if variable.chunks is not None:
            sizes = {dim: c[0] for dim, c in variable.chunksizes.items()}
            template[name] = template[name].chunk(sizes)
    encoding = {name: {"_FillValue": None} for name in template.variables}
    calls = DOSAGES if CALLS not in template else CALLS
    encoding[calls]["compressor"] = _GENOTYPE_COMPRESSOR
    if template[calls].chunks is None:
        chunks = {"variants": 10_000, "samples": 1_000}
        encoding[calls] |= _encoding(template[calls], chunks)
    with _repeatable_compression():
        template.to_zarr(path, mode="w-", consolidated=True, encoding=encoding)


def write_rows(
    path: str | Path, calls: CallArray, start: int, values: npt.NDArray[Any]
) -> None:
    """Fill the rows from ``start`` on, whole chunks of variants, of a store laid out.

    Processes may write different chunks of variants at the same time.
    """
    rows = slice(start, start + len(values))
    _write(path, calls, rows, slice(0, values.shape[1]), values)


def _write(
    path: str | Path,
    calls: CallArray,
    rows: slice,
    columns: slice,
    values: npt.NDArray[Any],
) -> None:
    block = xr.Dataset({calls.name: (calls.dims, values)})
    with _repeatable_compression():
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
    return {
        "_FillValue": None,
        "chunks": tuple(min(chunks.get(str(d), n), n) for d, n in sizes.items()),
    }


def _slices(size: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, size)) for start in range(0, size, step)]
