"""Groups of people, from a text file: what the report and tables show people by.

Each line has the id of a person, a group and further columns. They change no estimate,
as labels do; whoever has no line has no group.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline import provenance, source_files, source_people
from pipeline.cohort import Cohort
from pipeline.config import FID, FID_IID, IID
from pipeline.errors import InputError
from pipeline.location import Location
from pipeline.quantities import count_things

logger = logging.getLogger(__name__)

# First fields that begin a header, in lower case and without "#".
_HEADERS = frozenset(
    ("sample_id", "sample", "sampleid", "id", "iid", "fid", "individual", "person")
)
# Of people who have no group, as arrays have them.
NONE = ""

Text = npt.NDArray[np.str_]


@dataclass(frozen=True)
class Groups:
    """Groups by the ids of people, or of their families.

    Attributes
    ----------
    path
        The file.
    ids
        What people are named by, one of `config.GROUP_IDS`.
    columns
        Names of the columns after the group.
    lines
        Group and further columns by id, the two parts of it joined by "_".
    """

    path: Location
    ids: str
    columns: tuple[str, ...]
    lines: dict[str, tuple[str, ...]]

    @property
    def fingerprint(self) -> str:
        """Digest of who is in which group, whatever the order of the lines."""
        return provenance.digest([self.ids, self.columns, self.lines])


class Placed(NamedTuple):
    """Groups of the people of a cohort, in its order.

    Attributes
    ----------
    population
        Group of each person, NONE where there is none.
    further
        Further columns, shape (samples, columns).
    columns
        Names of these.
    """

    population: Text
    further: Text
    columns: tuple[str, ...]


def read_groups(path: Location, ids: str = IID) -> Groups:
    """Read a file of groups.

    Fields stand between tabs, or, in a file whose first line has none, between blanks.
    A first line that begins with "#", or with "sample_id", "iid" or the like, is a
    header, which names the further columns. Empty lines are skipped.

    Parameters
    ----------
    path
        The file.
    ids
        What its first column is: individual ids, or family ids; of FID_IID the first
        two, as PLINK has them.

    Raises
    ------
    InputError
        If the file cannot be read, a line has not as many fields as the first, or an
        id is there twice; names the line.
    """
    rows = _read_rows(path)
    n_ids = 2 if ids == FID_IID else 1
    first, fields = rows[0]
    has_header = fields[0].startswith("#") or fields[0].lower() in _HEADERS
    n_fields = len(fields)
    if n_fields <= n_ids:
        raise InputError(
            f"{path}, line {first}: {count_things(n_fields, 'field', 'fields')}; write "
            f"{'a family id, an individual id' if n_ids == 2 else 'an id'} and a "
            "group, with a tab between them"
        )
    names = [f"column {n + 1}" for n in range(n_ids + 1, n_fields)]
    columns = tuple(fields[n_ids + 1 :] if has_header else names)
    lines: dict[str, tuple[str, ...]] = {}
    seen: dict[str, int] = {}
    for number, fields in rows[1 if has_header else 0 :]:
        if len(fields) != n_fields or not all(fields[: n_ids + 1]):
            raise InputError(
                f"{path}, line {number}: "
                f"{count_things(len(fields), 'field', 'fields')} and line "
                f"{first} has {n_fields}; write the same columns in each, with tabs "
                "between them where a field has blanks"
            )
        person = "_".join(fields[:n_ids])
        if person in seen:
            raise InputError(
                f"{path}, line {number}: id {person!r} is on line {seen[person]} "
                "already; keep one of them"
            )
        seen[person] = number
        lines[person] = tuple(fields[n_ids:])
    if not lines:
        raise InputError(f"{path} has no line but its header; add people, or leave it")
    return Groups(path, ids, columns, lines)


def _read_rows(path: Location) -> list[tuple[int, list[str]]]:
    """Numbers, from 1, and fields of the lines that are not empty; one at least."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; check --groups") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text; check --groups") from error
    found = [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not found:
        raise InputError(f"{path} is empty; add lines of an id and a group")
    separator = "\t" if "\t" in found[0][1] else None
    return [
        (number, [field.strip() for field in line.split(separator)])
        for number, line in found
    ]


def place_groups(
    groups: Groups, sample_ids: Text, family_ids: Sequence[str] | None = None
) -> Placed:
    """The groups of people, whom a log line counts that have none.

    Parameters
    ----------
    groups
        The groups.
    sample_ids
        Ids of the people.
    family_ids
        Of their families, where they are known.

    Raises
    ------
    InputError
        If the file names nobody of them, or families that are not known.
    """
    keys = _keys(groups, sample_ids, family_ids)
    blank = (NONE,) * (1 + len(groups.columns))
    found = [groups.lines.get(key, blank) for key in keys]
    table = np.array(found, np.str_).reshape(len(keys), len(blank))
    used = set(keys) & set(groups.lines)
    if not used:
        raise InputError(
            f"{groups.path} names nobody in the cohort by the ids that people have; "
            "check the first column, or say with --group-id what it is"
        )
    n_without = sum(key not in groups.lines for key in keys)
    n_unknown = len(groups.lines) - len(used)
    if n_without or n_unknown:
        logger.warning(
            "%s: %s of the cohort without a line, %s without anybody in the cohort",
            groups.path,
            count_things(n_without, "person", "people"),
            count_things(n_unknown, "line", "lines"),
        )
    return Placed(table[:, 0], table[:, 1:], groups.columns)


def _keys(
    groups: Groups, sample_ids: Text, family_ids: Sequence[str] | None
) -> list[str]:
    """What the file calls each person."""
    ids: list[str] = sample_ids.tolist()
    if groups.ids == IID or (groups.ids == FID_IID and set(ids) & set(groups.lines)):
        # Ids of people may be both already, joined by "_" as here.
        return ids
    if family_ids is None:
        raise InputError(
            f"{groups.path}: the family ids of the cohort are not known, so --group-id "
            f"{groups.ids} finds nobody; give individual ids, or the PLINK files"
        )
    if groups.ids == FID:
        return list(family_ids)
    return [f"{family}_{i}" for family, i in zip(family_ids, ids, strict=True)]


def add_groups(cohort: Cohort, groups: Groups | None, source: str) -> Cohort:
    """A cohort with the groups of its people, in place of any that it has itself.

    Parameters
    ----------
    cohort
        The cohort.
    groups
        The groups; None leaves it as it is.
    source
        What it was given as, a PLINK file perhaps, which has family ids.
    """
    if groups is None:
        return cohort
    families = None if groups.ids == IID else _family_ids(cohort, source)
    placed = place_groups(groups, cohort.sample_ids, families)
    dataset = cohort.dataset.assign(sample_population=("samples", placed.population))
    if placed.columns:
        dataset = dataset.assign(
            sample_group=(("samples", "group_columns"), placed.further),
            group_column_id=("group_columns", np.array(placed.columns)),
        )
    return Cohort(cohort.url, dataset)


def _family_ids(cohort: Cohort, source: str) -> list[str] | None:
    name = "sample_family_id"
    if name in cohort.dataset:
        return cohort.dataset[name].values.astype(str).tolist()
    if not source_files.needs_import(source):
        return None
    found = source_files.find_files([source])
    tables = [path for path in found.companions if path.suffix == ".fam"]
    return source_people.read_fam(tables[0]).family_ids if tables else None
