"""Project the people of a Dataset on a model: a dask graph, of which nothing is run.

The model is read at once; of the Dataset, not a chunk. What depends on its contents,
which variants it has and on which strand, is a task too, and is refused there.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import dask
import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr
from dask.base import tokenize
from dask.delayed import Delayed
from dask.graph_manipulation import bind

from estimator.packing import packed_width
from pipeline import (
    bundle,
    dataset_sources,
    datasets,
    fit_check,
    overlap,
    plan,
    projection_check,
    projection_tasks,
    publication,
    schema,
)
from pipeline.alleles import normalise, relate
from pipeline.bundle import Model
from pipeline.cohort import Cohort
from pipeline.config import CHECK, ApplyConfig
from pipeline.decode import Columns
from pipeline.errors import InputError
from pipeline.location import Location, locate
from pipeline.match import Match, match_variants
from pipeline.projection_tasks import Block
from pipeline.python_words import python_words
from pipeline.standard_errors import plan_errors
from pipeline.store import Store

_COUNTS_ADDED = 16
_ERROR = "sample_ancestry_proportion_se"


@dataclass(frozen=True, eq=False)
class GivenModel:
    """A model in memory, with the keys of its variants.

    Attributes
    ----------
    path
        Where it came from, for errors.
    attrs
        Attributes of its store.
    keys
        Arrays of `schema.VARIANT_KEYS`, and the populations' names if they have any.
    model
        P and the encoder.
    """

    path: Location
    attrs: dict[str, Any]
    keys: dict[str, npt.NDArray[Any]]
    model: Model

    def read(self, name: str, *selection: Any) -> npt.NDArray[Any]:
        """Values of an array, as a `Store` gives them."""
        if name == "variant_population_frequency":
            return self.model.frequencies.T[selection]
        return self.keys[name][selection or ...]

    @property
    def may_be_ambiguous(self) -> bool:
        """Whether there is a variant whose alleles might not tell the strand."""
        pairs = {(normalise(a), normalise(b)) for a, b in self.keys["variant_allele"]}
        return any(_may_be_ambiguous(pair) for pair in pairs)


def _may_be_ambiguous(pair: tuple[str, str]) -> bool:
    relation = relate(pair, pair)
    return "" in pair or (relation is not None and relation.either_strand)


def read_model(model: xr.Dataset | str | Location) -> GivenModel:
    """Read a model from its store, or from a Dataset opened from one.

    Raises
    ------
    InputError
        If it is no model, or not whole.
    """
    if not isinstance(model, xr.Dataset):
        path = publication.find_result(locate(model), "model.zarr")
        whole = bundle.load_model(path)
        store = Store.open(path, bundle.KIND)
        named = [n for n in (*schema.VARIANT_KEYS, "population_id") if n in store]
        keys = {name: store.read(name) for name in named}
        return GivenModel(path, store.attrs, keys, whole)
    if model.attrs.get("kind") != bundle.KIND or "hidden_dims" not in model.attrs:
        raise InputError(
            "the Dataset given as model is none; give the path of a model.zarr, or "
            "sgkit.load_dataset of it"
        )
    parts = bundle.parts_of_model(model)
    named = [n for n in (*schema.VARIANT_KEYS, "population_id") if n in model]
    wanted = [*parts, *named]
    dataset_sources.whole(
        {str(name): model[name].variable for name in wanted},
        model.encoding.get("source"),
    )
    # Without the workers: it is what every task needs, not what they are to do.
    found = model[wanted].compute(scheduler="synchronous")
    arrays = {name: _plain(found[name].values) for name in wanted}
    keys = {name: arrays.pop(name) for name in named}
    attrs = {str(name): value for name, value in model.attrs.items()}
    return GivenModel(locate("the model"), attrs, keys, bundle.model_of(arrays, attrs))


def _plain(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return values.astype(str) if values.dtype == object else values


def project(
    cohort: xr.Dataset, given: GivenModel, name: str, config: ApplyConfig
) -> xr.Dataset:
    """Lazy Q and log-likelihood of everybody in a Dataset, and what is asked besides.

    Parameters
    ----------
    cohort
        As `datasets.select_cohort` returns it.
    given
        The model.
    name
        What the calls are called, for errors.
    config
        Refinement, strands, overlap, standard errors, fit check.
    """
    calls_name = schema.CALLS if schema.CALLS in cohort else schema.DOSAGES
    calls = _in_groups(cohort[calls_name].data)
    token = tokenize(given.model)
    model = dask.delayed(given, traverse=False, name=f"model-{token}")
    keys = {k: v.data for k, v in cohort.variables.items() if k != calls_name}
    dims = {k: v.dims for k, v in cohort.variables.items() if k != calls_name}
    match = dask.delayed(_match)(keys, dims, dict(cohort.attrs), model, config)
    asked = dask.delayed(overlap.variants_to_count)(match, config)
    rows = dask.delayed(_columns_to_count)(asked)
    count = dask.delayed(projection_tasks.count_alleles)
    decides = config.strand == CHECK and given.may_be_ambiguous
    # Where no strand is to be told, some people tell which allele the model counts.
    counted = [
        count(part, block, rows)
        for part, block in _blocks(calls, name)
        if decides or block.sample == 0
    ]
    columns = dask.delayed(_settle)(match, model, config, asked, _add(counted))
    # Read once more afterwards: what was counted would be kept in memory until the
    # last of it is.
    calls = bind(calls, columns)
    take = dask.delayed(projection_tasks.take_piece)
    pieces: dict[int, list[Delayed]] = {}
    for part, block in _blocks(calls, name):
        pieces.setdefault(block.sample, []).append(take(part, block, columns))
    with python_words():
        refine = bundle.newton_steps(str(given.path), given.attrs, config)
    k, n_variants = given.model.frequencies.shape
    errors = plan_errors(config, given.keys["variant_contig_name"])
    check = fit_check.may_check(config, calls.shape[1], n_variants)
    elements = fit_check.choose_elements(packed_width(n_variants)) if check else None
    work = dask.delayed(projection_tasks.project_people)
    sizes = calls.chunks[1]
    groups = [
        work(of_group, size, model, token, refine, errors=errors, checked=elements)
        for size, of_group in zip(sizes, pieces.values(), strict=True)
    ]
    values: dict[str, da.Array] = {}
    warned = None
    if check:
        of_check, warned = _check(groups, sizes, model, config)
        correlation, error, flagged = schema.FIT_CHECK
        values[correlation] = of_check[:, 0].astype(np.float32)
        values[error] = of_check[:, 1].astype(np.float32)
        values[flagged] = of_check[:, 2] > 0
    columns_of = dask.delayed(projection_tasks.columns_of)
    table = _stacked([columns_of(each, warned) for each in groups], sizes, k + 1)
    values["sample_ancestry_proportion"] = table[:, :k].astype(np.float32)
    values["sample_log_likelihood"] = table[:, k]
    if errors is not None:
        parts = [each.errors for each in groups]
        values[_ERROR] = _stacked(parts, sizes, k, np.float32)
    specs = schema.ANCESTRY | schema.OPTIONAL_ANCESTRY
    found = {n: datasets.described(specs[n], v) for n, v in values.items()}
    if "population_id" in given.keys:
        names = given.keys["population_id"]
        found["population_id"] = datasets.described(schema.POPULATION_ID, names)
    attrs = {"n_populations": k, "method": given.attrs["method"]}
    return xr.Dataset(found, attrs=attrs)


def _check(
    groups: list[Delayed], sizes: tuple[int, ...], model: Delayed, config: ApplyConfig
) -> tuple[da.Array, Delayed]:
    """The fit check of everybody, and the task that warns of what it found."""
    starts = np.cumsum([0, *sizes[:-1]]).tolist()
    n_called = [group.n_called for group in groups]
    plan = dask.delayed(projection_check.plan_references)(n_called, model, config)
    take = dask.delayed(projection_check.take_candidates)
    parts = [take(*each, plan) for each in zip(groups, starts, strict=True)]
    choose = dask.delayed(projection_check.choose_references)
    references = choose(plan, parts, model)
    compare = dask.delayed(projection_check.check_people)
    # Not the key itself, which dask would take for what it stands for.
    asked = (references, f"of {references.key}", config.fit_check_threshold)
    checked = [compare(*each, *asked) for each in zip(groups, starts, strict=True)]
    warned = dask.delayed(projection_check.warn)(n_called, checked)
    told = dask.delayed(projection_check.once_warned)
    parts = [told(each, warned) for each in checked]
    return _stacked(parts, sizes, 3), warned


def _stacked(
    parts: list[Delayed],
    sizes: tuple[int, ...],
    n_columns: int,
    dtype: npt.DTypeLike = np.float64,
) -> da.Array:
    """Rows of every person, a chunk for each group."""
    chunks = [
        da.from_delayed(part, (size, n_columns), dtype)
        for part, size in zip(parts, sizes, strict=True)
    ]
    return da.concatenate(chunks)


def _in_groups(values: Any) -> da.Array:
    """Calls as a dask array whose chunks of people are small enough for one task."""
    calls = da.asarray(values)
    people = tuple(
        len(part)
        for size in calls.chunks[1]
        for part in plan.split_rows(size, projection_tasks.GROUP_PEOPLE)
    )
    return calls.rechunk((calls.chunks[0], people, *calls.shape[2:]))


def _blocks(calls: da.Array, name: str) -> Iterator[tuple[Delayed, Block]]:
    """Every chunk of the calls, and where it lies."""
    parts = calls.to_delayed().reshape(calls.numblocks[:2])
    variants, people = (np.cumsum([0, *sizes[:-1]]) for sizes in calls.chunks[:2])
    for i, variant in enumerate(variants.tolist()):
        for j, sample in enumerate(people.tolist()):
            yield parts[i, j], Block(name, variant, sample)


def _add(parts: list[Delayed]) -> Delayed:
    """Add arrays, some at a time."""
    while len(parts) > 1:
        groups = range(0, len(parts), _COUNTS_ADDED)
        parts = [dask.delayed(sum)(parts[i : i + _COUNTS_ADDED]) for i in groups]
    return parts[0]


def _match(
    keys: dict[str, npt.NDArray[Any]],
    dims: dict[str, tuple[str, ...]],
    attrs: dict[str, Any],
    model: GivenModel,
    config: ApplyConfig,
) -> Match:
    """Find a model's variants among the keys of a Dataset's."""
    variables = {name: (dims[name], values) for name, values in keys.items()}
    cohort = Cohort(datasets.NAME, xr.Dataset(variables, attrs=attrs))
    with python_words():
        overlap.check_build(model, cohort)
        match = match_variants(model, cohort)
        overlap.check_overlap(match, model, cohort, config)
    return overlap.trust_strands(match, cohort, config)


def _columns_to_count(asked: overlap.Asked) -> Columns:
    return Columns(asked.rows, asked.swapped, asked.slots)


def _settle(
    match: Match,
    model: GivenModel,
    config: ApplyConfig,
    asked: overlap.Asked,
    counts: npt.NDArray[np.float64],
) -> Columns:
    """Row of each variant of a model in the Dataset, once strands are settled."""
    with python_words():
        return _settled(match, model, config, asked, counts)


def _settled(
    match: Match,
    model: GivenModel,
    config: ApplyConfig,
    asked: overlap.Asked,
    counts: npt.NDArray[np.float64],
) -> Columns:
    cohort = Cohort(datasets.NAME, xr.Dataset())
    counted = asked.turned(*counts)
    overlap.check_direction(model, cohort, asked, counted)
    match = overlap.decide_strands(match, model, asked, counted)
    overlap.check_used(match, model, cohort, config)
    return match.columns
