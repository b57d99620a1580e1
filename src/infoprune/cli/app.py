"""The command line's root: a user's mistake is one sentence and exit code 2. Commands are imported when called."""

from __future__ import annotations

import importlib
import logging
import sys
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException

from infoprune.cli.signals import TerminatedError, ended_by_signals
from infoprune.errors import InputError
from infoprune.version import __version__

# Where each command is, and the line that lists it: the first of its docstring, which a test compares.
COMMANDS = {
    "prune": ("prune:prune", "Remove filters and write the smaller network."),
    "sensitivity": ("sensitivity:sensitivity", "Prune each layer alone, to see which may lose many filters."),
    "sweep": ("sweep:sweep", "Prune to several budgets in one run and write one checkpoint for each."),
    "bench": (
        "bench:bench",
        "Compare criteria, budgets and repairs on one network under one protocol, with a table and a page.",
    ),
    "depth": ("depth:depth", "Remove whole residual blocks and write the network without them."),
    "iterate": ("iterate:iterate", "Prune in rounds: score, cut, retrain, until all layers are at their limits."),
    "train": ("training:train", "Train a network, from fresh or existing weights."),
    "tune": ("training:tune", "Fine-tune a pruned network, optionally with distillation from the original."),
    "evaluate": ("checkpoints:evaluate", "Measure accuracy, loss, MACs, parameters and latency of a network."),
    "show": ("checkpoints:show", "Show what is in a checkpoint: architecture, plan, settings, figures."),
    "export": ("checkpoints:export", "Write a checkpoint's network for other runtimes, checked against PyTorch."),
    "report": ("pages:report", "Show a run: one page that opens offline, and figures for papers."),
    "compare": ("pages:compare", "Show accuracy against cost over several runs."),
    "plane": ("plane:plane", "Draw the information plane of each layer over iterative pruning."),
    "demo": (
        "listing:demo",
        "Train a small network on digits, prune it without options and by five criteria.",
    ),
    "criteria": ("listing:criteria", "List the criteria."),
    "cutoffs": ("listing:cutoffs", "List the rules that cut a curve."),
    "networks": ("listing:networks", "List the networks of the zoo."),
    "schedules": ("listing:schedules", "List the schedules of 'infoprune iterate'."),
    "env": ("env:env", "Print versions and machine, for a bug report."),
}
# As shells number a command that SIGINT or SIGTERM ended.
INTERRUPTED, TERMINATED = 130, 143


class LazyGroup(TyperGroup):
    """Knows the names of the commands and a line about each; a command's own module is imported when it is called.

    Example:
        >>> LazyGroup(name="infoprune").list_commands(None)[:2]
        ['prune', 'sensitivity']
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, (_, line) in COMMANDS.items():
            self.add_command(TyperCommand(name, help=line))

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands, in the order of the table."""
        return list(COMMANDS)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Import the command that is called."""
        name, _, rest = super().resolve_command(ctx, args)
        assert name is not None
        return name, _command(name), rest

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the table of the commands with their whole lines."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


def _command(name: str) -> Any:
    single = typer.Typer(add_completion=False, rich_markup_mode=None)
    single.command(name)(command_function(name))
    return typer.main.get_command(single)


def command_function(name: str) -> Any:
    """Return the function of a command, as ``from_dataclasses`` made it.

    Example:
        >>> command_function("env").__name__
        'env'
    """
    module, _, function = COMMANDS[name][0].partition(":")
    return getattr(importlib.import_module(f"infoprune.cli.{module}"), function)


app = typer.Typer(
    cls=LazyGroup,
    help="Smaller, faster convolutional networks: removes whole filters, chosen by their feature maps.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _root(
    ctx: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        typer.echo(f"infoprune {__version__}")
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


def main() -> None:
    """Run the command line."""
    # Lightning reports the precision on every start; the record holds it.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    with ended_by_signals() as terminated:
        try:
            code = app(standalone_mode=False, prog_name="infoprune")
        except TerminatedError:
            code = TERMINATED
        except (KeyboardInterrupt, typer.Abort):
            code = INTERRUPTED
        except Exception as error:
            # SIGTERM can break off a very long import, or come inside of a compiled module, which turns it into an
            # error of its own: that of a file that is read, for example.
            if not terminated.is_set():
                _explain(error)
            code = TERMINATED
    if code in (INTERRUPTED, TERMINATED):  # typer turns some interrupts into this code by itself
        _fail("Interrupted: no half-written file is left; the same command resumes where its state was kept.", code)
    sys.exit(code if isinstance(code, int) else 0)


def _explain(error: Exception) -> NoReturn:
    """End with the sentence of a user's mistake; raise any other error again."""
    if isinstance(error, InputError):
        _fail(f"Error: {error}", 2)
    if isinstance(error, TyperException):
        _fail(f"Error: {error.format_message()}", 2)
    raise error


def _fail(sentence: str, code: int) -> NoReturn:
    typer.echo(sentence, err=True)
    sys.exit(code)
