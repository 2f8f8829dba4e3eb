"""What a long run says while it works: a bar on a terminal, log lines otherwise."""

import contextlib
import logging
import time
from collections.abc import Iterator

import rich.console
import rich.progress

logger = logging.getLogger(__name__)

# Seconds between two log lines of the same piece of work.
LOG_INTERVAL = 10.0


class Progress:
    """Progress of one piece of work.

    Parameters
    ----------
    title
        What is being done.
    total
        Number of steps, or None where it is not known beforehand.
    bar
        The terminal's bars, or None to write log lines.
    """

    def __init__(
        self, title: str, total: int | None, bar: rich.progress.Progress | None
    ) -> None:
        self._title, self._total, self._bar = title, total, bar
        self._done = 0
        self._last_line = time.monotonic()
        self._task = None if bar is None else bar.add_task(title, total=total)

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Report that ``steps`` more are done, with a word on how it stands."""
        self._done += steps
        if self._bar is not None and self._task is not None:
            text = f"{self._title}  {note}" if note else self._title
            self._bar.update(self._task, advance=steps, description=text)
            return
        if time.monotonic() - self._last_line >= LOG_INTERVAL:
            self._last_line = time.monotonic()
            of_total = "" if self._total is None else f" of {self._total}"
            logger.info("%s: %d%s %s", self._title, self._done, of_total, note)


@contextlib.contextmanager
def track(title: str, total: int | None = None) -> Iterator[Progress]:
    """Show the progress of a piece of work until the block ends."""
    console = rich.console.Console(stderr=True)
    if not console.is_terminal:
        logger.info("%s", title)
        yield Progress(title, total, None)
        return
    columns = (
        rich.progress.SpinnerColumn(),
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeElapsedColumn(),
    )
    with rich.progress.Progress(*columns, console=console) as bar:
        yield Progress(title, total, bar)
