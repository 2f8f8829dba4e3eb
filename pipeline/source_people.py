"""The people whom the tables beside genotypes name: .fam, .psam and .sample.

Reads these tables; writes nothing. Invariant: where two tables, or a table and the
genotypes, name the people, they name the same ones in the same order.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline import tables
from pipeline.config import FID_IID
from pipeline.errors import InputError

_PSAM_HEADERS = ("#IID", "#FID")
_PSAM_WITHOUT_HEADER = ["#FID", "IID"]  # as in .fam
_GENOTYPES = {".fam": ".bed", ".psam": ".pgen"}
_N_FAM_COLUMNS = 6
_NO_FAMILY = "0"
# Names of the columns of a .sample file, the better ones first, in lower case.
_FAMILY_COLUMNS = ("id_1", "fid")
_PERSON_COLUMNS = ("id_2", "iid", "id", "id_1")
# What the second line of a .sample file says of each column.
_SAMPLE_TYPES = frozenset("0DCPB")
# What qctool and bgenix write for people whose ids they do not know.
_PLACEHOLDER = re.compile(r"\((anonymous|unknown)_sample_\d+\)")


@dataclass(frozen=True)
class People:
    """Ids of people, as a table has them.

    Attributes
    ----------
    table
        The file.
    individual_ids
        IID of each person.
    family_ids, source_ids
        FID and SID, where there are any.
    """

    table: Path
    individual_ids: list[str]
    family_ids: list[str] | None = None
    source_ids: list[str] | None = None

    def __len__(self) -> int:
        return len(self.individual_ids)

    def sample_ids(self, kind: str) -> list[str]:
        """Ids by which people are known from here on, each there once.

        Parameters
        ----------
        kind
            One of `config.SAMPLE_IDS`: the IID alone, or FID and IID joined by "_".

        Raises
        ------
        InputError
            If two people have the same, or the table has no FID and it is asked for.
        """
        if kind != FID_IID:
            self._check_individual_ids()
            return self.individual_ids
        if self.family_ids is None:
            raise InputError(
                f"{self.table} has no family ids; leave --sample-id fid_iid out"
            )
        joined = self._joined()
        tables.check_unique(self.table, joined)
        return joined

    def _joined(self) -> list[str]:
        families = self.family_ids or []
        both = zip(families, self.individual_ids, strict=True)
        return [f"{family}_{person}" for family, person in both]

    def _check_individual_ids(self) -> None:
        remedy = tables.RENAME
        if self.family_ids is not None and len(set(self._joined())) == len(self):
            remedy = "pass --sample-id fid_iid to take family and individual ids"
        tables.check_unique(self.table, self.individual_ids, remedy)


def read_fam(table: Path) -> People:
    """Read the people of a .fam file.

    Raises
    ------
    InputError
        If a line has not six columns, or there is none.
    """
    families, people = [], []
    for fields in tables.read_rows_of(table, _N_FAM_COLUMNS):
        families.append(fields[0])
        people.append(fields[1])
    if not people:
        raise InputError(f"{table} is empty; there is nothing to import")
    return People(table, people, families)


def read_psam(table: Path) -> People:
    """Read the people of a .psam file; without a header its columns are those of .fam.

    Raises
    ------
    InputError
        If a line has fewer columns than the header, or nobody is named.
    """
    columns = _PSAM_WITHOUT_HEADER
    ids: dict[str, list[str]] = {}
    for number, fields in tables.read_rows(table):
        if fields[0] in _PSAM_HEADERS:
            columns = fields
        elif not fields[0].startswith("#"):
            tables.check_width(table, number, fields, len(columns))
            for name, value in zip(columns, fields, strict=False):
                if name.removeprefix("#") in ("FID", "IID", "SID"):
                    ids.setdefault(name.removeprefix("#"), []).append(value)
    if not ids.get("IID"):
        raise InputError(f"{table} names no people (IID); there is nothing to import")
    return People(table, ids["IID"], ids.get("FID"), ids.get("SID"))


def read_sample(table: Path) -> People:
    """Read the people of a .sample file, with or without its two lines of header.

    The individual id is in the column ID_2, IID or ID, the family id in ID_1 or FID.
    Without a header, the first two columns are family and individual, and a single
    one is the individual's.

    Raises
    ------
    InputError
        If a line has fewer columns than the first, or nobody is named.
    """
    rows = list(tables.read_rows(table))
    columns, n_header = _sample_columns([fields for _, fields in rows[:2]])
    people = rows[n_header:]
    if not people:
        raise InputError(f"{table} names no people; there is nothing to import")
    for number, fields in people:
        tables.check_width(table, number, fields, len(columns))
    person = next(columns.index(n) for n in _PERSON_COLUMNS if n in columns)
    family = next((columns.index(n) for n in _FAMILY_COLUMNS if n in columns), person)
    families = [fields[family] for _, fields in people]
    return People(
        table,
        [fields[person] for _, fields in people],
        None if family == person else families,
    )


def _sample_columns(rows: Sequence[list[str]]) -> tuple[list[str], int]:
    """Names of the columns in lower case, and how many lines are header.

    >>> _sample_columns([["ID", "sex"], ["0", "D"]])
    (['id', 'sex'], 2)
    >>> _sample_columns([["F1", "I1", "0"], ["F1", "I2", "0"]])
    (['id_1', 'id_2', ''], 0)
    """
    if not rows:
        return ["id"], 0
    names = [name.lower().removeprefix("#") for name in rows[0]]
    are_named = not {*_PERSON_COLUMNS}.isdisjoint(names[:2])
    if len(rows) > 1 and _are_types(rows[1]):
        return (names if are_named else _default_columns(len(names))), 2
    if are_named:
        return names, 1
    return _default_columns(len(names)), 0


def _are_types(fields: Sequence[str]) -> bool:
    return fields[0] == "0" and _SAMPLE_TYPES.issuperset(fields)


def _default_columns(n_columns: int) -> list[str]:
    named = ["id"] if n_columns == 1 else ["id_1", "id_2"]
    return named + [""] * (n_columns - len(named))


def check_own_ids(genotypes: Path, own: Sequence[str], people: People) -> None:
    """Refuse a table that names other people than the genotypes do themselves.

    Programs write there the individual ids, the family ids, or both with a character
    between. Ids that say that nobody knows them do not count.

    Raises
    ------
    InputError
        If somebody differs; names the first.
    """
    if all(_PLACEHOLDER.fullmatch(name) for name in own):
        return
    written = list(_written_ids(people))
    faults = [_first_difference(own, ids) for ids in written]
    if None in faults:
        return
    # The form that goes well for longest is the one that was meant.
    row = max(fault for fault in faults if fault is not None)
    ids = written[faults.index(row)]
    raise InputError(
        f"{people.table} names person {row + 1} {ids[row]!r}, and {genotypes} itself "
        f"{own[row]!r}; give the two that belong together, or move {people.table.name} "
        "away to take the ids inside"
    )


def _written_ids(people: People) -> Iterator[Sequence[str]]:
    yield people.individual_ids
    if people.family_ids is not None:
        yield people.family_ids
        both = list(zip(people.family_ids, people.individual_ids, strict=True))
        for between in "_:- ":
            yield [f"{family}{between}{person}" for family, person in both]


def check_beside(used: People, other: Path) -> None:
    """Refuse a second table, .fam or .psam, that names other people than the first.

    One of another number of people belongs to genotypes of its own where these are
    there, and is not looked at.

    Raises
    ------
    InputError
        If the two differ; names the first.
    """
    # Of a .psam without header, the columns are those of .fam.
    found = read_psam(other)
    genotypes = other.with_suffix(_GENOTYPES[other.suffix])
    if len(found) == len(used) or not genotypes.is_file():
        check_same(used, found)


def check_same(used: People, other: People) -> None:
    """Refuse two tables beside the same genotypes that name other people.

    Raises
    ------
    InputError
        If they differ, in number or in somebody; names the first.
    """
    remedy = f"move {other.table.name} away if it is of other genotypes"
    if len(used) != len(other):
        raise InputError(
            f"{used.table} names {len(used)} people, and {other.table} beside it "
            f"{len(other)}; {remedy}"
        )
    row = _first_difference(used.individual_ids, other.individual_ids)
    names = used.individual_ids, other.individual_ids
    if row is None and used.family_ids and other.family_ids:
        families = used.family_ids, other.family_ids
        row = next(
            (
                i
                for i, pair in enumerate(zip(*families, strict=True))
                if pair[0] != pair[1] and _NO_FAMILY not in pair
            ),
            None,
        )
        names = families
    if row is not None:
        raise InputError(
            f"{used.table} names person {row + 1} {names[0][row]!r}, and {other.table} "
            f"beside it {names[1][row]!r}; {remedy}, or make them together"
        )


def _first_difference(first: Sequence[str], second: Sequence[str]) -> int | None:
    """First place where two lists of one length differ.

    >>> _first_difference("abc", "abd"), _first_difference("ab", "ab")
    (2, None)
    """
    pairs = enumerate(zip(first, second, strict=True))
    return next((row for row, pair in pairs if pair[0] != pair[1]), None)
