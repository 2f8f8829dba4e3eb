"""Text tables of PLINK and BGEN: fields of each line, ids checked.

Reads .bim, .fam, .pvar, .psam and .sample files as a stream; writes nothing.
"""

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow

from pipeline.errors import InputError

RENAME = "rename or remove one of the two"


@contextlib.contextmanager
def _lines(table: Path) -> Iterator[Iterator[str]]:
    if table.suffix != ".zst":
        with table.open() as text:
            yield text
        return
    with (
        pyarrow.input_stream(str(table), compression="zstd") as stream,
        io.TextIOWrapper(io.BufferedReader(stream)) as text,
    ):
        yield text


def read_rows(
    table: Path, n_columns: int | None = None
) -> Iterator[tuple[int, list[str]]]:
    """Line number from 1, and fields, of each line that is not empty.

    Parameters
    ----------
    table
        The file; a name that ends in .zst says that it is compressed.
    n_columns
        Number of the first fields to split off; what follows is one more field. None
        splits off all.

    Raises
    ------
    InputError
        If the file is not text, or not compressed as its name says.
    """
    limit = -1 if n_columns is None else n_columns
    try:
        with _lines(table) as lines:
            for number, line in enumerate(lines, start=1):
                fields = line.split(None, limit)
                if fields:
                    yield number, fields
    except (UnicodeDecodeError, pyarrow.ArrowException) as error:
        raise InputError(
            f"{table} is not text, or cut short ({error}); write it again"
        ) from error
    except OSError as error:
        raise InputError(f"{table} cannot be read ({error}); write it again") from error


def read_rows_of(table: Path, n_columns: int) -> Iterator[list[str]]:
    """Fields of each line that is not empty, of a table of so many columns.

    Raises
    ------
    InputError
        If a line has another number, or as `read_rows`.
    """
    for number, fields in read_rows(table):
        if len(fields) != n_columns:
            raise InputError(
                f"{table} line {number} has {len(fields)} columns, not {n_columns}; "
                "repair it"
            )
        yield fields


def check_width(
    table: Path, number: int, fields: Sequence[str], n_columns: int
) -> None:
    """Refuse a line that has too few fields.

    Raises
    ------
    InputError
        If so; names the line.
    """
    if len(fields) < n_columns:
        raise InputError(
            f"{table} line {number} has {len(fields)} columns, not {n_columns}; "
            "repair it"
        )


def check_unique(table: Path, sample_ids: Sequence[str], remedy: str = RENAME) -> None:
    """Refuse ids of which one is there twice.

    Parameters
    ----------
    table
        The file that they are of, for the message.
    sample_ids
        The ids.
    remedy
        What to do about it, for the message.

    Raises
    ------
    InputError
        If so; names it and where it is.
    """
    first: dict[str, int] = {}
    for row, sample_id in enumerate(sample_ids, start=1):
        if first.setdefault(sample_id, row) != row:
            raise InputError(
                f"{table}: the id {sample_id!r} is in both row {first[sample_id]} and "
                f"row {row}; {remedy}"
            )


def parse_position(table: Path, row: int, text: str) -> int:
    """Position of a variant.

    Raises
    ------
    InputError
        If it is no whole number, or more than fits in 32 bits.
    """
    is_whole = text.removeprefix("-").isdecimal()
    if not is_whole or abs(int(text)) >= 2**31:
        raise InputError(
            f"{table} row {row}: the position {text!r} is not a whole number of base "
            "pairs; repair it"
        )
    return int(text)
