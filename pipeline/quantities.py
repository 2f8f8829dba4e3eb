"""Amounts of memory and of time, as people write them."""

import math

from pipeline.errors import InputError


def parse_memory(
    text: str, option: str = "--worker-memory", *, at_least: int = 0
) -> int:
    """Bytes that a text such as 700MiB or 4GB stands for, of a worker's memory.

    Parameters
    ----------
    text
        The text.
    option
        Where it was given, for the error.
    at_least
        Bytes that any worker takes.

    Raises
    ------
    InputError
        If it stands for none, or for less than any worker takes.

    >>> parse_memory("700MiB")
    734003200
    """
    from dask.utils import parse_bytes

    try:
        found = int(parse_bytes(text))
    except ValueError:
        raise InputError(
            f"{text} is no amount of memory; give {option} as in 700MiB"
        ) from None
    if found < at_least:
        raise InputError(
            f"a worker of {text} would be killed as it loads its libraries; give "
            f"{option} at least {at_least // 2**20}MiB"
        )
    return found


def parse_duration(text: str, option: str) -> float:
    """Seconds that a text such as 90s or 24h stands for; above 0.

    Parameters
    ----------
    text
        The text.
    option
        Where it was given, for the error.

    Raises
    ------
    InputError
        If it stands for none.

    >>> parse_duration("1.5h", "slurm.max_wait")
    5400.0
    """
    from dask.utils import parse_timedelta

    seconds = 0.0
    try:
        seconds = float(parse_timedelta(text))
    except (ValueError, KeyError, TypeError):
        pass
    if not 0 < seconds < math.inf:
        raise InputError(f"{text} is no length of time; give {option} as in 24h")
    return seconds


def count_things(n: int, one: str, several: str) -> str:
    """A number with the word for what it counts.

    >>> count_things(1, "pair", "pairs"), count_things(1200, "pair", "pairs")
    ('1 pair', '1,200 pairs')
    """
    return f"{n:,} {one if n == 1 else several}"
