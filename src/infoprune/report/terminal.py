"""What a person sees while it works: bars with an estimate on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from infoprune.progress import Progress, silent

# Between two plain lines of one stage; a log of a long run stays short enough to read.
SECONDS_BETWEEN_LINES = 15.0
WIDTH_OF_FILES = 120


@contextmanager
def shown_progress(console: Console, *, quiet: bool = False) -> Iterator[Progress]:
    """Give a progress function that draws on the console, or on nothing when quiet."""
    if quiet:
        yield silent
    elif console.is_terminal:
        with _bars(console) as bars:
            yield _Drawn(bars)
    else:
        yield _Lines(console)


def messages() -> Console:
    """Return the console for everything that is not the result: standard error, wide in a file."""
    return Console(stderr=True, highlight=False, markup=False, width=None if sys.stderr.isatty() else WIDTH_OF_FILES)


def results() -> Console:
    """Return the console for tables and figures: standard output, wide in a file."""
    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else WIDTH_OF_FILES)


def _bars(console: Console) -> Bars:
    return Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


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
            self.stage, self.start, self.told, self.first = stage, now, now, done
        if now - self.told >= SECONDS_BETWEEN_LINES and done > self.first:
            left = (now - self.start) / (done - self.first) * (total - done)
            self.console.print(f"{stage}: {done} of {total}, about {left / 60:.1f} minutes left")
            self.told = now
