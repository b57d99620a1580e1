"""The three figures of an information plane, as in arXiv 2202.10716: the paths, the rounds marked, the widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from infoprune.errors import InputError
from infoprune.measure.information_plane import PlanePoint
from infoprune.progress import Progress, silent
from infoprune.report.figures import GONE, SOFT, write_drawings

# How much of a layer's colour there is at the first point; all of it at the last.
_LIGHTEST = 0.25


def plane_figures(
    points: Sequence[PlanePoint], folder: Path, *, force: bool = False, progress: Progress = silent
) -> list[Path]:
    """Write the figures ``plane``, ``plane_rounds`` and ``plane_widths`` as PNG and SVG.

    Args:
        points: In the order of the steps, averaged over windows if they are many.
        folder: Folder of the files.
        force: Replace files that exist.
        progress: Called after every figure.

    Returns:
        The files.

    Raises:
        InputError: There are no points, a file exists and ``force`` is not set, or Matplotlib is not installed.

    Example:
        >>> import tempfile
        >>> points = [PlanePoint(0, step, "conv1", 6.0, 2.0, 0.5) for step in range(3)]
        >>> len(plane_figures(points, Path(tempfile.mkdtemp()) / "figures"))
        6
    """
    if not points:
        raise InputError("there are no points to draw: was the plane noted at any step?")
    paths = _paths(points)
    drawings = {
        "plane": lambda axes: _draw_plane(axes, paths, rounds=False),
        "plane_rounds": lambda axes: _draw_plane(axes, paths, rounds=True),
        "plane_widths": lambda axes: _draw_widths(axes, paths),
    }
    return write_drawings(drawings, folder, force, progress)


Colour = tuple[float, float, float]
Paths = Mapping[str, Sequence[tuple[int, PlanePoint]]]
"""By layer, its points with their place in time."""


def _paths(points: Sequence[PlanePoint]) -> Paths:
    place = {moment: i for i, moment in enumerate(dict.fromkeys((point.round, point.step) for point in points))}
    found: dict[str, list[tuple[int, PlanePoint]]] = {}
    for point in points:
        found.setdefault(point.layer, []).append((place[point.round, point.step], point))
    return found


def _draw_plane(axes: Any, paths: Paths, *, rounds: bool) -> None:
    end = max(time for path in paths.values() for time, _ in path) or 1
    for (layer, path), colour in zip(paths.items(), _colours(len(paths)), strict=True):
        x, y = [point.input_bits for _, point in path], [point.label_bits for _, point in path]
        axes.plot(x, y, color=_mixed(colour, 0.5), lw=0.5, alpha=0.5, zorder=1)
        shades = [_mixed(colour, _LIGHTEST + (1 - _LIGHTEST) * time / end) for time, _ in path]
        axes.scatter(x, y, c=shades, s=8, zorder=2, lw=0)
        axes.plot([], [], "o", color=colour, ms=4, label=layer)
        if rounds:
            _mark_rounds(axes, path)
    axes.set_xlabel("I(X;L), information about the image (bits)")
    axes.set_ylabel("I(L;Y), information about the label (bits)")
    axes.set_title("light to dark: training time" + (", crosses: after a cut" if rounds else ""), fontsize=9)
    axes.legend(frameon=False, fontsize=6, ncol=1 + len(paths) // 12, loc="best")


def _mark_rounds(axes: Any, path: Sequence[tuple[int, PlanePoint]]) -> None:
    starts = [point for (_, before), (_, point) in pairwise(path) if point.round > before.round]
    axes.plot([p.input_bits for p in starts], [p.label_bits for p in starts], "x", color=GONE, ms=4, mew=0.8, zorder=3)
    for point in starts if len(starts) <= 6 else ():
        axes.annotate(str(point.round), (point.input_bits, point.label_bits), fontsize=6, color=SOFT,
                      xytext=(3, 3), textcoords="offset points")  # fmt: skip


def _draw_widths(axes: Any, paths: Paths) -> None:
    for (layer, path), colour in zip(paths.items(), _colours(len(paths)), strict=True):
        axes.plot([time for time, _ in path], [point.width for _, point in path], color=colour, lw=1, label=layer)
    longest = max(paths.values(), key=lambda path: len(path))
    for (_, before), (time, point) in pairwise(longest):
        if point.round > before.round:
            axes.axvline(time, color=SOFT, lw=0.4, ls=":")
    axes.set_yscale("log")
    axes.set_xlabel("training time (points noted); dotted: cuts")
    axes.set_ylabel("width of the layer's kernel")
    axes.legend(frameon=False, fontsize=6, ncol=1 + len(paths) // 12)


def _colours(count: int) -> list[Colour]:
    """Return one colour per layer; many layers get a colour scale in the order of the network."""
    from matplotlib import colormaps

    if count <= 10:
        return [colormaps["tab10"](number)[:3] for number in range(count)]
    return [colormaps["turbo"](0.05 + 0.9 * number / (count - 1))[:3] for number in range(count)]


def _mixed(colour: Colour, share: float) -> Colour:
    """Return a colour mixed with white."""
    red, green, blue = (1 - share * (1 - part) for part in colour)
    return red, green, blue
