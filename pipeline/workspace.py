"""Where results are made: what is finished, what is under way, who holds it.

A run builds everything in `OUTPUT/.work`, a stage on its own in `.STORE.work` beside
its store, and moves it into place at the end, so that a reader sees the earlier results
or the new ones. On an object store, where nothing can be moved, it builds in a version
folder, which a small object names until it is published. A lock keeps two runs apart.
"""

import contextlib
import errno
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import lock, prepared, provenance, publication, store
from pipeline.errors import InputError
from pipeline.location import Location, RemotePath, delete_tree, locate

STORES = {
    "prepared.zarr": "prepared",
    "model.zarr": "model",
    "ancestry.zarr": "ancestry",
}
FILES = ("report.html", "run.json")
_WORK = ".work"
_RESULTS = "results"  # versions of them on an object store
_INPUTS = "inputs.json"


@dataclass(frozen=True)
class Workspace:
    """Results, and the directory that they are built in.

    Attributes
    ----------
    output
        The directory, or the one store, that is asked for.
    work
        Where unfinished results are.
    targets
        Where each result goes, by name. When the last is in place, all are.
    begun
        What exists until all is published: `work`, or on an object store the object
        that names it.
    check_lock
        Raises InputError if the output is no longer this run's.
    """

    output: Location
    work: Location
    targets: Mapping[str, Location]
    begun: Location
    check_lock: lock.Check = lambda: None

    def building(self, name: str) -> Location:
        """Where a store or file is built."""
        return self.work / name

    def is_built(self, name: str) -> bool:
        """Whether a store of this run is finished, though not published."""
        return store.is_complete(self.building(name), STORES[name])

    @property
    def has_progress(self) -> bool:
        """Whether blocks or rounds, or what came of them, would be lost."""
        packed = self.building(prepared.CANDIDATES)
        return (
            self.building("rounds").exists()
            or self.is_built("model.zarr")
            or store.has_blocks(packed, prepared.KIND)
            or any(store.is_under_way(self.building(name)) for name in STORES)
        )

    def finished(self) -> dict[str, Any] | None:
        """Contents of run.json, or attributes of the one store that is asked for.

        None while not all is built. It need not be published.
        """
        *_, (name, target) = self.targets.items()
        built = _read_finished(name, self.building(name))
        if built is not None or (self.work / _INPUTS).exists():
            return built
        return _read_finished(name, publication.resolve(target))

    def conclude(self, stamp: str) -> dict[str, Any] | None:
        """Publish what is left of a run that has all stages done.

        Parameters
        ----------
        stamp
            Fingerprint of the inputs.

        Returns
        -------
        What `finished` returns.

        Raises
        ------
        InputError
            If it had other inputs.
        """
        finished = self.finished()
        if finished is None:
            return None
        if finished["stamp"] != stamp:
            raise InputError(
                f"{self.output}: the finished run had another cohort, configuration "
                "or software; pass --overwrite to replace it"
            )
        self.publish()
        return finished

    def publish(self) -> None:
        """Move what was built, and is not in place already, into place.

        Whenever this is cut short, `finished` tells so and it can be repeated: the
        inputs of the run under way go just before the last of the results is moved.
        """
        self.check_lock()
        if isinstance(self.work, RemotePath):
            publication.publish(self.work, _remote(self.targets))
            self.begun.unlink()
            return
        *_, last = self.targets
        for name, target in self.targets.items():
            if name == last:
                (self.work / _INPUTS).unlink(missing_ok=True)
            if self.building(name).exists():
                store.publish(self.building(name), target)
        delete_tree(self.work)

    def discard(self) -> None:
        """Delete what was begun."""
        delete_tree(self.work, ignore_errors=True)
        if isinstance(self.begun, RemotePath):
            self.begun.unlink(missing_ok=True)

    def check_inputs(self, inputs: dict[str, Any]) -> None:
        """Refuse to continue a run that had another cohort or configuration.

        Raises
        ------
        InputError
            If they differ; the message names the first difference.
        """
        path = self.work / _INPUTS
        if not path.exists():
            provenance.write_json(path, inputs)
            return
        found = json.loads(path.read_text())
        wanted = json.loads(json.dumps(inputs))
        for key in {**wanted, **found}:
            if found.get(key) != wanted.get(key):
                raise InputError(
                    f"{self.output}: the unfinished run has another {key}; run with "
                    "the same inputs to --resume, or --overwrite to start afresh"
                )


def _remote(targets: Mapping[str, Location]) -> dict[str, RemotePath]:
    return {k: path for k, path in targets.items() if isinstance(path, RemotePath)}


def _read_finished(name: str, path: Location) -> dict[str, Any] | None:
    if name in STORES:
        kind = STORES[name]
        if not store.is_complete(path, kind):
            return None
        return store.Store.open(path, kind).attrs
    return json.loads(path.read_text()) if path.exists() else None


def check_apart(source: str, output: Location) -> None:
    """Refuse results inside the cohort that they are of, or in its place.

    Raises
    ------
    InputError
        If one would be written into the other, or replace it.
    """
    read, written = _parts(locate(source)), _parts(output)
    if written[: len(read)] == read:
        raise InputError(
            f"{output} is in the cohort {source} itself; name another --output"
        )
    for name in (*STORES, _WORK):
        if read[: len(written) + 1] == (*written, name):
            raise InputError(
                f"{source} is where the results of {output} go; name another --output"
            )


def _parts(path: Location) -> tuple[str, ...]:
    if isinstance(path, RemotePath):
        return tuple(str(path).split("/"))
    return path.resolve().parts


@contextlib.contextmanager
def open_workspace(
    output: Location, *, resume: bool, overwrite: bool
) -> Iterator[Workspace]:
    """Take hold of a run's output directory until the block ends.

    If the block raises InputError before anything was done that could be continued,
    nothing is left behind.

    Parameters
    ----------
    output
        The directory; made if missing.
    resume
        Continue what an interrupted run left.
    overwrite
        Start afresh, and replace earlier results once the new ones are finished.

    Raises
    ------
    InputError
        If results exist and neither is set, or another run is at work.
    """
    planned = plan_workspace(output, resume=resume, overwrite=overwrite)
    with _hold(planned, _RESULTS, afresh=overwrite and not resume) as workspace:
        yield workspace


def plan_workspace(output: Location, *, resume: bool, overwrite: bool) -> Workspace:
    """The workspace of a run's output directory, of which nobody takes hold yet.

    Raises
    ------
    InputError
        If results exist and neither is set.
    """
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file; name a directory for --output")
    targets = {name: output / name for name in (*STORES, *FILES)}
    planned = _plan(output, output / _WORK, targets)
    places = (*targets.values(), planned.begun)
    existing = [place.name for place in places if place.exists()]
    if existing and not (resume or overwrite):
        raise InputError(
            f"{output} has {existing[0]} already; pass --resume to finish an "
            "interrupted run, --overwrite to replace it, or name another --output"
        )
    return planned


@contextlib.contextmanager
def open_store_workspace(
    output: Location, name: str, *, resume: bool, overwrite: bool
) -> Iterator[Workspace]:
    """Take hold of the place of one store until the block ends, as `open_workspace`.

    Parameters
    ----------
    output
        The store to make.
    name
        What a run calls such a store.
    resume, overwrite
        As for a run.

    Raises
    ------
    InputError
        If the store exists, finished or not, and neither is set, if something else is
        there, or if another run is at work.
    """
    hidden = f".{output.name}"
    planned = _plan(output, output.with_name(hidden + _WORK), {name: output})
    published = publication.resolve(output)
    if not (resume or overwrite):
        _check_absent(output, published, planned.begun)
    elif published.exists():
        store.Store.open(published, STORES[name])
    with _hold(planned, hidden, afresh=overwrite and not resume) as workspace:
        yield workspace


def _plan(output: Location, work: Location, targets: dict[str, Location]) -> Workspace:
    """A workspace as it is on a local file system, or as it starts on another."""
    is_remote = isinstance(work, RemotePath)
    begun = work.with_name(f"{work.name}.json") if is_remote else work
    return Workspace(output, work, targets, begun)


def _check_absent(output: Location, published: Location, begun: Location) -> None:
    if published.exists():
        raise InputError(
            f"{output} exists already; pass --overwrite to replace it, or name another "
            "--output"
        )
    if begun.exists():
        raise InputError(
            f"{output} was begun in {begun.name}; pass --resume to finish it, "
            "--overwrite to start afresh, or name another --output"
        )


class _Held(NamedTuple):
    workspace: Workspace
    continues: bool


@contextlib.contextmanager
def _hold(planned: Workspace, name: str, *, afresh: bool) -> Iterator[Workspace]:
    """Hold a workspace; what bad input left there is deleted, if nobody needs it."""
    if isinstance(planned.work, RemotePath):
        opened = _hold_version(planned, planned.work, name, afresh=afresh)
    else:
        opened = _hold_folder(planned, planned.work, afresh=afresh)
    with opened as (workspace, continues):
        try:
            yield workspace
        except InputError:
            # The error may be that the output cannot be reached.
            with contextlib.suppress(InputError):
                if not (continues or workspace.has_progress):
                    workspace.discard()
            raise


@contextlib.contextmanager
def _hold_folder(planned: Workspace, work: Path, *, afresh: bool) -> Iterator[_Held]:
    is_new = not work.parent.exists()
    continues = work.exists() and not afresh
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(
            f"{planned.output} cannot be made ({error.strerror}: {error.filename}); "
            "name another --output"
        ) from error
    try:
        with lock.hold(work / "lock", planned.output):
            if afresh:
                _clear(work)
            yield _Held(planned, continues)
    finally:
        if is_new and not work.exists():
            with contextlib.suppress(OSError):
                work.parent.rmdir()


def _clear(work: Path) -> None:
    for path in work.iterdir():
        if path.is_dir():
            delete_tree(path)
        elif path.name != "lock":
            path.unlink()


@contextlib.contextmanager
def _hold_version(
    planned: Workspace, work: RemotePath, name: str, *, afresh: bool
) -> Iterator[_Held]:
    """Hold the version folder under way, or start one with the name given."""
    with lock.hold(work.with_name(f"{work.name}.lock"), planned.output) as check:
        continues = planned.begun.exists() and not afresh
        if not continues:
            state = {"version": publication.new_version(name)}
            provenance.write_json(planned.begun, state)
        version = work.with_name(json.loads(planned.begun.read_text())["version"])
        *_, last = _remote(planned.targets).values()
        publication.sweep(version, last)
        yield _Held(replace(planned, work=version, check_lock=check), continues)
