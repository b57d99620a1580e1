"""The consoles of the command line: messages and progress on standard error, results on standard output."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from infoprune.progress import Progress, shown_on, silent
from infoprune.runs.together import is_first_process

WIDTH_OF_FILES = 120


@contextmanager
def shown_progress(console: Console, *, quiet: bool = False) -> Iterator[Progress]:
    """Yield a progress function that draws on the console, or on nothing when quiet.

    Example:
        >>> with shown_progress(messages(), quiet=True) as progress:
        ...     progress("scoring", 1, 2)
    """
    if quiet or not is_first_process():
        yield silent
        return
    with shown_on(console) as progress:
        yield progress


def messages() -> Console:
    """Return the console for everything that is not the result: standard error, wide in a file.

    Example:
        >>> messages().stderr
        True
    """
    return _console(stderr=True, width=None if sys.stderr.isatty() else WIDTH_OF_FILES)


def results() -> Console:
    """Return the console for tables and figures: standard output, wide in a file.

    Example:
        >>> results().is_terminal in (True, False)
        True
    """
    return _console(stderr=False, width=None if sys.stdout.isatty() else WIDTH_OF_FILES)


def _console(*, stderr: bool, width: int | None) -> Console:
    # Of several processes that run one command, the first one alone prints.
    return Console(stderr=stderr, highlight=False, markup=False, width=width, quiet=not is_first_process())
