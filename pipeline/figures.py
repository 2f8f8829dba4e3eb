"""The figures of the report: bars of ancestry and the trace of the fit, as SVG.

Reads arrays and returns elements for the page, writing no file. The same numbers give
the same text, without the time of day or random ids.
"""

import io
import re
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import markupsafe
import matplotlib
import matplotlib.figure
import matplotlib.ticker
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

MAX_PEOPLE_SHOWN = 4_000

# Okabe and Ito's colours, then each as far as possible (in OKLab, under normal vision
# and simulated protanopia, deuteranopia and tritanopia) from those before it.
PALETTE = (
    *("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442"),
    *("#882222", "#22EEEE", "#224488", "#BBBB99", "#885577", "#AA4422", "#554455"),
    *("#BBDD88", "#8888DD", "#EEBB44", "#88CCCC", "#99AA77", "#777755", "#CC99AA"),
    *("#4455AA", "#DD7744", "#774477", "#7777CC", "#884444", "#99DDCC", "#8877AA"),
    *("#EE8855", "#BBBBEE"),
)

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


def colour_of(population: int) -> str:
    """Colour of a population, counted from 0; they repeat after the palette's last."""
    return PALETTE[population % len(PALETTE)]


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
    names: Sequence[str],
    means: Float[np.ndarray, "groups populations"],
    most: int = MAX_PEOPLE_SHOWN,
) -> Arrangement:
    """Order people for the bar plot, and choose at most ``most`` of them evenly.

    Groups with the same largest population stand together, the purest first; within a
    group people are ordered by their share of its largest population.

    Parameters
    ----------
    ancestry
        Share of each population; everybody has called genotypes.
    groups
        Name of each person's group.
    names
        Names of the groups, sorted.
    means
        Mean shares of the people of each group.
    most
        Most people to show.
    """
    dominant = means.argmax(axis=1)
    order = np.lexsort((-means.max(axis=1), dominant))
    place = np.argsort(order)
    member = np.searchsorted(names, np.asarray(groups, dtype=str))
    share = ancestry[np.arange(len(ancestry)), dominant[member]]
    people = np.lexsort((-share, place[member]))
    n_shown = min(most, len(people))
    people = people[np.arange(n_shown) * len(people) // max(n_shown, 1)]
    starts = np.searchsorted(place[member[people]], np.arange(len(order) + 1))
    return Arrangement(people, order, starts)


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


def bar_plot(
    ancestry: Float[np.ndarray, "samples populations"],
    starts: Int[np.ndarray, " bounds"],
) -> matplotlib.figure.Figure:
    """Bars of people's shares, a column a person, with lines between groups.

    Parameters
    ----------
    ancestry
        Share of each population, people in the order shown; at least one.
    starts
        First column of each group, and the number of columns.
    """
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


def label_groups(
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


def trace_plot(
    rounds: Int[np.ndarray, " rounds"],
    gaps: Float[np.ndarray, " rounds"],
    refused: Bool[np.ndarray, " rounds"],
) -> markupsafe.Markup:
    """Gap to the final log-likelihood by round, on a logarithmic scale, as SVG.

    Parameters
    ----------
    rounds
        Rounds of the fit, counted from 1, rising; at least one.
    gaps
        Gap after each, in nats per called genotype; above 0.
    refused
        Whose points were refused: crosses, which the line passes by.
    """
    figure = matplotlib.figure.Figure(figsize=(_WIDTH, 2.6))
    axes = figure.add_axes((0.075, 0.19, 0.915, 0.78))
    (line,) = axes.plot(rounds[~refused], gaps[~refused], color=PALETTE[0], marker="o")
    line.set(linewidth=1.6, markersize=3.2)
    (crosses,) = axes.plot(rounds[refused], gaps[refused], color=PALETTE[3], marker="x")
    crosses.set(linestyle="none", markersize=5, zorder=3)
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
    return svg(figure, "Gap to the final log-likelihood, by round")


def svg(figure: matplotlib.figure.Figure, description: str) -> markupsafe.Markup:
    """The figure as an SVG element in the page's own colours and type.

    Parameters
    ----------
    figure
        The figure; its text is escaped.
    description
        What it shows, for those who hear the page; put in as it is, never from a
        cohort. Figures of one page need different ones.
    """
    text = io.StringIO()
    # Salted ids: never random, nor shared by two figures in the page.
    settings = {"svg.fonttype": "none", "svg.hashsalt": description}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # The reader's browser has the letters that matplotlib's own font has not.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        figure.savefig(
            text, format="svg", transparent=True, bbox_inches="tight", pad_inches=0.02
        )
    element = text.getvalue().partition("<svg ")[2].rstrip()
    # The metadata holds the time of day.
    element = re.sub(
        r"\s*<metadata>.*?</metadata>", "", element, count=1, flags=re.DOTALL
    )
    element = re.sub(r'<g id="[^"]*"', "<g", element)
    element = element.replace(_INK, "currentColor").replace(_PAPER, "var(--page)")
    element = element.replace(
        "image-rendering:crisp-edges;image-rendering:pixelated", ""
    )
    # matplotlib escapes the text of labels, the only part that comes from a cohort.
    return markupsafe.Markup(f'<svg role="img" aria-label="{description}" {element}')
