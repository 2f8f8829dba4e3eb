"""Pieces of an import, each done once, in this process or in several.

A piece that is done leaves a file in a folder of marks, made after all that the piece
wrote, so that an import that was interrupted goes on with the others.
"""

import contextlib
import errno
import multiprocessing
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from pipeline import children
from pipeline.errors import ClusterError, InputError

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
# Of a library's last words, as much as makes one line.
_MOST_CHARACTERS = 200


class LibraryError(Exception):
    """What a reader of foreign files raised, with what it wrote to stderr."""


def complete(
    piece: Callable[[int], None], n_pieces: int, marks: Path, n_workers: int
) -> None:
    """Do the pieces that are not marked yet.

    Parameters
    ----------
    piece
        Called with the number of a piece; it must be picklable, and doing a piece
        again after it was cut short must be harmless.
    n_pieces
        How many there are.
    marks
        Folder of the marks of these pieces; made if missing.
    n_workers
        Processes to use at most; 0 works in this one.

    Raises
    ------
    ClusterError
        If a process died.
    """
    marks.mkdir(exist_ok=True)
    left = [n for n in range(n_pieces) if not (marks / str(n)).exists()]
    if min(n_workers, len(left)) <= 1:
        for number in left:
            piece(number)
            (marks / str(number)).touch()
        return
    with _processes(min(n_workers, len(left))) as executor:
        _complete_in_processes(executor, piece, left, marks)


def _complete_in_processes(
    executor: ProcessPoolExecutor,
    piece: Callable[[int], None],
    left: Sequence[int],
    marks: Path,
) -> None:
    with children.starting():
        numbers = {executor.submit(piece, number): number for number in left}
    try:
        for future in as_completed(numbers):
            future.result()
            (marks / str(numbers[future])).touch()
    except BrokenProcessPool as error:
        raise ClusterError(
            "a process of the import died, perhaps for want of memory; give fewer "
            "--workers, and go on with --resume"
        ) from error


@contextlib.contextmanager
def _processes(n_workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that end at once when the block fails, or when this process dies."""
    before = set(multiprocessing.active_children())
    executor = ProcessPoolExecutor(
        n_workers, multiprocessing.get_context("spawn"), initializer=_follow_parent
    )
    try:
        yield executor
    except BaseException:
        executor.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        raise
    finally:
        executor.shutdown()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "a process of the pool has a parent"

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Keep what C libraries write to stderr for the message of what they raise.

    Raises
    ------
    LibraryError
        In the place of what the block raises, except a full disk and the like.
    """
    with tempfile.TemporaryFile() as said, _redirected(said.fileno()):
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
                raise
            said.seek(0)
            lines = said.read().decode(errors="replace").splitlines()
            reason = " ".join(str(error).split()) or type(error).__name__
            # htslib puts its errors between brackets; the first is the cause.
            causes = [line for line in lines if line.startswith("[E::")][:1]
            text = ": ".join([reason, *causes])[:_MOST_CHARACTERS]
            raise LibraryError(text) from error


@contextlib.contextmanager
def _redirected(target: int) -> Iterator[None]:
    sys.stderr.flush()
    stderr = 2
    before = os.dup(stderr)
    os.dup2(target, stderr)
    try:
        yield
    finally:
        os.dup2(before, stderr)
        os.close(before)
