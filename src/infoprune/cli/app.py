"""The command line's root: a user's mistake is one sentence and exit code 2."""

from __future__ import annotations

import logging
import sys
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

INTERRUPTED = 130


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        results().print(f"infoprune {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line."""
    # Lightning tells the precision on every start; the record holds it.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    try:
        code = app(standalone_mode=False)
    except InputError as error:
        _fail(f"Error: {error}", 2)
    except TyperException as error:
        _fail(f"Error: {error.format_message()}", 2)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    if code == INTERRUPTED:  # typer turns some interrupts into this code by itself
        _fail(
            "Interrupted: nothing half-written is left; the same command of train, tune or iterate goes on.",
            INTERRUPTED,
        )
    sys.exit(code if isinstance(code, int) else 0)


def _fail(sentence: str, code: int) -> None:
    messages().print(sentence, markup=False, soft_wrap=True)
    sys.exit(code)
