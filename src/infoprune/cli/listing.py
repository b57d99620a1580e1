"""The commands that say what there is, and the demonstration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from infoprune import criteria, zoo
from infoprune.cli.app import app
from infoprune.cli.options import Quiet, Seed
from infoprune.cutoff import all_rules
from infoprune.errors import InputError
from infoprune.report.terminal import messages, results, shown_progress


@app.command("criteria")
def list_criteria() -> None:
    """List the criteria."""
    table = Table()
    for column in ("name", "what it measures", "needs labels", "cost", "paper"):
        table.add_column(column)
    for info in criteria.all_criteria():
        table.add_row(info.name, info.description, "yes" if info.needs_labels else "", info.cost, info.paper)
    results().print(table)


@app.command("cutoffs")
def list_cutoffs() -> None:
    """List the rules that cut a curve."""
    table = Table()
    for column in ("name", "where it cuts", "paper"):
        table.add_column(column)
    for info in all_rules():
        table.add_row(info.name, info.description, info.paper)
    results().print(table)


@app.command("networks")
def list_networks() -> None:
    """List the networks of the zoo."""
    table = Table()
    for column in ("name", "what it is", "images", "classes"):
        table.add_column(column)
    for name in zoo.names():
        info = zoo.info(name)
        table.add_row(name, info.description, "x".join(map(str, info.input_shape)), str(info.classes))
    results().print(table)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the checkpoints and the record.")] = Path("runs/demo"),
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Train a small network on the digits, prune it by five criteria to one budget, and compare them."""
    from infoprune.experiment.demo import run, table, write_pages

    with shown_progress(messages(), quiet=quiet) as progress:
        record = run(out, seed=seed, progress=progress)
    if not quiet:
        results().print(table(record))
        results().print(f"checkpoints and record: {out}")
    try:
        page = write_pages(out)
    except InputError as error:
        # A plain installation has no packages for pages; the table is complete without.
        messages().print(f"no report: {error}", markup=False, soft_wrap=True)
    else:
        if not quiet:
            results().print(f"report: {page}", soft_wrap=True)
