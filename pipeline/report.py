"""The report of a result: one HTML page that needs nothing else.

Reads an ancestry store and writes the page. It names groups of people, never a person,
loads nothing from the network and runs no script; the same store gives the same bytes.
"""

import datetime
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import markupsafe
import matplotlib
import matplotlib.figure
import matplotlib.ticker
import numpy as np
from jaxtyping import Float, Int, UInt8

from pipeline import provenance, store
from pipeline.errors import InputError

MAX_PEOPLE_SHOWN = 4_000
MAX_GROUPS_LISTED = 100

# Okabe and Ito's colours, then each as far as possible (in OKLab, under normal vision
# and simulated protanopia, deuteranopia and tritanopia) from those before it.
PALETTE = (
    *("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442"),
    *("#882222", "#22EEEE", "#224488", "#BBBB99", "#885577", "#AA4422", "#554455"),
    *("#BBDD88", "#8888DD", "#EEBB44", "#88CCCC", "#99AA77", "#777755", "#CC99AA"),
    *("#4455AA", "#DD7744", "#774477", "#7777CC", "#884444", "#99DDCC", "#8877AA"),
    *("#EE8855", "#BBBBEE"),
)
NO_LABEL = "(no label)"

_IMAGE_ROWS = 300
_IMAGE_COLUMNS = 2_000
_WIDTH = 10.0  # inches; the page scales the figure to its own width
_BARS_WIDTH = 9.6
_FONT_SIZE = 8.5
_POINTS = 72
_CHARACTER = 0.6 * _FONT_SIZE  # points, about
_MAX_LABEL = 24
# Stand for the page's own colours, which follow the reader's light or dark setting.
_INK, _PAPER = "#0a0b0c", "#f1f2f3"


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


def write_report(store_path: Path, output: Path) -> None:
    """Write the report of an ancestry store, in place of an earlier one.

    Parameters
    ----------
    store_path
        The ancestry store.
    output
        The HTML file, in a folder that exists.

    Raises
    ------
    InputError
        If the store is not one of ancestry, the folder does not exist or the file
        cannot be written.
    """
    result = store.Store.open(store_path, "ancestry")
    if not output.parent.is_dir():
        raise InputError(f"folder {output.parent} does not exist; make it first")
    if output.is_dir():
        raise InputError(f"{output} is a folder; name a file to write the report to")
    page = _render(result)
    try:
        with provenance.atomic_path(output) as temporary:
            Path(temporary).write_text(page, encoding="utf-8", newline="\n")
    except OSError as error:
        raise InputError(
            f"{output} cannot be written ({error.strerror}); free space there or "
            "choose another place"
        ) from error


def _render(result: store.Store) -> str:
    attrs = result.attrs
    ancestry = result.read("sample_ancestry_proportion")
    in_fit = result.read("sample_in_fit")
    called = ~np.isnan(ancestry).any(axis=1)
    labels = _labels(result, ancestry)[called]
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
        "colours": [colour_of(k) for k in range(ancestry.shape[1])],
        "by_population": "sample_population" in result,
        "qc_steps": attrs.get("qc_steps") or [],
        **_trace_section(attrs),
        **(_ancestry_section(ancestry[called], labels) if called.any() else {}),
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


def colour_of(population: int) -> str:
    """Colour of a population, counted from 0; they repeat after the palette's last."""
    return PALETTE[population % len(PALETTE)]


def _labels(
    result: store.Store, ancestry: Float[np.ndarray, "samples populations"]
) -> np.ndarray:
    """Group of each person: its label, else the population with the largest share."""
    if "sample_population" in result:
        labels = result.read("sample_population")
        return np.where(labels == "", NO_LABEL, labels)
    names = np.array([f"mostly {k + 1}" for k in range(ancestry.shape[1])])
    return names[ancestry.argmax(axis=1)]


class Arrangement(NamedTuple):
    """Where people and groups stand in the bar plot, from left to right.

    Attributes
    ----------
    people
        Rows of the people shown.
    groups
        Groups, as places in the sorted names.
    starts
        First column of each group, and the number of columns.
    """

    people: Int[np.ndarray, " shown"]
    groups: Int[np.ndarray, " groups"]
    starts: Int[np.ndarray, " bounds"]


def arrange(
    ancestry: Float[np.ndarray, "samples populations"],
    groups: Sequence[str] | np.ndarray,
    summary: GroupMeans,
    most: int = MAX_PEOPLE_SHOWN,
) -> Arrangement:
    """Order people for the bar plot, and choose at most ``most`` of them evenly.

    Groups with the same largest population stand together, the purest first; within a
    group people are ordered by their share of its largest population. ``summary`` has
    the means of the same people, who all have calls.
    """
    dominant = summary.means.argmax(axis=1)
    order = np.lexsort((-summary.means.max(axis=1), dominant))
    place = np.argsort(order)
    member = np.searchsorted(summary.names, np.asarray(groups, dtype=str))
    share = ancestry[np.arange(len(ancestry)), dominant[member]]
    people = np.lexsort((-share, place[member]))
    n_shown = min(most, len(people))
    people = people[np.arange(n_shown) * len(people) // max(n_shown, 1)]
    starts = np.searchsorted(place[member[people]], np.arange(len(order) + 1))
    return Arrangement(people, order, starts)


def _ancestry_section(
    ancestry: Float[np.ndarray, "samples populations"], groups: np.ndarray
) -> dict[str, Any]:
    summary = group_means(ancestry, groups)
    arrangement = arrange(ancestry, groups, summary)
    order, starts = arrangement.groups, arrangement.starts
    figure = _bar_plot(ancestry[arrangement.people], starts)
    n_labelled = _label_groups(figure, [summary.names[i] for i in order], starts)
    largest = np.argsort(-summary.counts, kind="stable")[:MAX_GROUPS_LISTED]
    return {
        "bar_plot": _svg(figure, "Shares of ancestry, a column a person"),
        "n_shown": len(arrangement.people),
        "n_called": len(ancestry),
        "n_groups": len(order),
        "n_unlabelled": len(order) - n_labelled,
        "groups": [
            (summary.names[i], int(summary.counts[i]), summary.means[i].tolist())
            for i in order[np.isin(order, largest)]
        ],
    }


def stacked_image(
    ancestry: Float[np.ndarray, "samples populations"], n_rows: int = _IMAGE_ROWS
) -> UInt8[np.ndarray, "rows samples 3"]:
    """Stacked bars as pixels, the first population at the bottom.

    A picture of one column per person: as drawn objects, thousands of bars would make
    the page many megabytes.
    """
    bounds = np.cumsum(ancestry, axis=1, dtype=np.float64)
    heights = (np.arange(n_rows)[::-1] + 0.5) / n_rows
    index = np.zeros((n_rows, len(ancestry)), np.intp)
    # Rows sum to 1 within rounding: the last population fills what is left.
    for bound in bounds[:, :-1].T:
        index += heights[:, None] > bound
    colours = [bytes.fromhex(colour_of(k)[1:]) for k in range(ancestry.shape[1])]
    return np.array([list(colour) for colour in colours], np.uint8)[index]


def _bar_plot(
    ancestry: Float[np.ndarray, "samples populations"],
    starts: Int[np.ndarray, " bounds"],
) -> matplotlib.figure.Figure:
    n_people = len(ancestry)
    figure = matplotlib.figure.Figure(figsize=(_WIDTH, 3.0))
    axes = figure.add_axes((1 - _BARS_WIDTH / _WIDTH, 0.01, _BARS_WIDTH / _WIDTH, 0.96))
    # Browsers smooth a picture that they enlarge: give each person several pixels.
    image = stacked_image(ancestry).repeat(-(-_IMAGE_COLUMNS // n_people), axis=1)
    axes.imshow(image, extent=(0, n_people, 0, 1), aspect="auto", interpolation="none")
    bounds = np.unique(starts[(starts > 0) & (starts < n_people)])
    width = min(0.8, 100 / max(len(bounds), 1))
    axes.vlines(bounds, 0, 1, colors=_PAPER, linewidth=width)
    axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.set_xticks([])
    axes.tick_params(length=0, labelsize=_FONT_SIZE, labelcolor=_INK)
    axes.spines[:].set_visible(False)
    return figure


def _label_groups(
    figure: matplotlib.figure.Figure,
    names: Sequence[str],
    starts: Int[np.ndarray, " bounds"],
) -> int:
    """Write groups' names under their bars; return how many there was room for.

    Names stand upright where one is wider than its bars; of two that would then
    collide, the smaller group's is left out.
    """
    names = [n if len(n) <= _MAX_LABEL else f"{n[: _MAX_LABEL - 1]}…" for n in names]
    sizes, centres = np.diff(starts), (starts[:-1] + starts[1:]) / 2
    columns_per_point = starts[-1] / (_BARS_WIDTH * _POINTS)
    lengths = np.array([len(name) for name in names]) * _CHARACTER
    upright = bool((lengths * columns_per_point > sizes).any())
    room = 1.15 * _FONT_SIZE * columns_per_point if upright else 0.0
    kept: list[int] = []
    for group in np.argsort(-sizes, kind="stable"):
        if sizes[group] and (np.abs(centres[kept] - centres[group]) >= room).all():
            kept.append(int(group))
    for group in sorted(kept):
        figure.axes[0].annotate(
            names[group],
            (centres[group], 0),
            xytext=(0, -5),
            textcoords="offset points",
            ha="center",
            va="top",
            rotation=90 if upright else 0,
            fontsize=_FONT_SIZE,
            color=_INK,
            parse_math=False,
            annotation_clip=False,
        )
    return len(kept)


def _trace_section(attrs: Mapping[str, Any]) -> dict[str, Any]:
    trace = np.asarray(attrs.get("log_likelihood_trace") or [], np.float64)
    gaps = trace[-1:] - trace
    rounds = np.flatnonzero(gaps > 0)
    per_genotype = gaps[rounds] / max(int(attrs["observed_genotypes"]), 1)
    plot = _trace_plot(rounds + 1, per_genotype) if rounds.size else None
    return {"trace_plot": plot, "n_rounds": trace.size}


def _trace_plot(
    rounds: Int[np.ndarray, " rounds"], gaps: Float[np.ndarray, " rounds"]
) -> markupsafe.Markup:
    figure = matplotlib.figure.Figure(figsize=(_WIDTH, 2.6))
    axes = figure.add_axes((0.075, 0.19, 0.915, 0.78))
    axes.plot(rounds, gaps, color=PALETTE[0], linewidth=1.6, marker="o", markersize=3.2)
    axes.set_yscale("log")
    axes.set_xlabel("Round", fontsize=_FONT_SIZE, color=_INK)
    axes.set_ylabel("Gap per genotype (nats)", fontsize=_FONT_SIZE, color=_INK)
    axes.set_xlim(rounds[0] - 0.3, rounds[-1] + 0.3)
    axes.xaxis.set_major_locator(
        matplotlib.ticker.MaxNLocator(8, steps=[1, 2, 5, 10], integer=True)
    )
    axes.tick_params(labelsize=_FONT_SIZE, labelcolor=_INK, length=0)
    axes.minorticks_off()
    axes.grid(axis="y", color=_INK, alpha=0.12, linewidth=0.6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set(color=_INK, alpha=0.4)
    return _svg(figure, "Gap to the final log-likelihood, by round")


def _svg(figure: matplotlib.figure.Figure, description: str) -> markupsafe.Markup:
    """The figure as an SVG element in the page's own colours and type."""
    text = io.StringIO()
    # Salted ids: never random, nor shared by two figures in the page.
    settings = {"svg.fonttype": "none", "svg.hashsalt": description}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # The reader's browser has the letters that matplotlib's own font has not.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        figure.savefig(
            text, format="svg", transparent=True, bbox_inches="tight", pad_inches=0.02
        )
    svg = text.getvalue().partition("<svg ")[2].rstrip()
    # The metadata holds the time of day.
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = svg.replace(_INK, "currentColor").replace(_PAPER, "var(--page)")
    svg = svg.replace("image-rendering:crisp-edges;image-rendering:pixelated", "")
    # matplotlib escapes the text of labels, the only part that comes from a cohort.
    return markupsafe.Markup(f'<svg role="img" aria-label="{description}" {svg}')
