"""The command that draws an information plane."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from infoprune.cli.app import app
from infoprune.cli.options import Force, Quiet
from infoprune.measure.information_plane import averaged, read_points, write_points
from infoprune.report.information_plane import plane_figures
from infoprune.report.terminal import messages, results, shown_progress


@app.command()
def plane(
    points: Annotated[Path, typer.Argument(help="What 'infoprune iterate --plane' wrote: .csv or .parquet.")],
    figures: Annotated[Path, typer.Option(help="Folder for the three figures, as PNG and SVG.")],
    window: Annotated[int, typer.Option(min=1, help="Points of a layer and round averaged to one.")] = 1,
    layers: Annotated[list[str] | None, typer.Option(help="Only these layers.")] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the averaged points: .csv or .parquet.")] = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Draw what each layer knew of images and labels: one path a layer, the rounds marked, the kernel widths."""
    noted = [point for point in read_points(points) if not layers or point.layer in layers]
    means = averaged(noted, window)
    with shown_progress(messages(), quiet=quiet) as progress:
        files = plane_figures(means, figures, force=force, progress=progress)
    if out is not None:
        write_points(means, out, force=force)
    if not quiet:
        drawn = len({point.layer for point in means})
        results().print(f"{len(means)} points of {drawn} layers, {len(files)} figures: {figures}", soft_wrap=True)
