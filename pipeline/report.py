"""The report of a result: one HTML page that needs nothing else.

Reads an ancestry store and writes the page. It names groups of people, never a person,
loads nothing from the network and runs no script; the same store gives the same bytes.
"""

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from jaxtyping import Float, Int

from pipeline import figures, output_names, publication, qc_summary, store
from pipeline.errors import InputError
from pipeline.groups import NONE, Groups, Placed, place_groups
from pipeline.location import Location, replacing
from pipeline.pair_means import mean_over_pairs

MAX_GROUPS_LISTED = 100
MAX_GROUPS_COMPARED = 20
NO_LABEL = "(no label)"


class GroupMeans(NamedTuple):
    """Mean ancestry of groups of people.

    Attributes
    ----------
    names
        Names of the groups, sorted.
    counts
        People in each group, those without calls included.
    means
        Mean shares among the people with calls, NaN where there are none.
    """

    names: list[str]
    counts: Int[np.ndarray, " groups"]
    means: Float[np.ndarray, "groups populations"]


def group_means(
    ancestry: Float[np.ndarray, "samples populations"],
    groups: Sequence[str] | np.ndarray,
) -> GroupMeans:
    """Mean ancestry of each group of people.

    Parameters
    ----------
    ancestry
        Share of each population; a row of NaN for a person without called genotypes.
    groups
        Name of each person's group.

    Raises
    ------
    ValueError
        If there is not one group per person.

    >>> shares = np.array([[1.0, 0.0], [0.5, 0.5], [np.nan, np.nan]])
    >>> group_means(shares, ["b", "a", "a"])
    GroupMeans(names=['a', 'b'], counts=array([2, 1]), means=array([[0.5, 0.5],
           [1. , 0. ]]))
    """
    if len(groups) != len(ancestry):
        raise ValueError(f"{len(ancestry)} rows of ancestry, {len(groups)} groups")
    names, member = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    called = ~np.isnan(ancestry).any(axis=1)
    n_called = np.bincount(member[called], minlength=len(names))
    sums = np.empty((len(names), ancestry.shape[1]))
    for population, shares in enumerate(ancestry[called].T):
        sums[:, population] = np.bincount(member[called], shares, len(names))
    with np.errstate(invalid="ignore"):
        means = sums / n_called[:, None]
    return GroupMeans(names.tolist(), np.bincount(member), means)


def write_report(
    store_path: Location, output: Location, *, groups: Groups | None = None
) -> None:
    """Write the report of an ancestry store, in place of an earlier one.

    Parameters
    ----------
    store_path
        The ancestry store.
    output
        The HTML file, in a folder that exists.
    groups
        Groups to show people by, in place of those that the store has.

    Raises
    ------
    InputError
        If the store is not one of ancestry, the file is not named as a page is, its
        folder does not exist, it cannot be written, or the groups name nobody.
    """
    if output.is_dir():
        raise InputError(f"{output} is a folder; name a file to write the report to")
    output_names.check_suffix(str(output), output_names.HTML, "the report")
    result = store.Store.open(
        publication.find_result(store_path, "ancestry.zarr"), "ancestry"
    )
    if isinstance(output, Path) and not output.parent.is_dir():
        raise InputError(f"folder {output.parent} does not exist; make it first")
    page = _render(result, _groups_of(result, groups))
    try:
        with replacing(output) as file:
            file.write(page.encode())
    except OSError as error:
        raise InputError(
            f"{output} cannot be written ({error.strerror}); free space there or "
            "choose another place"
        ) from error


def _groups_of(result: store.Store, groups: Groups | None) -> Placed | None:
    """Groups of a store's people: those given, else its own, if it has any."""
    if groups is not None:
        return place_groups(groups, result.read("sample_id"))
    if "sample_population" not in result:
        return None
    population = result.read("sample_population")
    if "sample_group" not in result:
        return Placed(population, np.empty((len(population), 0), np.str_), ())
    names = result.read("group_column_id").tolist()
    return Placed(population, result.read("sample_group"), tuple(names))


def _render(result: store.Store, placed: Placed | None) -> str:
    attrs = result.attrs
    ancestry = result.read("sample_ancestry_proportion")
    in_fit = result.read("sample_in_fit")
    called = ~np.isnan(ancestry).any(axis=1)
    labels = _labels(result, placed, ancestry)[called]
    context = {
        "source": attrs.get("source"),
        "provenance": attrs.get("provenance") or {},
        "log_likelihood": float(attrs["log_likelihood"]),
        "n_observed": int(attrs["observed_genotypes"]),
        "n_people": len(ancestry),
        "n_variants": result.shape("variant_position")[0],
        "n_in_fit": int((in_fit & called).sum()),
        "n_projected": int((~in_fit & called).sum()),
        "n_without_calls": int((~called).sum()),
        "names": _population_names(result),
        "colours": [figures.colour_of(k) for k in range(ancestry.shape[1])],
        "by_population": placed is not None,
        "qc_steps": attrs.get("qc_steps") or [],
        "relatives": attrs.get("relatives"),
        **_fit_check_section(result, placed, ancestry),
        **_trace_section(attrs),
        **(_ancestry_section(ancestry[called], labels) if called.any() else {}),
        "further": _further_tables(ancestry[called], placed, called),
    }
    return _template().render(context) + "\n"


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["count"] = "{:,}".format
    environment.filters["signed"] = _signed
    environment.filters["date"] = _date
    environment.filters["relatives"] = qc_summary.describe_relatives
    return environment.get_template("report.html.jinja")


def _signed(value: float, decimals: int) -> str:
    return f"{value:,.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def _date(created: str) -> str:
    """A time in ISO 8601 as people write it; other text as it is.

    >>> _date("2025-11-22T23:10:05+01:00")
    '22 November 2025, 22:10 UTC'
    """
    try:
        time = datetime.datetime.fromisoformat(created)
    except ValueError:
        return created
    if time.tzinfo is None:
        return f"{time:%d %B %Y, %H:%M}"
    return f"{time.astimezone(datetime.UTC):%d %B %Y, %H:%M} UTC"


def _population_names(result: store.Store) -> list[str]:
    """Names of the populations: those of the labels, else numbers from 1."""
    if "population_id" in result:
        return result.read("population_id").tolist()
    n_populations = result.shape("sample_ancestry_proportion")[1]
    return [str(k + 1) for k in range(n_populations)]


def _labels(
    result: store.Store,
    placed: Placed | None,
    ancestry: Float[np.ndarray, "samples populations"],
) -> np.ndarray:
    """Group of each person, else the population with the largest share."""
    if placed is not None:
        return _named(placed.population)
    names = np.array([f"mostly {name}" for name in _population_names(result)])
    return names[ancestry.argmax(axis=1)]


def _named(groups: np.ndarray) -> np.ndarray:
    return np.where(groups == NONE, NO_LABEL, groups)


def _further_tables(
    ancestry: Float[np.ndarray, "samples populations"],
    placed: Placed | None,
    called: np.ndarray,
) -> list[tuple[str, int, list[tuple[str, int, list[float]]]]]:
    """Mean ancestry by each further column of groups, the largest of them listed."""
    tables = []
    columns = () if placed is None or not called.any() else placed.columns
    for column, name in enumerate(columns):
        assert placed is not None, "it has columns"
        summary = group_means(ancestry, _named(placed.further[called, column]))
        largest = np.argsort(-summary.counts, kind="stable")[:MAX_GROUPS_LISTED]
        listed = [
            (summary.names[i], int(summary.counts[i]), summary.means[i].tolist())
            for i in np.sort(largest)
        ]
        tables.append((name, len(summary.names), listed))
    return tables


def _ancestry_section(
    ancestry: Float[np.ndarray, "samples populations"], groups: np.ndarray
) -> dict[str, Any]:
    summary = group_means(ancestry, groups)
    arrangement = figures.arrange(ancestry, groups, summary.names, summary.means)
    order, starts = arrangement.groups, arrangement.starts
    figure = figures.bar_plot(ancestry[arrangement.people], starts)
    names = [summary.names[i] for i in order]
    n_labelled = figures.label_groups(figure, names, starts)
    largest = np.argsort(-summary.counts, kind="stable")[:MAX_GROUPS_LISTED]
    return {
        "bar_plot": figures.svg(figure, "Shares of ancestry, a column a person"),
        "n_shown": len(arrangement.people),
        "n_called": len(ancestry),
        "n_groups": len(order),
        "n_unlabelled": len(order) - n_labelled,
        "groups": [
            (summary.names[i], int(summary.counts[i]), summary.means[i].tolist())
            for i in order[np.isin(order, largest)]
        ],
    }


def _fit_check_section(
    result: store.Store,
    placed: Placed | None,
    ancestry: Float[np.ndarray, "samples populations"],
) -> dict[str, Any]:
    """People whom the populations do not describe, by group, and what they share."""
    found = result.attrs.get("fit_check")
    if not found:
        return {}
    flagged = result.read("sample_poorly_described")
    groups = _labels(result, placed, np.nan_to_num(ancestry))
    names, member = np.unique(groups, return_inverse=True)
    n_flagged = np.bincount(member, flagged, len(names)).astype(int)
    n_people = np.bincount(member)
    listed = np.argsort(-n_flagged, kind="stable")[:MAX_GROUPS_LISTED]
    # Without labels, those who are not described are a group of their own.
    if placed is None:
        groups = np.where(flagged, np.char.add(groups, ", not described"), groups)
    people = result.read("reference_sample")
    compared, of_person, sizes = np.unique(
        groups[people], return_inverse=True, return_counts=True
    )
    largest = np.sort(np.argsort(-sizes, kind="stable")[:MAX_GROUPS_COMPARED])
    place = np.full(len(compared), -1)
    place[largest] = np.arange(len(largest))
    pairs = result.read("reference_residual_correlation")
    matrix = mean_over_pairs(pairs, place[of_person], len(largest))
    return {
        "fit_check": found,
        "flagged_groups": [
            (names[i], int(n_people[i]), int(n_flagged[i]))
            for i in listed
            if n_flagged[i]
        ],
        "compared": [
            (compared[i], int(sizes[i]), [None if np.isnan(x) else x for x in row])
            for i, row in zip(largest, matrix.tolist(), strict=True)
        ],
        "n_compared": len(compared),
    }


def _trace_section(attrs: Mapping[str, Any]) -> dict[str, Any]:
    trace = np.asarray(attrs.get("log_likelihood_trace") or [], np.float64)
    # Stores were made without it.
    refused = np.zeros(trace.size, bool)
    refused[:] = attrs.get("log_likelihood_refused") or False
    # The best round is not always the last: a point whose likelihood fell is refused.
    gaps = np.nanmax(trace, initial=-np.inf) - trace
    rounds = np.flatnonzero(gaps > 0)
    per_genotype = gaps[rounds] / max(int(attrs["observed_genotypes"]), 1)
    plot = None
    if rounds.size:
        plot = figures.trace_plot(rounds + 1, per_genotype, refused[rounds])
    n_refused = int(refused.sum())
    return {"trace_plot": plot, "n_rounds": trace.size, "n_refused": n_refused}
