"""The stores that the variables of a Dataset are read from, as far as they tell.

zarr 2 reads an absent chunk of an array without a fill value as whatever the memory
held, and bio2zarr 0.2 writes such arrays. Looks for arrays of zarr in dask graphs and
lazily indexed variables; reads which chunks are there. Invariant: a variable that is
returned does not lead to such a chunk, where its source can be seen.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import is_dask_collection
from dask.blockwise import Blockwise, SubgraphCallable
from dask.local import get_sync

from pipeline import contig_numbers, store, zarr_files
from pipeline.errors import InputError
from pipeline.schema import CALLS, DOSAGES, VCF_DOSAGES

# Under these names the adapters of xarray keep what they adapt.
_INNER = ("array", "_array")


def whole(
    variables: Mapping[str, xr.Variable], source: str | None
) -> dict[str, xr.Variable]:
    """Variables of a cohort that hold what their store does.

    Contigs whose chunks were left out, because all of their variants lie on the first
    contig, are read at once.

    Parameters
    ----------
    variables
        By their names in VCF Zarr.
    source
        The store that the Dataset names as its own, if any.

    Raises
    ------
    InputError
        If a chunk is absent that would be read as whatever the memory held, or as
        reference alleles.
    """
    return {
        name: _whole(name, variable, source) for name, variable in variables.items()
    }


def _whole(name: str, variable: xr.Variable, source: str | None) -> xr.Variable:
    arrays = {id(array): array for array in arrays_behind(variable._data)}
    if not arrays:
        _check_named_source(name, variable, source)
        return variable
    lacking = {key: a for key, a in arrays.items() if _lacks_chunks(name, a)}
    if not lacking:
        return variable
    if name != "variant_contig":
        for array in lacking.values():
            zarr_files.check_present(zarr_files.place(array), array)
    filled = {
        key: contig_numbers.with_first_contig(zarr_files.place(array), array)
        for key, array in lacking.items()
    }
    return variable.copy(data=_read_with(variable._data, filled))


def _lacks_chunks(name: str, array: zarr_files.Array) -> bool:
    """Whether there are absent chunks that would not be read as what is missing."""
    if array.fill_value is None:
        unsafe = True
    else:
        unsafe = name in (CALLS, DOSAGES, VCF_DOSAGES) and array.fill_value >= 0
    return unsafe and zarr_files.absent_chunk(array) is not None


def _check_named_source(name: str, variable: xr.Variable, source: str | None) -> None:
    """Refuse values in memory that were read from a store which lacks chunks."""
    was_read = "preferred_chunks" in variable.encoding
    if source is None or not was_read or "_FillValue" in variable.encoding:
        return
    try:
        array = store.find_array(source, name)
    except (InputError, OSError, ValueError):
        return
    if array is not None and _lacks_chunks(name, array):
        raise InputError(
            f"the Dataset: {name} was read into memory from {source}, which lacks "
            "chunks of it: zarr 2 reads what the memory held there; open the store "
            "again, and give what sgkit.load_dataset returns, not loaded"
        )


def arrays_behind(value: Any) -> Iterator[zarr_files.Array]:
    """Arrays of zarr that dask tasks or lazily indexed values lead to.

    >>> list(arrays_behind(np.arange(3)))
    []
    """
    if zarr_files.is_array(value):
        yield value
    elif is_dask_collection(value):
        graph = value.__dask_graph__()
        for layer in getattr(graph, "layers", {"": graph}).values():
            yield from arrays_behind(_contents(layer))
    elif isinstance(value, Mapping):
        yield from arrays_behind(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            if not isinstance(item, str | int | slice):
                yield from arrays_behind(item)
    elif isinstance(value, SubgraphCallable):
        yield from arrays_behind(value.dsk)
    elif not isinstance(value, np.ndarray | np.generic):
        for inner in _INNER:
            yield from arrays_behind(getattr(value, inner, ()))


def _contents(layer: Any) -> Any:
    """What a layer of a graph holds, without the tasks that it would be made into."""
    if isinstance(layer, Blockwise):
        literals = [argument for argument, index in layer.indices if index is None]
        blocks = [getattr(each, "mapping", ()) for each in layer.io_deps.values()]
        return [layer.dsk, literals, blocks]
    return getattr(layer, "mapping", layer)


def _read_with(value: Any, others: Mapping[int, zarr_files.Array]) -> Any:
    """Values, read from other arrays in the place of some, by these' identity."""
    if not isinstance(value, da.Array):
        return np.asarray(_replace(value, others))
    graph = {key: _replace(task, others) for key, task in dict(value.dask).items()}
    finish, arguments = value.__dask_postcompute__()
    return finish(get_sync(graph, value.__dask_keys__()), *arguments)


def _replace(value: Any, others: Mapping[int, zarr_files.Array]) -> Any:
    """A task or an adapter with other arrays in the place of some."""
    if zarr_files.is_array(value):
        return others.get(id(value), value)
    if isinstance(value, list | tuple):
        parts = [_replace(item, others) for item in value]
        return type(value)(parts)
    if isinstance(value, dict):
        return {key: _replace(item, others) for key, item in value.items()}
    if isinstance(value, SubgraphCallable):
        inner = _replace(value.dsk, others)
        return SubgraphCallable(inner, value.outkey, value.inkeys, value.name)
    if next(arrays_behind(value), None) is None:
        return value
    changed = copy.copy(value)
    for name in _INNER:
        if hasattr(value, name):
            setattr(changed, name, _replace(getattr(value, name), others))
    return changed
