"""Where an import is made, so that it can go on after it was interrupted.

A store is built in `.NAME.import` beside its destination and renamed into place when
whole. Invariant: the folder holds the work of one set of source files; what bad input
left there is deleted, what an interruption left is kept.
"""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline import lock, provenance, vcf_zarr
from pipeline.errors import InputError
from pipeline.location import Location, RemotePath, locate

_INPUTS = "inputs.json"
_BUILT = "built"


def build_store(
    destination: str | Location,
    digest: str,
    make: Callable[[Path], None],
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> None:
    """Make a store, or finish one that was begun, and move it into place.

    Parameters
    ----------
    destination
        Where the finished store goes. Missing parent folders are made. Of an object
        store, the work is done in the temporary directory and never continued.
    digest
        Tells the source files.
    make
        Called with a folder, to write the store as `store` in it; finds there what it
        left when it was interrupted.
    resume
        Continue what was begun.
    overwrite
        Start afresh, and replace a Zarr store that is at the destination.

    Raises
    ------
    InputError
        If the destination exists, was begun already, or was begun from other files.
    """
    target = locate(destination)
    if isinstance(target, RemotePath):
        with vcf_zarr.new_store(target, overwrite=overwrite) as store:
            make(store.parent)
        return
    work = target.with_name(f".{target.name}.import")
    is_built = resume and (work / _BUILT).exists()
    if not is_built:
        vcf_zarr.check_replaceable(target, overwrite=overwrite)
    if work.exists() and not (resume or overwrite):
        raise InputError(
            f"{target} was begun in {work.name}; pass --resume to finish it, "
            "--overwrite to start afresh, or name another output"
        )
    with _parents(work), _held(work, target, afresh=not resume):
        _check_inputs(work / _INPUTS, digest, target)
        if not is_built:
            _make(make, work)
        if resume:
            # Chunks that a killed process had not yet renamed.
            for path in (work / "store").rglob("*.partial"):
                path.unlink()
        _move(work, target)


@contextlib.contextmanager
def _parents(work: Path) -> Iterator[None]:
    """Make the folders above, and remove those made that stay empty."""
    made = [path for path in work.parents if not path.exists()]
    work.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            for path in made:
                path.rmdir()


@contextlib.contextmanager
def _held(work: Path, target: Path, *, afresh: bool) -> Iterator[None]:
    work.mkdir(exist_ok=True)
    with lock.hold(work / "lock", target):
        if afresh:
            for path in work.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name != "lock":
                    path.unlink()
        yield


def _check_inputs(kept: Path, digest: str, target: Path) -> None:
    if not kept.exists():
        provenance.write_json(kept, digest)
    elif json.loads(kept.read_text()) != digest:
        raise InputError(
            f"{target} was begun from other files, or they have changed since; restore "
            "them to --resume, or --overwrite to start afresh"
        )


def _make(make: Callable[[Path], None], work: Path) -> None:
    try:
        make(work)
    except InputError:
        shutil.rmtree(work)
        raise
    (work / _BUILT).touch()


def _move(work: Path, target: Path) -> None:
    """Put the store in place; whenever this is cut short, it can be repeated."""
    if (work / "store").exists():
        if target.exists():
            shutil.rmtree(work / "replaced", ignore_errors=True)
            target.rename(work / "replaced")
        (work / "store").rename(target)
    shutil.rmtree(work)
