"""The commands that list what there is, and the demonstration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from infoprune.cli.from_dataclass import from_dataclasses
from infoprune.cli.options import Quiet, Seed
from infoprune.declarations.option import Option
from infoprune.errors import InputError


@from_dataclasses
def criteria() -> None:
    """List the criteria."""
    from rich.table import Table

    from infoprune.criteria import all_criteria
    from infoprune.report.terminal import results

    table = Table()
    for column in ("name", "what it measures", "needs labels", "cost", "paper"):
        table.add_column(column)
    for info in all_criteria():
        table.add_row(info.name, info.description, "yes" if info.needs_labels else "", info.cost, info.paper)
    results().print(table)


@from_dataclasses
def cutoffs() -> None:
    """List the rules that cut a curve."""
    from rich.table import Table

    from infoprune.cutoff import all_rules
    from infoprune.report.terminal import results

    table = Table()
    for column in ("name", "where it cuts", "paper"):
        table.add_column(column)
    for info in all_rules():
        table.add_row(info.name, info.description, info.paper)
    results().print(table)


@from_dataclasses
def networks() -> None:
    """List the networks of the zoo."""
    from rich.table import Table

    from infoprune import zoo
    from infoprune.report.terminal import results

    table = Table()
    for column in ("name", "what it is", "images", "classes"):
        table.add_column(column)
    for name in zoo.names():
        info = zoo.info(name)
        table.add_row(name, info.description, "x".join(map(str, info.input_shape)), str(info.classes))
    results().print(table)


@from_dataclasses
def schedules() -> None:
    """List the schedules of 'infoprune iterate'."""
    from rich.table import Table

    from infoprune.iterative.published_schedules import named_schedules
    from infoprune.report.terminal import results

    table = Table()
    for column in ("name", "network", "data", "what it does"):
        table.add_column(column)
    for name, one in named_schedules().items():
        table.add_row(name, one.network, one.data, one.description)
    results().print(table)


@from_dataclasses
def demo(
    out: Annotated[Path, Option("Folder for the checkpoints and the record.")] = Path("runs/demo"),
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Train a small network on digits, prune it without options and by five criteria."""
    from infoprune.experiment.demo import board_of, run, write_pages
    from infoprune.report.board_table import board_tables
    from infoprune.report.terminal import messages, results, shown_progress

    with shown_progress(messages(), quiet=quiet) as progress:
        record = run(out, seed=seed, progress=progress)
    if not quiet:
        for table in board_tables(board_of(out)):
            results().print(table)
        results().print(f"checkpoints and record: {out}", soft_wrap=True)
    try:
        page = write_pages(out)
    except InputError as error:
        # A plain installation has no packages for pages; the table is complete without.
        messages().print(f"no report: {error}", markup=False, soft_wrap=True)
    else:
        if not quiet:
            results().print(f"board: {out / 'board' / 'board.html'}", soft_wrap=True)
            results().print(f"report: {page}", soft_wrap=True)
    if not quiet:
        base, small = (record["default"][which] for which in ("base", "pruned"))
        share = 100 * (1 - small["macs"] / base["macs"])
        results().print(f"{out / 'small.safetensors'}, pruned without options: {share:.0f} % of the MACs removed, "
                        f"accuracy {base['accuracy']:.2f} % -> {small['accuracy']:.2f} %", soft_wrap=True)  # fmt: skip
