"""The reference of all options, made from their declarations: ``python -m infoprune.cli.options_table > FILE``."""

from __future__ import annotations

import sys

from infoprune.cli.app import COMMANDS, command_function
from infoprune.cli.from_dataclass import Flag, default_of, flags_of
from infoprune.declarations.option import takes

HEAD = """# Options

Made from the declarations of the options by `python -m infoprune.cli.options_table`; a test compares it with them.
Python takes the same options, as fields of the dataclass that is named beside a flag.
"""


def options_table() -> str:
    """Return the reference page: a table of flags for each command.

    Example:
        >>> "`--ratio`" in options_table()
        True
    """
    return "\n".join([HEAD, *(_section(name, line) for name, (_, line) in COMMANDS.items())])


def _section(name: str, line: str) -> str:
    flags = flags_of(command_function(name))
    rows = [f"| {' | '.join(_row(flag))} |" for flag in flags]
    head = ["| | what it decides | takes | default | in Python |", "|---|---|---|---|---|"] if rows else []
    return "\n".join([f"## infoprune {name}", "", line, "", *head, *rows, *([""] if rows else [])])


def _row(flag: Flag) -> tuple[str, ...]:
    unit = f" ({flag.option.unit})" if flag.option.unit else ""
    python = "" if flag.of is None else f"`{flag.of.__name__}.{flag.field.name}`"
    default = "required" if flag.field.is_required else default_of(flag).removeprefix("default: ")
    name = f"`{flag.flag.upper() if flag.option.is_argument else flag.flag}`"
    return tuple(_cell(text) for text in (name, flag.option.help, takes(flag.field, text=True) + unit, default, python))


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


if __name__ == "__main__":
    sys.stdout.write(options_table())
