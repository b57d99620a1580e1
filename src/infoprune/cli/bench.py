"""The command that measures a board."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from infoprune.board.options import BoardOptions
from infoprune.cli.from_dataclass import from_dataclasses
from infoprune.cli.options import Device, Quiet
from infoprune.declarations.option import Option
from infoprune.experiment.options import DataOptions, NetworkOptions


@from_dataclasses
def bench(
    network: NetworkOptions,
    images: DataOptions,
    options: BoardOptions,
    out: Annotated[Path, Option("Folder for the rows and the page; the same folder again measures only what is new.")],
    test_images: Annotated[
        int | None, Option("Test images to measure on, of balanced classes.", ge=1, unit="images", default="all")
    ] = None,
    processes: Annotated[int, Option("Processes that measure side by side.", ge=1, le=1024)] = 1,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Compare criteria, budgets and repairs on one network under one protocol, with a table and a page."""
    from infoprune.experiment.bench import Job, write_page
    from infoprune.experiment.bench import bench as measure
    from infoprune.report.board_table import board_tables
    from infoprune.report.terminal import messages, results, shown_progress

    job = Job(network, images, options, out, test_images, device)
    with shown_progress(messages(), quiet=quiet) as progress:
        board = measure(job, processes=processes, progress=progress)
    if not quiet:
        for table in board_tables(board):
            results().print(table)
        for criterion, reason in board.failures.items():
            results().print(f"not measured: {criterion}: {reason}", soft_wrap=True)
        results().print(f"rows: {out}", soft_wrap=True)
    page = write_page(job, board)
    if not quiet:
        results().print(f"page: {page}", soft_wrap=True)
