"""Stop signals: taken at any moment, obeyed in a second, told in one line.

What a signal's handler raises can be lost: Python swallows it in callbacks of the
garbage collector and in finalizers, C libraries drop it in theirs, and some code
catches everything. So a thread hears the signal too, and has the main thread raise
again until the command unwinds. Where that does not come to an end, as in a long call
of a C library, the thread ends the process: what is on disk can be gone on with at any
moment.

Imports little, so that a command takes signals before it imports the rest.
"""

import contextlib
import io
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

# The last is a terminal that went away; `nohup` has it ignored.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# What a shell says of a command that a signal ended.
BY_SIGNAL = 128
# How the thread reaches the main one, also in a system call that waits. A process that
# has no handler for it ignores it.
_AGAIN = signal.SIGURG
_AGAIN_SECONDS = 0.05
# How long a command may unwind.
_GRACE_SECONDS = 1.5
# Whoever passes a signal on to a process and to its group means one.
_SAME_SECONDS = 0.1
_CLOSE = 0
# Over what a bar left on the terminal's line, and with the cursor that it hid.
_CLEAR_LINE = "\r\x1b[2K\x1b[?25h"


class StopSignalError(BaseException):
    """Unwinds a command that was told to stop, past every handler of errors.

    Parameters
    ----------
    number
        The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = signal.Signals(number)

    @property
    def status(self) -> int:
        """Exit status of a command that ends so."""
        return BY_SIGNAL + self.number


class _Command:
    """The command at work, and how far a signal has got with it.

    Parameters
    ----------
    owns_process
        Whether the process ends with it: its stderr then has one line more, and the
        last word.
    """

    def __init__(self, *, owns_process: bool) -> None:
        self.advice: Callable[[], str] = lambda: "run it again"
        self.number: int | None = None
        self.extra_seconds = 0.0
        self.scratch: set[str] = set()
        self.before_end: list[Callable[[], None]] = []
        # Blocks that must not be cut short.
        self.n_whole = 0
        self._owns_process = owns_process
        # Of the command, once it has ended.
        self._status: int | None = None
        self._is_taken = self._has_said = False
        self._saying = threading.Lock()
        self._stderr = _copy_of_stderr()
        self._ear, self._mouth = os.pipe()
        os.set_blocking(self._mouth, False)
        self._before: dict[int, Any] = {}
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def install(self) -> None:
        """Take signals from here on."""
        for number in SIGNALS:
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue
            self._before[number] = signal.signal(number, self._take)
        self._before[_AGAIN] = signal.signal(_AGAIN, self._take)
        self._wakeup = signal.set_wakeup_fd(self._mouth, warn_on_full_buffer=False)
        self._thread.start()

    def uninstall(self) -> None:
        """Leave signals to whoever had them before."""
        self._status = 0
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.write(self._mouth, bytes([_CLOSE]))
        self._thread.join()
        for descriptor in (self._ear, self._mouth, self._stderr):
            os.close(descriptor)

    def _take(self, number: int, frame: FrameType | None) -> None:
        """Raise in the main thread, unless the command unwinds or has ended."""
        is_first = number in SIGNALS and not self._is_taken
        if is_first:
            self._hear(number)
            self._is_taken = True
        if not self._is_taken or self.n_whole or _is_unwinding():
            return
        # The thread sees to it that this is called again.
        if _loads_extension(frame):
            return
        if self._status is None:
            raise StopSignalError(self.number or number)
        if is_first and self._owns_process:
            self.end()

    def _hear(self, number: int) -> None:
        """From now on, nothing is said but the one line at the end."""
        if self.number is None:
            self.number = number
            if self._owns_process:
                _be_silent()

    def _watch(self) -> None:
        heard = 0.0
        while True:
            wait = _AGAIN_SECONDS if heard else None
            ready, _, _ = select.select([self._ear], [], [], wait)
            now = time.monotonic()
            for number in os.read(self._ear, 64) if ready else b"":
                if number == _CLOSE:
                    return
                if number not in SIGNALS:
                    continue
                if not heard:
                    heard = now
                    self._hear(number)
                elif now - heard > _SAME_SECONDS:
                    self.end()
            if heard and now - heard > _GRACE_SECONDS + self.extra_seconds:
                self.end()
            if heard and self._status is None:
                main = threading.main_thread().ident
                assert main is not None, "the main thread runs"
                signal.pthread_kill(main, _AGAIN)

    def conclude(self, status: int) -> None:
        """Take note that the command has ended; the interpreter is about to."""
        self._status = status

    def end(self) -> NoReturn:
        """End the process, with its children and the one line."""
        from pipeline import children

        number = signal.Signals(self.number or signal.SIGTERM)
        failed_before = self._status
        self._status = status = failed_before or BY_SIGNAL + number
        for function in tuple(self.before_end):
            function()
        children.end_all()
        if not failed_before:
            self._say(f"stopped by {number.name}; {self.advice()}", status)
        for folder in tuple(self.scratch):
            children.delete_folder(folder)
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        os._exit(status)

    def _say(self, message: str, status: int) -> None:
        from pipeline import logs

        # The main thread and the one that watches may both come to it.
        if not self._saying.acquire(timeout=_SAME_SECONDS) or self._has_said:
            return
        self._has_said = True
        line = logs.describe_end(message, status)
        start = _CLEAR_LINE if os.isatty(self._stderr) else ""
        with contextlib.suppress(OSError):
            os.write(self._stderr, f"{start}{line}\n".encode())
        self._saying.release()

    def report(
        self, kind: type[BaseException], error: BaseException, trace: Any
    ) -> None:
        """End where a signal came between the last lines that could catch it."""
        if issubclass(kind, StopSignalError):
            self.end()
        sys.__excepthook__(kind, error, trace)

    def leave(self) -> None:
        """End without taking every module apart, which lasts and is of no use."""
        if self._status is None:
            return
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except (OSError, ValueError):
            return
        os._exit(self._status)


_command: _Command | None = None


def _copy_of_stderr() -> int:
    try:
        return os.dup(2)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY)


def _is_unwinding() -> bool:
    """Whether what the main thread does now, it does because it was stopped."""
    error = sys.exception()
    while error is not None and not isinstance(error, StopSignalError):
        error = error.__context__
    return error is not None


def _loads_extension(frame: FrameType | None) -> bool:
    """Whether a C extension is being loaded, of which some crash if anything raises."""
    while frame is not None:
        if frame.f_code.co_qualname.startswith("ExtensionFileLoader."):
            return True
        frame = frame.f_back
    return False


def _be_silent() -> None:
    # What is not imported has said nothing yet.
    logging = sys.modules.get("logging")
    if logging is not None:
        logging.disable(logging.CRITICAL)
    sys.stderr = io.StringIO()


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextlib.contextmanager
def whole_process() -> Iterator[None]:
    """Take signals for the rest of this process, which ends with the block."""
    global _command
    if _command is not None or not _in_main_thread():
        yield
        return
    import atexit

    _command = command = _Command(owns_process=True)
    command.install()
    sys.excepthook = command.report
    # First of all, so that it is called after all others.
    atexit.register(command.leave)
    try:
        yield
    except BaseException as error:
        if command.number is not None:
            command.end()
        status = error.code if isinstance(error, SystemExit) else 1
        if status is None or isinstance(status, int):
            command.conclude(status or 0)
        raise
    command.conclude(0)


@contextlib.contextmanager
def obeyed(advice: Callable[[], str]) -> Iterator[None]:
    """Take signals until the block ends, and say so by `StopSignalError`.

    Whatever the block raises once a signal is taken, or if it raises nothing at all:
    cleaning up can fail where it is cut short.

    Parameters
    ----------
    advice
        Called to say how to go on after a stop.
    """
    global _command
    if not _in_main_thread():
        yield
        return
    found = _command
    if found is None:
        _command = command = _Command(owns_process=False)
        command.install()
    else:
        command = found
    command.advice = advice
    try:
        try:
            yield
        except BaseException:
            if command.number is None:
                raise
        if command.number is not None:
            raise StopSignalError(command.number)
    finally:
        if found is None:
            command.uninstall()
            _command = None


def is_under_way() -> bool:
    """Whether this process was told to stop."""
    return _command is not None and _command.number is not None


def before_end(function: Callable[[], None]) -> None:
    """Have a function called, by any thread, before a stopped process ends its own."""
    if _command is not None:
        _command.before_end.append(function)


def allow(seconds: float) -> None:
    """Let a stop last longer, where what would be left behind is not this machine's."""
    if _command is not None:
        _command.extra_seconds = seconds


@contextlib.contextmanager
def whole() -> Iterator[None]:
    """Put a stop off until the end of a block that leaves no halves; it must be short.

    The main thread's only: others are never interrupted.
    """
    command = _command
    if command is None or not _in_main_thread():
        yield
        return
    command.n_whole += 1
    try:
        yield
    finally:
        command.n_whole -= 1


@contextlib.contextmanager
def scratch_folder(parent: "os.PathLike[str] | str | None" = None) -> Iterator[str]:
    """Make a folder that is deleted at the end, also where unwinding is cut short."""
    import tempfile

    command = _command
    with tempfile.TemporaryDirectory(prefix="streamixture-", dir=parent) as folder:
        if command is None:
            yield folder
            return
        command.scratch.add(folder)
        try:
            yield folder
        finally:
            command.scratch.discard(folder)
