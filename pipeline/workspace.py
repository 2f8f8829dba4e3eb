"""The output directory of a run: what is finished, what is under way, who holds it.

Everything is built under `.work` and moved into place at the end, so that a reader
sees the earlier results or the new ones. Where nothing can be moved, on an object
store, it is built in a version folder, and run.json, written last, names the version.
A lock keeps two runs apart.
"""

import contextlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import lock, provenance, publication, store
from pipeline.errors import InputError
from pipeline.location import Location, RemotePath, delete_tree

STORES = {
    "prepared.zarr": "prepared",
    "model.zarr": "model",
    "ancestry.zarr": "ancestry",
}
FILES = ("report.html", "run.json")
_WORK = ".work"
# On an object store: what names the version under way, and names of versions.
_STATE = ".work.json"
_VERSION = re.compile("results-[0-9a-f]{16}")
_INPUTS = "inputs.json"


@dataclass(frozen=True)
class Workspace:
    """An output directory.

    Attributes
    ----------
    output
        Where finished results are.
    version
        On an object store, the folder of the output that results are built in, and
        stay in when they are published.
    check_lock
        Raises InputError if the output is no longer this run's.
    """

    output: Location
    version: str = _WORK
    check_lock: lock.Check = lambda: None

    @property
    def work(self) -> Location:
        """Where unfinished results are."""
        return self.output / self.version

    def building(self, name: str) -> Location:
        """Where a store or file is built."""
        return self.work / name

    def is_built(self, name: str) -> bool:
        """Whether a store of this run is finished, though not published."""
        return store.is_complete(self.building(name), STORES[name])

    def finished_run(self) -> dict[str, Any] | None:
        """Contents of run.json where all is built, though perhaps not published."""
        built, published = self.building("run.json"), self.output / "run.json"
        if built.exists():
            return json.loads(built.read_text())
        if (self.work / _INPUTS).exists() or not published.exists():
            return None
        return json.loads(published.read_text())

    @property
    def has_fit(self) -> bool:
        """Whether rounds of a fit, or what came of them, would be lost."""
        return self.building("rounds").exists() or self.is_built("model.zarr")

    def publish(self) -> None:
        """Move what was built, and is not in place already, into place.

        Whenever this is cut short, `finished_run` tells so and it can be repeated:
        run.json goes last, and the inputs of the run under way just before it.
        """
        self.check_lock()
        if isinstance(self.output, RemotePath):
            self._point()
            return
        for name in (*STORES, *FILES):
            if name == "run.json":
                (self.work / _INPUTS).unlink(missing_ok=True)
            if self.building(name).exists():
                store.publish(self.building(name), self.output / name)
        delete_tree(self.work)

    def _point(self) -> None:
        """Publish by run.json, which names the version, and delete what is left over.

        run.json of the version goes last: while it is there, this can be repeated.
        """
        built = self.building("run.json")
        if built.exists():
            summary = json.loads(built.read_text())
            provenance.write_json(
                self.output / "run.json", {**summary, "location": self.version}
            )
            for item in self.work.iterdir():
                if item.name not in (*STORES, *FILES):
                    delete_tree(item)
                    item.unlink(missing_ok=True)
            for item in self.output.iterdir():
                if _VERSION.fullmatch(item.name) and item.name != self.version:
                    delete_tree(item)
            built.unlink()
        (self.output / _STATE).unlink(missing_ok=True)

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


def _existing(output: Location) -> list[str]:
    names = (*STORES, *FILES, _WORK, _STATE)
    return [name for name in names if (output / name).exists()]


@contextlib.contextmanager
def open_workspace(
    output: Location, *, resume: bool, overwrite: bool
) -> Iterator[Workspace]:
    """Take hold of an output directory until the block ends.

    If the block raises InputError before the fit began, nothing is left behind.

    Parameters
    ----------
    output
        The directory; made if missing.
    resume
        Continue a run that was interrupted.
    overwrite
        Replace results, once there are new ones.

    Raises
    ------
    InputError
        If results exist and neither is set, or another run is at work.
    """
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file; name a directory for --output")
    existing = _existing(output)
    if existing and not (resume or overwrite):
        raise InputError(
            f"{output} has {existing[0]} already; pass --resume to finish an "
            "interrupted run, --overwrite to replace it, or name another --output"
        )
    afresh = overwrite and not resume
    opened = (
        _open_remote(output, afresh=afresh)
        if isinstance(output, RemotePath)
        else _open_local(output, afresh=afresh)
    )
    with opened as (workspace, continues):
        try:
            yield workspace
        except InputError:
            # The error may be that the output cannot be reached.
            with contextlib.suppress(InputError):
                if not (continues or workspace.has_fit):
                    _discard(workspace)
            raise


class _Opened(NamedTuple):
    workspace: Workspace
    continues: bool


@contextlib.contextmanager
def _open_local(output: Path, *, afresh: bool) -> Iterator[_Opened]:
    is_new = not output.exists()
    workspace = Workspace(output)
    continues = workspace.work.exists() and not afresh
    workspace.work.mkdir(parents=True, exist_ok=True)
    try:
        with lock.hold(output / _WORK / "lock"):
            if afresh:
                _clear(output / _WORK)
            yield _Opened(workspace, continues)
    finally:
        if is_new and not workspace.work.exists():
            with contextlib.suppress(OSError):
                output.rmdir()


@contextlib.contextmanager
def _open_remote(output: RemotePath, *, afresh: bool) -> Iterator[_Opened]:
    with lock.hold(output / ".lock") as check:
        state = output / _STATE
        version = json.loads(state.read_text())["version"] if state.exists() else ""
        continues = bool(version) and not afresh
        if not continues:
            if version and not _is_published(output, version):
                delete_tree(output / version)
            version = publication.new_version("results")
            provenance.write_json(state, {"version": version})
        yield _Opened(Workspace(output, version, check), continues)


def _is_published(output: RemotePath, version: str) -> bool:
    run = output / "run.json"
    return run.exists() and json.loads(run.read_text()).get("location") == version


def _discard(workspace: Workspace) -> None:
    delete_tree(workspace.work, ignore_errors=True)
    if isinstance(workspace.output, RemotePath):
        (workspace.output / _STATE).unlink(missing_ok=True)


def _clear(work: Path) -> None:
    for path in work.iterdir():
        if path.is_dir():
            delete_tree(path)
        elif path.name != "lock":
            path.unlink()


def check_output(path: Location, kind: str, *, overwrite: bool) -> None:
    """Refuse an output that exists, unless it is a store of the kind to replace.

    Raises
    ------
    InputError
        If the path may not be written to.
    """
    if not path.exists():
        return
    if not overwrite:
        raise InputError(
            f"{path} exists already; pass --overwrite to replace it, or name another "
            "--output"
        )
    store.Store.open(publication.resolve(path), kind)


@contextlib.contextmanager
def build_beside(output: Location) -> Iterator[Location]:
    """Yield a scratch directory on the output's file system, deleted afterwards."""
    if isinstance(output, RemotePath):
        with publication.build_beside(output) as folder:
            yield folder
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    name = tempfile.mkdtemp(".partial", f".{output.name}.", output.parent)
    try:
        yield Path(name)
    finally:
        shutil.rmtree(name, ignore_errors=True)
