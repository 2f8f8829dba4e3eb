"""Processes that this one starts: they leave the terminal's interrupt to it.

A terminal sends its interrupt to every process of a command. Workers take no notice,
from the first moment: the driver ends them, or they see that it is gone.
"""

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Iterator
from multiprocessing import resource_tracker
from typing import Any

import psutil

_END_SECONDS = 0.5


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Start processes, or threads that will, which take no notice of an interrupt.

    They inherit the thread's mask of signals, where a handler of their own would come
    too late. One for this process meanwhile waits for the end of the block.
    """
    _start_tracker()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_tracker() -> None:
    """Start what deletes the semaphores of processes that were killed, silently.

    Here, because Python takes the mask away where it starts it. It would warn of each.
    """
    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = "ignore"
    try:
        resource_tracker.ensure_running()
    finally:
        del os.environ["PYTHONWARNINGS"]
        if before is not None:
            os.environ["PYTHONWARNINGS"] = before


def end_all() -> None:
    """Kill all processes that this one started, and theirs, and wait until they end."""
    tracker: Any = getattr(resource_tracker, "_resource_tracker", None)
    tracker_id = getattr(tracker, "_pid", None)
    until = time.monotonic() + _END_SECONDS
    while time.monotonic() < until:
        found = psutil.Process().children(recursive=True)
        others = [process for process in found if process.pid != tracker_id]
        if not others:
            break
        for process in others:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(others, timeout=_END_SECONDS)
    # It ends by itself, once nobody holds its pipe.
    if tracker_id is not None and tracker._fd is not None:
        # Nor does another thread find it gone, and start it again.
        tracker._lock.acquire(timeout=_END_SECONDS)
        with contextlib.suppress(OSError):
            os.close(tracker._fd)
        with contextlib.suppress(psutil.Error):
            psutil.Process(tracker_id).wait(timeout=_END_SECONDS)


def delete_folder(folder: str) -> None:
    """Delete a folder as far as it can be deleted."""
    shutil.rmtree(folder, ignore_errors=True)
