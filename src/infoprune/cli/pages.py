"""The commands that make pages and figures of runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from infoprune.cli.from_dataclass import from_dataclasses
from infoprune.cli.options import Force, Quiet
from infoprune.declarations.option import Option
from infoprune.errors import InputError

Page = Annotated[Path | None, Option("The HTML page to write.", flag="--out")]
Figures = Annotated[Path | None, Option("Folder for PNG and SVG figures.")]


@from_dataclasses
def report(
    run: Annotated[Path, Option("A folder that 'prune --run' wrote.", is_argument=True)],
    page: Page = None,
    against: Annotated[tuple[Path, ...], Option("Another run to show beside it; repeatable.")] = (),
    plane: Annotated[Path | None, Option("Points of an information plane to show with it.")] = None,
    figures: Figures = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Show a run: one page that opens offline, and figures for papers."""
    from infoprune import report as pages
    from infoprune.files import write_text
    from infoprune.measure.information_plane import read_points
    from infoprune.report.figures import run_figures
    from infoprune.report.terminal import messages, shown_progress

    _check_page(page, figures, force=force)
    opened, others = pages.read_run(run), [pages.read_run(one) for one in against]
    if plane is not None:
        opened = replace(opened, plane=tuple(read_points(plane)))
    with shown_progress(messages(), quiet=quiet) as progress:
        files = [] if figures is None else run_figures(opened, figures, force=force, progress=progress)
    if page is not None:
        write_text(page, pages.page(opened, others), force=force)
    _told(page, figures, len(files), quiet=quiet)


@from_dataclasses
def compare(
    runs: Annotated[tuple[Path, ...], Option("Folders that 'prune --run' wrote.", is_argument=True)],
    page: Page = None,
    figures: Figures = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Show accuracy against cost over several runs."""
    from infoprune import report as pages
    from infoprune.files import write_text
    from infoprune.report.figures import comparison_figures

    _check_page(page, figures, force=force)
    opened = [pages.read_run(run) for run in runs]
    files = [] if figures is None else comparison_figures(opened, figures, force=force)
    if page is not None:
        write_text(page, pages.comparison_page(opened), force=force)
    _told(page, figures, len(files), quiet=quiet)


def _check_page(page: Path | None, figures: Path | None, *, force: bool) -> None:
    if page is None and figures is None:
        raise InputError("say what to write: --out report.html, --figures FOLDER, or both")
    from infoprune.cli.output import check_outputs

    check_outputs(page, force=force)


def _told(page: Path | None, figures: Path | None, files: int, *, quiet: bool) -> None:
    if quiet:
        return
    from infoprune.report.terminal import results

    if page is not None:
        results().print(f"page: {page}")
    if figures is not None:
        results().print(f"{files} figures: {figures}")
