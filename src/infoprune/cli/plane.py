"""The command that draws an information plane."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from infoprune.cli.from_dataclass import from_dataclasses
from infoprune.cli.options import Force, Quiet
from infoprune.declarations.option import Option


@from_dataclasses
def plane(
    points: Annotated[Path, Option("What 'infoprune iterate --plane' wrote: .csv or .parquet.", is_argument=True)],
    figures: Annotated[Path, Option("Folder for the three figures, as PNG and SVG.")],
    window: Annotated[int, Option("Points of a layer and round averaged to one.", ge=1, unit="points")] = 1,
    layers: Annotated[tuple[str, ...], Option("Only these layers; repeatable.", default="all")] = (),
    out: Annotated[Path | None, Option("Also write the averaged points: .csv or .parquet.")] = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Draw the information plane of each layer over iterative pruning.

    One path per layer with the rounds marked, and the kernel widths.
    """
    from infoprune.measure.information_plane import averaged, read_points, write_points
    from infoprune.report.information_plane import plane_figures
    from infoprune.report.terminal import messages, results, shown_progress

    noted = [point for point in read_points(points) if not layers or point.layer in layers]
    means = averaged(noted, window)
    with shown_progress(messages(), quiet=quiet) as progress:
        files = plane_figures(means, figures, force=force, progress=progress)
    if out is not None:
        write_points(means, out, force=force)
    if not quiet:
        drawn = len({point.layer for point in means})
        results().print(f"{len(means)} points of {drawn} layers, {len(files)} figures: {figures}", soft_wrap=True)
