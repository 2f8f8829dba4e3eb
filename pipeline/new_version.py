"""The ancestry store of a new version, of a new fit or of an earlier version.

Who is not affected keeps every figure as it was, bit for bit, and so do the chunks of
which nobody is. Rows are the cohort's people in the cohort's order.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import provenance, schema
from pipeline.genotype_digests import Difference, Digests
from pipeline.location import Location
from pipeline.plan import split_rows
from pipeline.renumber import Order
from pipeline.store import Store

KIND = "ancestry"
_SPECS = {**schema.ANCESTRY, **schema.OPTIONAL_ANCESTRY}
# Written in one piece, by the name of the array; the others in chunks of people.
_WHOLE = ("sample_id", "sample_in_fit", "sample_population")
_OWN_ATTRS = ("kind", "schema_version", "complete")
# Of the fit, and not of the people of later versions.
_FIT_ATTRS = ("cohort_fingerprint",)

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Projected:
    """What came of the projection of some people.

    Attributes
    ----------
    store
        Their ancestry store; None where there was nobody to project.
    rows
        Rows in that store of those whose figures are taken.
    people
        Positions of these in the cohort.
    digests
        Digests of their genotypes.
    """

    store: Store | None
    rows: npt.NDArray[np.int64]
    people: npt.NDArray[np.int64]
    digests: Digests


def write_fitted(
    fitted: Store, path: Location, digests: Digests, order: Order, number: int
) -> None:
    """Write the store of a version that comes of a new fit.

    Parameters
    ----------
    fitted
        The fit's own ancestry store.
    path
        Where the store is built.
    digests
        Digests of everybody's genotypes.
    order
        Population of the fit for each column.
    number
        The version.
    """
    values = {name: fitted.read(name) for name in fitted.names()}
    for name, array in values.items():
        for axis, dim in enumerate(_SPECS[name].dims):
            if dim.startswith("populations"):
                values[name] = array = np.take(array, order, axis)
    values["sample_genotype_digest"] = digests
    values["sample_version"] = np.full(len(digests), number, np.int64)
    attrs = dict(fitted.attrs)
    if attrs.get("fit_check"):
        attrs["fit_check"] = _fit_check(attrs["fit_check"], values)
    _write(path, values, attrs, fitted.chunks("sample_ancestry_proportion")[0])


def write_grown(
    earlier: Store,
    path: Location,
    people: Mapping[str, npt.NDArray[np.str_]],
    difference: Difference,
    projected: Projected,
    attrs: Mapping[str, Any],
    number: int,
) -> None:
    """Write the store of a version in which some people came, changed or left.

    Parameters
    ----------
    earlier
        The version before.
    path
        Where the store is built.
    people
        `sample_id`, and `sample_population` if there is one, of the cohort.
    difference
        How the cohort differs from the version before.
    projected
        What came of those who are affected.
    attrs
        Provenance.
    number
        The version.
    """
    n_people = len(people["sample_id"])
    kept = np.flatnonzero(difference.earlier >= 0)
    # Where everybody was projected again, some figures may not be wanted any more.
    everybody = projected.store if len(projected.people) == n_people else None
    names = {*earlier.names(), *_names(projected)}
    if everybody is not None:
        names &= {*everybody.names(), *schema.REPROCESSED}
    values: Arrays = {}
    for name in sorted(names - set(people)):
        dims = _SPECS[name].dims
        if dims[0] == "samples":
            values[name] = blank = _blank(name, n_people, earlier)
            if name in earlier:
                blank[kept] = earlier.read(name)[difference.earlier[kept]]
        elif name not in schema.REFERENCES and name in earlier:
            values[name] = earlier.read(name)
    in_fit = values["sample_in_fit"].copy()
    for name in _names(projected):
        if name in values and _SPECS[name].dims[0] == "samples":
            assert projected.store is not None, "it has names"
            values[name][projected.people] = projected.store.read(name)[projected.rows]
    # Who changed informed the fit all the same.
    values["sample_in_fit"] = in_fit
    values["sample_genotype_digest"][projected.people] = projected.digests
    values["sample_version"][difference.affected] = number
    values |= people
    values |= _references(earlier, difference, everybody)
    check = (everybody or earlier).attrs.get("fit_check")
    attrs = {k: v for k, v in earlier.attrs.items() if k not in _FIT_ATTRS} | {
        **_figures(values, check),
        **attrs,
        "stamp": provenance.digest(
            [earlier.attrs["stamp"], attrs["config"], _digest_of_all(values)]
        ),
    }
    _write(path, values, attrs, earlier.chunks("sample_ancestry_proportion")[0])


def _names(projected: Projected) -> list[str]:
    return [] if projected.store is None else projected.store.names()


def _blank(name: str, n_people: int, earlier: Store) -> npt.NDArray[Any]:
    """Rows for everybody, NaN or 0 where a figure is not known."""
    spec = _SPECS[name]
    n_populations = earlier.shape("sample_ancestry_proportion")[1]
    sizes = {"samples": n_people, "populations": n_populations, "digest_words": 2}
    shape = tuple(sizes[dim] for dim in spec.dims)
    fill = np.nan if spec.dtype.startswith("float") else 0
    return np.full(shape, fill, spec.dtype)


def _references(
    earlier: Store, difference: Difference, everybody: Store | None
) -> Arrays:
    """The fit check's references who are still there, where they are now."""
    if everybody is not None:
        names = set(schema.REFERENCES) & set(everybody.names())
        return {name: everybody.read(name) for name in names}
    if "reference_sample" not in earlier:
        return {}
    n_earlier = earlier.shape("sample_id")[0]
    now = np.full(n_earlier, -1, np.int64)
    kept = np.flatnonzero(difference.earlier >= 0)
    now[difference.earlier[kept]] = kept
    places = now[earlier.read("reference_sample")]
    order = np.argsort(places, kind="stable")
    order = order[places[order] >= 0]
    pairs = earlier.read("reference_residual_correlation")
    name = "population_residual_correlation"
    return {
        "reference_sample": places[order],
        "reference_residual_correlation": pairs[np.ix_(order, order)],
        name: earlier.read(name),
    }


def _digest_of_all(values: Arrays) -> str:
    digest = hashlib.sha256("\n".join(values["sample_id"].tolist()).encode())
    digest.update(values["sample_genotype_digest"].astype("<u8").tobytes())
    return digest.hexdigest()


def _figures(values: Arrays, check: Mapping[str, Any] | None) -> dict[str, Any]:
    """Figures of the whole store, as `apply` has them."""
    n_called, in_fit = values["sample_n_called"], values["sample_in_fit"]
    counted = in_fit if in_fit.any() else ~in_fit
    return {
        "log_likelihood": float(values["sample_log_likelihood"][counted].sum()),
        "observed_genotypes": int(n_called[counted].sum()),
        "n_samples_uncalled": int(np.count_nonzero(n_called == 0)),
        "fit_check": check and _fit_check(check, values),
    }


def _fit_check(check: Mapping[str, Any], values: Arrays) -> dict[str, Any]:
    name = "population_residual_correlation"
    matrix = values[name].astype(np.float64) if name in values else np.empty((0, 0))
    known = [[None if np.isnan(x) else round(x, 6) for x in row] for row in matrix]
    flagged = int(values["sample_poorly_described"].sum())
    return {**check, "n_poorly_described": flagged, name: known}


def _write(
    path: Location, values: Arrays, attrs: Mapping[str, Any], sample_chunk: int
) -> None:
    store = Store.create(path, KIND)
    for name, array in sorted(values.items()):
        spec = _SPECS[name]
        if spec.dims[0] != "samples" or name in _WHOLE:
            store.write(name, spec, array)
            continue
        store.lay_out(name, spec, array.shape, (sample_chunk, *array.shape[1:]))
        for rows in split_rows(len(array), sample_chunk):
            store.write_rows(name, rows, array[rows.slice])
    store.set_attrs(**{k: v for k, v in attrs.items() if k not in _OWN_ATTRS})
    store.finish()
