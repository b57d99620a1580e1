"""The command that prints what a bug report needs."""

from __future__ import annotations

from infoprune.cli.from_dataclass import from_dataclasses
from infoprune.cli.options import JsonOut


@from_dataclasses
def env(json_out: JsonOut = None) -> None:
    """Print versions and machine, for a bug report."""
    import typer

    from infoprune.cli.output import check_outputs, write_record
    from infoprune.measure.environment import report

    check_outputs(json_out, force=False)
    found = report()
    write_record(found, json_out, force=False)
    width = max(map(len, found))
    for name, value in found.items():
        typer.echo(f"{name:<{width}}  {value}")
