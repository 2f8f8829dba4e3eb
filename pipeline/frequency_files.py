"""Files of allele frequencies, and of the variants that their lines are of.

Reads P as ADMIXTURE, ADAMIXTURE, fastmixture2 and `streamixture export` write it, and
the .bim file or PREFIX.variants beside it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import counted_allele, variant_list
from pipeline.errors import InputError


@dataclass(frozen=True, eq=False)
class Table:
    """P and what its file says of its variants.

    Attributes
    ----------
    values
        Frequencies, shape (populations, variants).
    counted
        Allele that they are of, if the file says so.
    variants
        Id, allele 1 and allele 2 of each, if it says so.
    """

    values: npt.NDArray[np.float64]
    counted: str | None = None
    variants: list[list[str]] | None = None


_INFO_COLUMNS = ["SNP", "A1", "A2"]


def read_table(path: Path) -> Table:
    """Read P, with or without a header line of SNP, A1, A2 and populations.

    Raises
    ------
    InputError
        If the file cannot be read, or is no table of numbers.
    """
    lines = _read_text(path).splitlines()
    if not any(map(str.strip, lines)):
        raise InputError(f"{path} is empty; give a table of frequencies")
    variants, counted = None, None
    if lines[0].split()[: len(_INFO_COLUMNS)] == _INFO_COLUMNS:
        fields = [line.split() for line in lines[1:] if line.strip()]
        variants = [line[: len(_INFO_COLUMNS)] for line in fields]
        lines = [" ".join(line[len(_INFO_COLUMNS) :]) for line in fields]
        counted = counted_allele.ALTERNATE
        if not all(lines):
            raise InputError(f"{path} has lines without frequencies; write it again")
    try:
        return Table(np.loadtxt(lines, ndmin=2).T, counted, variants)
    except ValueError as error:
        raise InputError(f"{path} is not a table of numbers: {error}") from error


def find_variants(
    keys: dict[str, npt.NDArray[Any]],
    wanted: list[list[str]],
    table: Path,
    variants: Path,
) -> dict[str, npt.NDArray[Any]]:
    """Keys of the variants that a table names by id and alleles, in its order.

    Raises
    ------
    InputError
        If one is not there, or ids do not tell.
    """
    alternates, references = keys["variant_allele"].T[::-1].tolist()
    have = list(zip(keys["variant_id"].tolist(), alternates, references, strict=True))
    names = [(line[0], line[1], line[2]) for line in wanted]
    if have == names:
        return keys
    place = {name: row for row, name in enumerate(have)}
    if len(place) < len(have):
        raise InputError(
            f"{variants} has ids that name several variants, so that those of {table} "
            "cannot be found; give the .bim file of these variants alone"
        )
    for number, name in enumerate(names, start=2):
        if name not in place:
            raise InputError(
                f"{table}, line {number}: variant {name[0]} with alleles {name[1]} and "
                f"{name[2]} is not in {variants}; give the .bim file that it was "
                "fitted to"
            )
    rows = [place[name] for name in names]
    return {name: values[rows] for name, values in keys.items()}


def _read_text(path: Path) -> str:
    try:
        return path.read_text()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text; check the path") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; check the path") from error


# Columns of contig, position, id, reference and alternate allele.
_PLINK_COLUMNS, _EXPORT_COLUMNS = (0, 3, 1, 5, 4), (0, 1, 2, 3, 4)


def read_variants(path: Path) -> tuple[dict[str, npt.NDArray[Any]], str | None]:
    """Keys of the variants of a file, and which allele it says that P counts.

    Raises
    ------
    InputError
        If the file cannot be read, or a line is not one of a variant.
    """
    is_plink = path.suffix == ".bim"
    columns = _PLINK_COLUMNS if is_plink else _EXPORT_COLUMNS
    lines = _read_text(path).splitlines()
    counts: set[str] = set()
    says = not is_plink and tuple(lines[:1]) == ("\t".join(variant_list.COLUMNS),)
    rows = []
    for number, line in enumerate(
        filter(str.strip, lines if is_plink else lines[1:]), start=1
    ):
        found = line.split() if is_plink else line.split("\t")
        if len(found) <= max(columns) or not found[columns[1]].isdecimal():
            raise InputError(
                f"{path} variant {number} is {line!r}; it needs contig, position, id "
                "and two alleles"
            )
        rows.append([found[column] for column in columns])
        if says:
            counts.add(found[len(columns)] if len(found) > len(columns) else "")
    table = np.array(rows, np.str_).reshape(-1, len(columns))
    keys = {
        "variant_contig_name": table[:, 0],
        "variant_position": table[:, 1].astype(np.int64),
        "variant_allele": table[:, 3:],
        "variant_id": table[:, 2],
    }
    if not counts:
        return keys, None
    if len(counts) > 1 or not counts <= set(counted_allele.NUMBERS):
        raise InputError(
            f"{path}: the column counted has {', '.join(sorted(counts))}; it must be "
            "alternate or reference, the same in all lines"
        )
    return keys, counts.pop()
