"""What a long run says while it works: a bar on a terminal, log lines otherwise.

In a notebook, or where dask's own bar is on (`dask.diagnostics.ProgressBar`), it is a
bar of text on stdout, as dask draws it. Whoever listens hears of every step, as values.
"""

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import rich.console
import rich.progress

from pipeline import logs

logger = logging.getLogger(__name__)

# Seconds between two log lines of the same piece of work.
LOG_INTERVAL = 10.0


@dataclass(frozen=True)
class Event:
    """Something that a run has come to.

    Attributes
    ----------
    stage
        The stage that begins, or has ended where there are figures of what it cost.
    done, total
        Steps of a piece of work, which begins with none done; None for a stage, or
        where the number is not known.
    figures
        Such as `round`, `log_likelihood`, and `genotypes` that the step went through.
    """

    stage: str | None = None
    done: int | None = None
    total: int | None = None
    figures: dict[str, float] = field(default_factory=dict)


Listener = Callable[[Event], None]
# Of this process: a command adds one while it runs.
_listeners: list[Listener] = []


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Have a function called with every event until the block ends."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def tell(event: Event) -> None:
    """Tell whoever listens of an event."""
    for listener in _listeners:
        listener(event)


def begin_stage(name: str) -> None:
    """Tell that a stage begins."""
    logger.debug("stage %s begins", name, extra={logs.FIGURES: {"stage": name}})
    tell(Event(stage=name))


def end_stage(name: str, figures: dict[str, float]) -> None:
    """Tell what a stage has cost."""
    said = {"stage": name, **figures}
    logger.info(
        "stage %s took %.1f s",
        name,
        figures["wall_seconds"],
        extra={logs.FIGURES: said},
    )
    tell(Event(stage=name, figures=figures))


class _TextBar:
    """A bar of text on stdout, drawn over itself ten times a second at most."""

    _WIDTH = 40
    _INTERVAL = 0.1

    def __init__(self, title: str, total: int | None) -> None:
        self._title, self._total = title, total
        self._began, self._drawn, self._longest = time.monotonic(), 0.0, 0
        self.draw(0, "")

    def draw(self, done: int, note: str, *, last: bool = False) -> None:
        """Draw how far the work is."""
        now = time.monotonic()
        if now - self._drawn < self._INTERVAL and not last:
            return
        self._drawn = now
        far = f"{done} done"
        if self._total:
            share = min(done / self._total, 1.0)
            filled = "#" * round(share * self._WIDTH)
            far = f"[{filled:{self._WIDTH}}] | {share:.0%}"
        line = f"{self._title}: {far} | {now - self._began:.1f} s {note}".rstrip()
        # What a longer line left behind is written over.
        self._longest = max(self._longest, len(line))
        end = "\n" if last else ""
        sys.stdout.write(f"\r{line:{self._longest}}{end}")
        sys.stdout.flush()


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
    text
        A bar of text instead of either.
    """

    def __init__(
        self,
        title: str,
        total: int | None,
        bar: rich.progress.Progress | None,
        text: _TextBar | None = None,
    ) -> None:
        self._title, self._total, self._bar, self._text = title, total, bar, text
        self._done, self._note = 0, ""
        self._last_line = time.monotonic()
        self._task = None if bar is None else bar.add_task(title, total=total)
        tell(Event(done=0, total=total))

    def advance(self, steps: int = 1, note: str = "", **figures: float) -> None:
        """Report that ``steps`` more are done.

        Parameters
        ----------
        steps
            How many.
        note
            A word on how it stands.
        figures
            The same as values, as in `Event`.
        """
        self._done, self._note = self._done + steps, note
        tell(Event(done=self._done, total=self._total, figures=figures))
        if self._bar is not None and self._task is not None:
            text = f"{self._title}  {note}" if note else self._title
            self._bar.update(self._task, advance=steps, description=text)
            return
        if self._text is not None:
            self._text.draw(self._done, note)
            return
        if time.monotonic() - self._last_line >= LOG_INTERVAL:
            self._last_line = time.monotonic()
            of_total = "" if self._total is None else f" of {self._total}"
            said = {"work": self._title, "done": self._done, "total": self._total}
            logger.info(
                "%s: %d%s %s",
                self._title,
                self._done,
                of_total,
                note,
                extra={logs.FIGURES: said | figures},
            )

    def conclude(self) -> None:
        """Draw the last state of a bar of text, and end its line."""
        if self._text is not None:
            self._text.draw(self._done, self._note, last=True)


def _dask_draws_bars() -> bool:
    """Whether a `dask.diagnostics.ProgressBar` is on."""
    module = sys.modules.get("dask.diagnostics.progress")
    if module is None:
        return False
    active = sys.modules["dask.callbacks"].Callback.active
    owners = (getattr(each, "__self__", None) for some in active for each in some)
    return any(isinstance(owner, module.ProgressBar) for owner in owners)


@contextlib.contextmanager
def track(title: str, total: int | None = None) -> Iterator[Progress]:
    """Show the progress of a piece of work until the block ends."""
    console = rich.console.Console(stderr=True)
    as_text = console.is_jupyter or (not console.is_terminal and _dask_draws_bars())
    if as_text and not logs.are_json():
        progress = Progress(title, total, None, _TextBar(title, total))
        try:
            yield progress
        finally:
            progress.conclude()
        return
    if not console.is_terminal or logs.are_json():
        said = {"work": title, "done": 0, "total": total}
        logger.info("%s", title, extra={logs.FIGURES: said})
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
