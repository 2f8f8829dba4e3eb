"""The versions of a result that is reprocessed: which is current, which are kept.

    OUTPUT/version-0000000000000003/   ancestry.zarr, model.zarr, report.html, run.json
    OUTPUT/current                     link to the version that is published
    OUTPUT/ancestry.zarr, ...          links through it
    OUTPUT/journal.jsonl               what each run changed
    OUTPUT/seen.json                   the cohort and settings that were dealt with

On an object store there are no links: `run.json` points to the version, as
`publication` has it, and is the last thing written. Invariants: a version with a
`run.json` of its own is whole; the one that is current was published in one step.
"""

import contextlib
import datetime
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline import lock, provenance, publication
from pipeline.errors import BusyError, InputError
from pipeline.location import (
    Location,
    RemotePath,
    delete_tree,
    files_below,
    replacing,
)

ANCESTRY, MODEL, REPORT = "ancestry.zarr", "model.zarr", "report.html"
RECORD = publication.RUN_FILE
_CURRENT = "current"
_PREFIX = "version-"
_JOURNAL = "journal.jsonl"
_SEEN = "seen.json"
LOCK = ".lock"
_RUNS_LISTED = 20

Record = dict[str, Any]


def version_path(output: Location, number: int) -> Location:
    """Folder of a version."""
    # Sixteen digits are how `publication` knows the folder of a version.
    return output / f"{_PREFIX}{number:016d}"


def _number(name: str) -> int | None:
    digits = name.removeprefix(_PREFIX)
    return int(digits) if name.startswith(_PREFIX) and digits.isdigit() else None


def current(output: Location) -> int | None:
    """Number of the version that readers see; None before the first."""
    if isinstance(output, RemotePath):
        target = publication.published_version(output / RECORD)
        return None if target is None else _number(target.name)
    with contextlib.suppress(FileNotFoundError):
        return _number(os.readlink(output / _CURRENT))
    return None


def numbers(output: Location) -> list[int]:
    """Numbers of the versions that are whole, rising."""
    if not output.is_dir():
        return []
    found = ((_number(item.name), item) for item in output.iterdir())
    return sorted(n for n, item in found if n is not None and _is_whole(item))


def _is_whole(version: Location) -> bool:
    return (version / RECORD).is_file()


def read_record(output: Location, number: int) -> Record:
    """What a version was made of."""
    return _read_json(version_path(output, number) / RECORD)


def _read_json(path: Location) -> Record:
    return dict(json.loads(path.read_text()))


def read_journal(output: Location) -> list[Record]:
    """What each run changed, the earliest first."""
    if not (output / _JOURNAL).is_file():
        return []
    return [json.loads(line) for line in (output / _JOURNAL).read_text().splitlines()]


def append_journal(output: Location, entry: Mapping[str, Any]) -> None:
    """Write down what a run changed."""
    lines = [json.dumps(each) for each in (*read_journal(output), entry)]
    with replacing(output / _JOURNAL) as file:
        file.write("".join(f"{line}\n" for line in lines).encode())


def read_seen(output: Location) -> Record | None:
    """The cohort and settings that the last run dealt with."""
    path = output / _SEEN
    return _read_json(path) if path.is_file() else None


def write_seen(output: Location, seen: Mapping[str, Any]) -> None:
    """Keep the cohort and settings that were dealt with, last of all."""
    provenance.write_json(output / _SEEN, seen)


def seen_with(record: Record) -> Record:
    """What was dealt with when a version was published, for the next run to compare."""
    kept = ("version", "source", "fit_settings", "apply_settings", "refit_due")
    return {name: record[name] for name in kept}


def now() -> str:
    """The time of day, for records; no store has one."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def next_number(output: Location) -> int:
    """Number that no version ever had."""
    used = [entry.get("version") or 0 for entry in read_journal(output)]
    return max((*used, *numbers(output), 0)) + 1


def publish(output: Location, number: int, check: lock.Check) -> None:
    """Show readers a version that is whole, in place of the one they see.

    Parameters
    ----------
    output
        The results.
    number
        The version.
    check
        Raises BusyError if another run took over.
    """
    check()
    version = version_path(output, number)
    assert _is_whole(version), f"{version} is not whole"
    if isinstance(output, RemotePath):
        assert isinstance(version, RemotePath), "beside the pointer"
        publication.point(output / RECORD, version / RECORD)
        return
    _link(output / _CURRENT, version.name)
    for name in (ANCESTRY, MODEL, REPORT, RECORD):
        if not (output / name).is_symlink():
            _link(output / name, f"{_CURRENT}/{name}")


def _link(path: Path, target: str) -> None:
    """Make a link, or replace one in one step."""
    temporary = path.with_name(f".{path.name}.partial")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, path)


def carry_over(output: Location, number: int, target: int, name: str) -> None:
    """Give a version a store of an earlier one, which is not written again."""
    source = version_path(output, number) / name
    copy = version_path(output, target) / name
    delete_tree(copy)
    for key in files_below(source):
        if isinstance(source, RemotePath):
            assert isinstance(copy, RemotePath), "beside the source"
            (copy / key).write_bytes((source / key).read_bytes())
            continue
        file = Path(str(copy)) / key
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            # Nothing in a version is ever written to, so two may share a file.
            os.link(source / key, file)
        except OSError:
            shutil.copyfile(source / key, file)


def mend(output: Location) -> None:
    """Finish what a run that was killed while it published left.

    A version that readers see is written down; one that they never saw goes.
    """
    shown = current(output)
    known = {entry.get("version") for entry in read_journal(output)}
    if shown is not None and shown not in known:
        record = read_record(output, shown)
        write_seen(output, seen_with(record))
        append_journal(output, journal_entry(record))
    if not output.is_dir():
        return
    items: list[Location] = list(output.iterdir())
    for item in items:
        number = _number(item.name)
        if number is None or number == shown:
            continue
        if number not in known or not _is_whole(item):
            delete_version(output, number)


def journal_entry(record: Record) -> Record:
    """What the journal says of a version: all but how the cohort's files looked."""
    return {k: v for k, v in record.items() if k not in ("source", "location")}


def delete_version(output: Location, number: int) -> None:
    """Delete a version, which is no longer whole from the first step on."""
    version = version_path(output, number)
    (version / RECORD).unlink(missing_ok=True)
    delete_tree(version)


def retain(output: Location, n_kept: int) -> list[int]:
    """Delete the oldest versions, never the current one.

    Returns
    -------
    Numbers of those deleted.
    """
    shown = current(output)
    others = [number for number in numbers(output) if number != shown]
    surplus = others[: max(len(others) - (n_kept - 1), 0)]
    for number in surplus:
        delete_version(output, number)
    return surplus


def roll_back(output: Location, number: int | None) -> int:
    """Show readers an earlier version again, until the cohort or a setting changes.

    Parameters
    ----------
    output
        The results.
    number
        The version; None for the one before the current one.

    Returns
    -------
    The version shown now.

    Raises
    ------
    InputError
        If there is no such version.
    BusyError
        If a run is at work.
    """
    shown = current(output)
    if shown is None:
        raise InputError(f"{output} has no version yet; run reprocess first")
    with lock.hold(output / LOCK, output) as check:
        mend(output)
        kept = numbers(output)
        earlier = [each for each in kept if each < shown]
        if number is None and not earlier:
            raise InputError(
                f"{output} has no version before {shown}; --status lists what is kept"
            )
        target = earlier[-1] if number is None else number
        if target not in kept:
            raise InputError(
                f"{output} has no version {target}; kept are "
                f"{', '.join(map(str, kept))}"
            )
        if target != shown:
            publish(output, target, check)
            append_journal(
                output,
                {
                    "cause": "roll-back",
                    "created": now(),
                    "shown": target,
                    "from": shown,
                },
            )
    return target


def is_held(output: Location) -> bool:
    """Whether a run is at work."""
    if isinstance(output, RemotePath):
        return (output / LOCK).exists()
    if not (output / LOCK).exists():
        return False
    try:
        with lock.hold(output / LOCK, output):
            return False
    except BusyError:
        return True


def describe(output: Location) -> list[str]:
    """Versions and the last runs, a line each, for an operator."""
    shown = current(output)
    if shown is None:
        return [f"{output}: no version yet"]
    busy = "; a run is at work" if is_held(output) else ""
    kept = ", ".join(
        f"{n} (current)" if n == shown else str(n) for n in numbers(output)
    )
    lines = [f"{output}: versions {kept}{busy}"]
    lines += [_describe_entry(entry) for entry in read_journal(output)[-_RUNS_LISTED:]]
    return lines


def _describe_entry(entry: Record) -> str:
    if entry["cause"] == "roll-back":
        return (
            f"{entry['created']}  rolled back from {entry['from']} to {entry['shown']}"
        )
    people = ", ".join(f"{n} {what}" for what, n in entry["people"].items())
    line = (
        f"{entry['created']}  version {entry['version']}: {entry['cause']}, "
        f"K = {entry['n_populations']}; people: {people}"
    )
    for name, said in (("refit_reasons", "because"), ("refit_due", "refit due:")):
        if entry.get(name):
            line += f"; {said} {', '.join(entry[name])}"
    return line
