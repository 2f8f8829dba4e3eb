"""The people of an ancestry store as one table of text, for R, pandas and spreadsheets.

Reads the store block by block and writes a header line and a line a person, between
tabs: sample_id; the share of each population, by its name or as population_1 and so on;
the standard errors of these, with _se after the names; in_fit, poorly_described and
log_likelihood; group, and further columns of the file of groups. Columns of what the
store has not are left out, and what is not known of a person is NA.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TextIO

import numpy as np
import numpy.typing as npt

from pipeline import store

MISSING = "NA"
ID, IN_FIT, POORLY_DESCRIBED = "sample_id", "in_fit", "poorly_described"
LOG_LIKELIHOOD, GROUP = "log_likelihood", "group"
_OTHERS = (ID, IN_FIT, POORLY_DESCRIBED, LOG_LIKELIHOOD, GROUP)

_Text = list[str]


class _Columns(NamedTuple):
    """Names of some columns, and how the array that they come from becomes text."""

    names: list[str]
    array: str
    format: Callable[[npt.NDArray[Any]], list[_Text]]
    # Whether nothing is known where a person has no called genotype.
    needs_calls: bool = True


def blocks(ancestry: store.Store, name: str) -> Iterator[slice]:
    """Whole chunks of an array's rows, so that each is decoded once."""
    n_rows, size = ancestry.shape(name)[0], ancestry.chunks(name)[0]
    for start in range(0, n_rows, size):
        yield slice(start, min(start + size, n_rows))


def write_table(file: TextIO, ancestry: store.Store) -> None:
    """Write the people of an ancestry store as a table."""
    columns = [c for c in _columns(ancestry) if c.array in ancestry]
    header = [_quote(name) for column in columns for name in column.names]
    file.write("\t".join(header) + "\n")
    shares = "sample_ancestry_proportion"
    for rows in blocks(ancestry, shares):
        uncalled = np.flatnonzero(np.isnan(ancestry.read(shares, rows)).any(axis=1))
        parts: list[_Text] = []
        for column in columns:
            for text in column.format(ancestry.read(column.array, rows)):
                for person in uncalled if column.needs_calls else ():
                    text[person] = MISSING
                parts.append(text)
        file.writelines("\t".join(row) + "\n" for row in zip(*parts, strict=True))


def _columns(ancestry: store.Store) -> list[_Columns]:
    names = population_columns(ancestry)
    errors = [f"{name}_se" for name in names]
    return [
        _Columns([ID], "sample_id", _plain, needs_calls=False),
        _Columns(names, "sample_ancestry_proportion", _decimals),
        _Columns(errors, "sample_ancestry_proportion_se", _decimals),
        _Columns([IN_FIT], "sample_in_fit", _flags, needs_calls=False),
        _Columns([POORLY_DESCRIBED], "sample_poorly_described", _flags),
        _Columns([LOG_LIKELIHOOD], "sample_log_likelihood", _decimals),
        _Columns([GROUP], "sample_population", _plain, needs_calls=False),
        _Columns(_further(ancestry, names), "sample_group", _plain, needs_calls=False),
    ]


def _further(ancestry: store.Store, populations: list[str]) -> list[str]:
    """Names of the further columns of groups, none of which another column has."""
    if "group_column_id" not in ancestry:
        return []
    taken = {*populations, *(f"{name}_se" for name in populations), *_OTHERS}
    names = []
    for name in ancestry.read("group_column_id").tolist():
        while name in taken:
            name = f"{GROUP}_{name}"
        taken.add(name)
        names.append(name)
    return names


def population_columns(ancestry: store.Store) -> list[str]:
    """Names of the columns of shares, none of which another column has."""
    k = ancestry.shape("sample_ancestry_proportion")[1]
    numbered = [f"population_{i + 1}" for i in range(k)]
    if "population_id" not in ancestry:
        return numbered
    names = ancestry.read("population_id").tolist()
    taken = [*names, *(f"{name}_se" for name in names), *_OTHERS]
    return names if len(set(taken)) == len(taken) else numbered


def _decimals(values: npt.NDArray[Any]) -> list[_Text]:
    columns = values.reshape(len(values), -1).T.tolist()
    return [[MISSING if x != x else f"{x:.6f}" for x in column] for column in columns]


def _flags(values: npt.NDArray[Any]) -> list[_Text]:
    return [["TRUE" if value else "FALSE" for value in values.tolist()]]


def _plain(values: npt.NDArray[Any]) -> list[_Text]:
    columns = values.reshape(len(values), -1).T.tolist()
    return [[_quote(value) or MISSING for value in column] for column in columns]


def _quote(text: str) -> str:
    r"""Text between quotes where R or pandas would not read it as it is.

    R takes ' for a quote and # for the begin of a comment.

    >>> _quote("NA12878"), _quote("N'Djamena")
    ('NA12878', '"N\'Djamena"')
    """
    if not set(text) & set("'\"#\t\r\n"):
        return text
    doubled = text.replace('"', '""')
    return f'"{doubled}"'
