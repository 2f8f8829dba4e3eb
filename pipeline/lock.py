"""One run at a time in an output: a lock that does not outlive its holder.

On a local file system the system releases it when the process dies. On an object
store it is an object, made only if there is none, that its holder writes again every
few seconds; one not written for a minute is left over, and may be taken over.
"""

import contextlib
import fcntl
import json
import secrets
import threading
from collections.abc import Callable, Iterator

from pipeline.errors import BusyError, InputError
from pipeline.location import Location, RemotePath

REFRESH_SECONDS = 10.0
STALE_SECONDS = 60.0

# Raises BusyError if the lock was lost to another run.
Check = Callable[[], None]


@contextlib.contextmanager
def hold(path: Location, output: Location) -> Iterator[Check]:
    """Hold a lock until the block ends.

    Parameters
    ----------
    path
        File or object of the lock.
    output
        What it is for.

    Yields
    ------
    A function to call before anything that cannot be undone.

    Raises
    ------
    BusyError
        If another run holds it.
    """
    if isinstance(path, RemotePath):
        lease = _Lease(path, output)
        with lease.kept():
            yield lease.check
        return
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _taken(output) from None
        yield lambda: None


def _taken(output: Location) -> BusyError:
    return BusyError(
        f"{output}: another run is at work there; wait for it, or name another --output"
    )


class _Lease:
    """A lock object, and the thread that writes it again and again."""

    def __init__(self, path: RemotePath, output: Location) -> None:
        self._path = path
        self._output = output
        self._owner = secrets.token_hex(8)
        self._count = 0
        self._lost = False
        self._ended = threading.Event()

    def check(self) -> None:
        """Raise BusyError if another run took the lock over."""
        if self._lost or self._holder() != self._owner:
            raise BusyError(
                f"{self._output}: another run took this one over while it was "
                "not heard of; let that one finish"
            )

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Take the lock, keep it fresh, and release it."""
        self._take()
        thread = threading.Thread(target=self._refresh, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()
            # Whatever fails now, the lock grows stale by itself.
            with contextlib.suppress(InputError):
                if not self._lost and self._holder() == self._owner:
                    self._path.unlink(missing_ok=True)

    def _take(self) -> None:
        # Two that find the lock free, or left over, at once: the server picks one.
        try:
            self._write(mode="create")
        except FileExistsError:
            # A try whose answer was lost may have made it.
            if self._holder() != self._owner:
                self._take_over()

    def _take_over(self) -> None:
        """Replace a lock left over, unless another run does so first."""
        info = self._path.info()
        if info is None:
            raise _taken(self._output)
        # Both times are the server's: clocks of two machines may differ.
        probe = self._path.with_name(f"{self._path.name}-{self._owner}")
        probe.write_bytes(b"")
        now = probe.info()
        probe.unlink(missing_ok=True)
        assert now is not None, "the probe was just written"
        age = (now["LastModified"] - info["LastModified"]).total_seconds()
        if age < STALE_SECONDS:
            raise _taken(self._output)
        with contextlib.suppress(InputError):
            self._write(IfMatch=info["ETag"])
        if self._holder() != self._owner:
            raise _taken(self._output)

    def _write(self, **conditions: str) -> None:
        self._count += 1
        content = {"owner": self._owner, "refreshed": self._count}
        self._path.write_bytes(json.dumps(content).encode(), **conditions)

    def _holder(self) -> str | None:
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError, KeyError):
            return str(json.loads(self._path.read_bytes())["owner"])
        return None

    def _refresh(self) -> None:
        while not self._ended.wait(REFRESH_SECONDS):
            # A server that is away is tried again at the next turn.
            with contextlib.suppress(InputError):
                info = self._path.info()
                if info is None or self._holder() != self._owner:
                    self._lost = True
                    return
                # The tag is older than the owner: a lock taken over since fails.
                self._write(IfMatch=info["ETag"])
