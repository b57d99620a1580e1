"""The command line's root: a user's mistake is one sentence and exit code 2."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from typer.exceptions import TyperException

from infoprune.errors import InputError
from infoprune.report.terminal import messages, results
from infoprune.version import __version__

app = typer.Typer(
    help="Smaller, faster convolutional networks: whole filters removed by what their feature maps know.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

# As shells number a command that SIGINT or SIGTERM ended.
INTERRUPTED, TERMINATED = 130, 143


class _TerminatedError(BaseException):
    """SIGTERM: batch systems send it some time before they kill."""


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        results().print(f"infoprune {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line."""
    # Lightning reports the precision on every start; the record holds it.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    with _sigterm_interrupts():
        try:
            code = app(standalone_mode=False)
        except InputError as error:
            _fail(f"Error: {error}", 2)
        except TyperException as error:
            _fail(f"Error: {error.format_message()}", 2)
        except _TerminatedError:
            code = TERMINATED
        except (KeyboardInterrupt, typer.Abort):
            code = INTERRUPTED
    if code in (INTERRUPTED, TERMINATED):  # typer turns some interrupts into this code by itself
        _fail("Interrupted: nothing half-written is left; the same command goes on where its state was kept.", code)
    sys.exit(code if isinstance(code, int) else 0)


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM end a command as an interrupt from the keyboard does: by an exception that cleans up on its way."""

    def interrupt(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: a second one would break the cleaning up
        raise _TerminatedError

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _fail(sentence: str, code: int) -> None:
    messages().print(sentence, markup=False, soft_wrap=True)
    sys.exit(code)
