"""Where results are made: what is finished, what is under way, who holds it.

A run builds everything in `OUTPUT/.work`, a stage on its own in `.STORE.work` beside
its store, and moves it into place at the end, so that a reader sees the earlier results
or the new ones. A lock keeps two runs apart; the system releases it when its holder
dies, however it dies.
"""

import contextlib
import fcntl
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import provenance, store
from pipeline.errors import InputError

STORES = {
    "prepared.zarr": "prepared",
    "model.zarr": "model",
    "ancestry.zarr": "ancestry",
}
FILES = ("report.html", "run.json")
_WORK = ".work"
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
    """

    output: Path
    work: Path
    targets: dict[str, Path]

    def building(self, name: str) -> Path:
        """Where a store or file is built."""
        return self.work / name

    def is_built(self, name: str) -> bool:
        """Whether a store of this run is finished, though not published."""
        return store.is_complete(self.building(name), STORES[name])

    @property
    def has_progress(self) -> bool:
        """Whether blocks or rounds, or what came of them, would be lost."""
        return (
            self.building("rounds").exists()
            or self.is_built("model.zarr")
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
        return _read_finished(name, target)

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
        *_, last = self.targets
        for name, target in self.targets.items():
            if name == last:
                (self.work / _INPUTS).unlink(missing_ok=True)
            if self.building(name).exists():
                store.publish(self.building(name), target)
        shutil.rmtree(self.work)

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
        for key, value in json.loads(json.dumps(inputs)).items():
            if found.get(key) != value:
                raise InputError(
                    f"{self.output}: the unfinished run has another {key}; run with "
                    "the same inputs to --resume, or --overwrite to start afresh"
                )


def _read_finished(name: str, path: Path) -> dict[str, Any] | None:
    if name in STORES:
        kind = STORES[name]
        if not store.is_complete(path, kind):
            return None
        return store.Store.open(path, kind).attrs
    return json.loads(path.read_text()) if path.exists() else None


@contextlib.contextmanager
def open_workspace(
    output: Path, *, resume: bool, overwrite: bool
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
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file; name a directory for --output")
    targets = {name: output / name for name in (*STORES, *FILES)}
    existing = [n for n in (*targets, _WORK) if (output / n).exists()]
    if existing and not (resume or overwrite):
        raise InputError(
            f"{output} has {existing[0]} already; pass --resume to finish an "
            "interrupted run, --overwrite to replace it, or name another --output"
        )
    workspace = Workspace(output, output / _WORK, targets)
    with _hold(workspace, resume=resume, overwrite=overwrite):
        yield workspace


@contextlib.contextmanager
def open_store_workspace(
    output: Path, name: str, *, resume: bool, overwrite: bool
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
    work = output.with_name(f".{output.name}{_WORK}")
    if not (resume or overwrite):
        _check_absent(output, work)
    elif output.exists():
        store.Store.open(output, STORES[name])
    workspace = Workspace(output, work, {name: output})
    with _hold(workspace, resume=resume, overwrite=overwrite):
        yield workspace


def _check_absent(output: Path, work: Path) -> None:
    if output.exists():
        raise InputError(
            f"{output} exists already; pass --overwrite to replace it, or name another "
            "--output"
        )
    if work.exists():
        raise InputError(
            f"{output} was begun in {work.name}; pass --resume to finish it, "
            "--overwrite to start afresh, or name another --output"
        )


@contextlib.contextmanager
def _hold(workspace: Workspace, *, resume: bool, overwrite: bool) -> Iterator[None]:
    work = workspace.work
    is_new = not work.parent.exists()
    continues = resume and work.exists()
    work.mkdir(parents=True, exist_ok=True)
    with _lock(workspace):
        if overwrite and not resume:
            _clear(work)
        try:
            yield
        except InputError:
            if not (continues or workspace.has_progress):
                shutil.rmtree(work, ignore_errors=True)
                if is_new:
                    with contextlib.suppress(OSError):
                        work.parent.rmdir()
            raise


@contextlib.contextmanager
def _lock(workspace: Workspace) -> Iterator[None]:
    with (workspace.work / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{workspace.output}: another run is at work there; wait for it, "
                "or name another --output"
            ) from None
        yield


def _clear(work: Path) -> None:
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "lock":
            path.unlink()
