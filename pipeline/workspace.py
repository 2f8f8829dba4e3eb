"""The output directory of a run: what is finished, what is under way, who holds it.

Everything is built under `.work` and moved into place at the end, so that a reader
sees the earlier results or the new ones. A lock keeps two runs apart; the system
releases it when its holder dies, however it dies.
"""

import contextlib
import fcntl
import json
import shutil
import tempfile
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
    """An output directory.

    Attributes
    ----------
    output
        Where finished results are.
    """

    output: Path

    @property
    def work(self) -> Path:
        """Where unfinished results are."""
        return self.output / _WORK

    def building(self, name: str) -> Path:
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
        for name in (*STORES, *FILES):
            if name == "run.json":
                (self.work / _INPUTS).unlink(missing_ok=True)
            if self.building(name).exists():
                store.publish(self.building(name), self.output / name)
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


def _existing(output: Path) -> list[str]:
    return [n for n in (*STORES, *FILES, _WORK) if (output / n).exists()]


@contextlib.contextmanager
def open_workspace(
    output: Path, *, resume: bool, overwrite: bool
) -> Iterator[Workspace]:
    """Take hold of an output directory until the block ends.

    If the block raises InputError before the fit began, nothing is left behind.

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
    existing = _existing(output)
    if existing and not (resume or overwrite):
        raise InputError(
            f"{output} has {existing[0]} already; pass --resume to finish an "
            "interrupted run, --overwrite to replace it, or name another --output"
        )
    is_new = not output.exists()
    workspace = Workspace(output)
    continues = resume and workspace.work.exists()
    workspace.work.mkdir(parents=True, exist_ok=True)
    with _lock(workspace.work / "lock"):
        if overwrite and not resume:
            _clear(workspace.work)
        try:
            yield workspace
        except InputError:
            if not (continues or workspace.has_fit):
                shutil.rmtree(workspace.work, ignore_errors=True)
                if is_new:
                    with contextlib.suppress(OSError):
                        output.rmdir()
            raise


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{path.parent.parent}: another run is at work there; wait for it, "
                "or name another --output"
            ) from None
        yield


def _clear(work: Path) -> None:
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "lock":
            path.unlink()


def check_output(path: Path, kind: str, *, overwrite: bool) -> None:
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
    store.Store.open(path, kind)


@contextlib.contextmanager
def build_beside(output: Path) -> Iterator[Path]:
    """Yield a scratch directory on the output's file system, deleted afterwards."""
    output.parent.mkdir(parents=True, exist_ok=True)
    name = tempfile.mkdtemp(".partial", f".{output.name}.", output.parent)
    try:
        yield Path(name)
    finally:
        shutil.rmtree(name, ignore_errors=True)
