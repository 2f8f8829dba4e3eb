"""Processes that this one starts: they leave its script and the terminal to it.

A terminal sends its interrupt to every process of a command. Workers take no notice,
from the first moment: the driver ends them, or they see that it is gone. Nor do they
run the script of whoever called this package, which Python would have each do before
its first task: one without a guard would start workers of its own there, and hang.
"""

import contextlib
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing import resource_tracker, spawn
from typing import Any

import psutil

from pipeline.errors import InputError

_END_SECONDS = 0.5
# What dask calls its workers' processes.
_WORKER = "Dask Worker process"
_SCRIPT = ("init_main_from_path", "init_main_from_name")
# Threads that start processes in `starting`.
_starting: set[int] = set()


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Start processes, or threads that will, which take no notice of an interrupt.

    They inherit the thread's mask of signals, where a handler of their own would come
    too late. One for this process meanwhile waits for the end of the block.

    Raises
    ------
    InputError
        If this process may not start any.
    """
    _check_may_start()
    _start_tracker()
    if spawn.get_preparation_data is not _prepare:
        spawn.get_preparation_data = _prepare
    thread = threading.get_ident()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    _starting.add(thread)
    try:
        yield
    finally:
        _starting.discard(thread)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _check_may_start() -> None:
    """Refuse where Python would, in a thread that nobody hears of."""
    process = multiprocessing.current_process()
    if getattr(process, "_inheriting", False):
        raise InputError(
            "workers cannot be started while this process is being started itself: it "
            "runs the script of the one that started it; put what starts processes "
            'there under `if __name__ == "__main__":`'
        )
    if process.daemon:
        raise InputError(
            "workers cannot be started in a process of a pool, which may have no "
            "children; call this in the main process, or make a dask Client there and "
            "pass its address"
        )


_prepare_with_script = spawn.get_preparation_data


def _prepare(name: str) -> dict[str, Any]:
    """What a new process is told: where it is one of ours, nothing of the script."""
    told: dict[str, Any] = _prepare_with_script(name)
    # Dask starts its own in other threads, which inherited the mask of the first.
    is_masked = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    if threading.get_ident() in _starting or (is_masked and name.startswith(_WORKER)):
        for key in _SCRIPT:
            told.pop(key, None)
    return told


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
