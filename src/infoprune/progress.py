"""Progress of long work. The library calls a function; by default a bar is drawn on a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars

# Seconds between two plain lines of one stage: the log of a long run is short enough to read.
SECONDS_BETWEEN_LINES = 15.0


class Progress(Protocol):
    """Called at every step of a stage with how much of it is done.

    Example:
        >>> def shown(stage: str, done: int, total: int) -> None:
        ...     print(f"{stage}: {done} of {total}")
        >>> report: Progress = shown
        >>> report("scoring", 1, 2)
        scoring: 1 of 2
    """

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Take note that ``done`` of ``total`` steps of ``stage`` are done."""


def silent(stage: str, done: int, total: int) -> None:
    """Report nothing.

    Example:
        >>> silent("scoring", 1, 2)
    """


@contextmanager
def reported(progress: Progress | None) -> Iterator[Progress]:
    """Yield the function, or, where it is ``None``, one that draws bars on a terminal or in a notebook.

    Example:
        >>> with reported(silent) as progress:
        ...     progress("scoring", 1, 2)
    """
    if progress is not None:
        yield progress
        return
    from rich.console import Console

    console = Console(stderr=True)
    if not (console.is_terminal or console.is_jupyter):
        yield silent
        return
    with shown_on(console) as drawn:
        yield drawn


@contextmanager
def shown_on(console: Console) -> Iterator[Progress]:
    """Yield a function that draws bars with an estimate on a terminal, and prints a line now and then elsewhere.

    Example:
        >>> import io
        >>> from rich.console import Console
        >>> with shown_on(Console(file=io.StringIO())) as progress:
        ...     progress("scoring", 1, 1)
    """
    if not (console.is_terminal or console.is_jupyter):
        yield _Lines(console)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TextColumn("left"), TimeRemainingColumn())  # fmt: skip
    with RichProgress(*columns, console=console, transient=True) as bars:
        yield _Drawn(bars)


class _Drawn:
    def __init__(self, bars: Bars) -> None:
        self.bars = bars
        self.stage = ""

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage != self.stage:
            for task in self.bars.task_ids:
                self.bars.remove_task(task)
            self.task = self.bars.add_task(stage, total=total)
            self.stage = stage
        self.bars.update(self.task, completed=done, total=total)


class _Lines:
    def __init__(self, console: Console) -> None:
        self.console = console
        self.stage = ""

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage != self.stage:
            self.stage, self.start, self.printed, self.first = stage, now, now, done
        if now - self.printed >= SECONDS_BETWEEN_LINES and done > self.first:
            left = (now - self.start) / (done - self.first) * (total - done)
            self.console.print(f"{stage}: {done} of {total}, about {left / 60:.1f} minutes left")
            self.printed = now
