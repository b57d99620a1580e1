"""The commands that make pages and figures of runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from infoprune import report
from infoprune.cli.app import app
from infoprune.cli.options import Force, Quiet
from infoprune.cli.parsing import check_outputs
from infoprune.errors import InputError
from infoprune.files import write_text
from infoprune.measure.information_plane import read_points
from infoprune.report.figures import comparison_figures, run_figures
from infoprune.report.terminal import messages, results, shown_progress

Page = Annotated[Path | None, typer.Option("--out", "-o", help="The HTML page to write.")]
Figures = Annotated[Path | None, typer.Option("--figures", help="Folder for PNG and SVG figures.")]


@app.command("report")
def write_report(
    run: Annotated[Path, typer.Argument(help="A folder that 'prune --run' wrote.")],
    page: Page = None,
    against: Annotated[list[Path] | None, typer.Option(help="Another run to lay beside it.")] = None,
    plane: Annotated[Path | None, typer.Option(help="Points of an information plane to show with it.")] = None,
    figures: Figures = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Show a run: one page that opens offline, and figures for papers."""
    _check_page(page, figures, force=force)
    opened, others = report.read_run(run), [report.read_run(one) for one in against or ()]
    if plane is not None:
        opened = replace(opened, plane=tuple(read_points(plane)))
    with shown_progress(messages(), quiet=quiet) as progress:
        files = [] if figures is None else run_figures(opened, figures, force=force, progress=progress)
    if page is not None:
        write_text(page, report.page(opened, others), force=force)
    _told(page, figures, len(files), quiet=quiet)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders that 'prune --run' wrote.")],
    page: Page = None,
    figures: Figures = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Show accuracy against cost over several runs."""
    _check_page(page, figures, force=force)
    opened = [report.read_run(run) for run in runs]
    files = [] if figures is None else comparison_figures(opened, figures, force=force)
    if page is not None:
        write_text(page, report.comparison_page(opened), force=force)
    _told(page, figures, len(files), quiet=quiet)


def _check_page(page: Path | None, figures: Path | None, *, force: bool) -> None:
    if page is None and figures is None:
        raise InputError("say what to write: --out report.html, --figures FOLDER, or both")
    check_outputs(page, force=force)


def _told(page: Path | None, figures: Path | None, files: int, *, quiet: bool) -> None:
    if quiet:
        return
    if page is not None:
        results().print(f"page: {page}")
    if figures is not None:
        results().print(f"{files} figures: {figures}")
