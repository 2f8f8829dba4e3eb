"""Datasets in sgkit's manner: what the Python functions ask of one, and add to it.

Checks what metadata can tell, and which chunks there are; computes no calls. Invariant:
a function returns a new Dataset, and never changes the one that it was given.
"""

from collections.abc import Mapping
from typing import Any

import xarray as xr
from sgkit.utils import conditional_merge_datasets

from pipeline import cohort_metadata, dataset_sources, schema
from pipeline.errors import InputError
from pipeline.location import locate
from pipeline.schema import CALLS, DOSAGES, ArraySpec

# How errors call a cohort that is not in a store.
NAME = "the Dataset"
_OPTIONAL = ("contig_id", "contig_length", "variant_id")


def select_cohort(ds: xr.Dataset, names: Mapping[str, str]) -> xr.Dataset:
    """The variables of a Dataset that make a cohort, by their names in VCF Zarr.

    Parameters
    ----------
    ds
        The Dataset.
    names
        What each variable is called in it. Genotypes are taken before dosages.

    Raises
    ------
    InputError
        If one is missing, its dimensions, type or size will not do, or its store lacks
        chunks of it.
    """
    stored = {standard for standard, given in names.items() if given in ds}
    wanted = [*cohort_metadata.arrays_used(stored), *_OPTIONAL]
    if CALLS in names and not {CALLS, DOSAGES} & stored:
        raise InputError(
            f"{NAME} has neither {names[CALLS]} nor {names[DOSAGES]}; name the "
            f"variable of the calls, as in {CALLS}=..."
        )
    chosen = {
        standard: ds[names.get(standard, standard)].variable
        for standard in wanted
        if names.get(standard, standard) in ds
    }
    if CALLS in chosen and chosen[CALLS].dtype.kind == "f":
        raise InputError(
            f"{NAME}: {names[CALLS]} has dtype {chosen[CALLS].dtype}, as where a fill "
            "value of 0 turned alleles into NaN; open the store with "
            "sgkit.load_dataset(path, mask_and_scale=False)"
        )
    cohort_metadata.check_arrays(NAME, _describe(chosen, ds.attrs))
    whole = dataset_sources.whole(chosen, ds.encoding.get("source"))
    return xr.Dataset(whole, attrs=ds.attrs)


def _describe(
    variables: Mapping[str, xr.Variable], attrs: Mapping[Any, Any]
) -> dict[str, Any]:
    """Metadata as a store of the same variables has them."""
    found: dict[str, Any] = {".zattrs": attrs}
    for name, variable in variables.items():
        layout = {"shape": variable.shape, "dtype": variable.dtype.str}
        found[f"{name}/.zarray"] = layout
        found[f"{name}/.zattrs"] = {"_ARRAY_DIMENSIONS": variable.dims}
    return found


def name_of(ds: xr.Dataset) -> str:
    """What results call a Dataset: the store that it was opened from, if any."""
    source = str(ds.encoding.get("source", "")).rstrip("/")
    return locate(source).name if source else "Dataset"


def described(spec: ArraySpec, values: Any) -> xr.Variable:
    """A variable with its values, and its meaning as sgkit writes it."""
    return xr.Variable(spec.dims, values, {"comment": spec.doc})


def add(
    ds: xr.Dataset, new: xr.Dataset, *, merge: bool, sample_id: str = "sample_id"
) -> xr.Dataset:
    """The new variables and attributes, beside the others if they are to be merged.

    Parameters
    ----------
    ds
        The Dataset.
    new
        What is added.
    merge
        Whether the others are kept.
    sample_id
        Variable of the people's ids, which becomes a coordinate if there is one.

    Raises
    ------
    InputError
        If the Dataset has another number of populations already.
    """
    dim = schema.POPULATION_ID.dims[0]
    others = [name for name in ds.variables if name not in new and dim in ds[name].dims]
    if merge and others and ds.sizes[dim] != new.sizes[dim]:
        raise InputError(
            f"{NAME} has {ds.sizes[dim]} {dim} in {others[0]}, and {new.sizes[dim]} "
            "are to be added; rename that dimension, or say merge=False"
        )
    replaced = [name for name in new.variables if name in ds and merge]
    kept = ds.drop_vars([n for n in replaced if ds[n].sizes != new[n].sizes])
    if sample_id in ds:
        kept = kept.set_coords(sample_id)
        new = new.assign_coords({sample_id: kept[sample_id].variable})
    attrs = {**ds.attrs, **new.attrs} if merge else new.attrs
    return conditional_merge_datasets(kept, new, merge).assign_attrs(attrs)
