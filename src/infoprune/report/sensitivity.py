"""The figure of a sensitivity by layer: how far the outputs move when one layer alone is pruned."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infoprune.automatic.sensitivity import LayerSensitivity
from infoprune.errors import InputError
from infoprune.files import check_writable, written_whole
from infoprune.report.figures import figure_style
from infoprune.report.page import package

_FORMATS = (".png", ".svg")
_DOTS_PER_INCH = 200


def check_plot(file: Path, *, force: bool = False) -> None:
    """Refuse a figure that cannot be written, before any work is done.

    Raises:
        InputError: The file is neither ``.png`` nor ``.svg``, exists and ``force`` is not set, cannot be written, or
            Matplotlib is not installed.

    Example:
        >>> check_plot(Path("layers.gif"))
        Traceback (most recent call last):
        infoprune.errors.InputError: a plot is a .png or .svg file, not 'layers.gif'
    """
    if file.suffix.lower() not in _FORMATS:
        raise InputError(f"a plot is a .png or .svg file, not '{file}'")
    package("matplotlib.figure")
    check_writable(file, force=force)


def sensitivity_plot(found: Sequence[LayerSensitivity], file: Path, *, force: bool = False) -> None:
    """Draw the divergence of each layer, one line per ratio, and write it as PNG or SVG.

    Args:
        found: One entry per layer and ratio.
        file: The figure to write; the suffix chooses the format.
        force: Whether a file that exists is replaced.

    Raises:
        InputError: As in :func:`check_plot`.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "layers.svg"
        >>> sensitivity_plot([LayerSensitivity("conv1", 16, 0.5, 0.2, 0.01, 99.0)], file)
        >>> file.exists()
        True
    """
    check_plot(file, force=force)
    kind = file.suffix.lower().removeprefix(".")
    with figure_style():
        layers = list(dict.fromkeys(one.layer for one in found))
        size = (max(5.5, 1.5 + 0.3 * len(layers)), 3.4)
        drawn = package("matplotlib.figure").Figure(figsize=size, layout="constrained")
        _draw(drawn.add_subplot(), found, layers)
        image = io.BytesIO()
        drawn.savefig(image, format=kind, dpi=_DOTS_PER_INCH, metadata={"Date": None} if kind == "svg" else {})
    with written_whole(file, force=force) as temporary:
        temporary.write_bytes(image.getvalue())


def _draw(axes: Any, found: Sequence[LayerSensitivity], layers: Sequence[str]) -> None:
    for ratio in dict.fromkeys(one.ratio for one in found):
        of_ratio = [one for one in found if one.ratio == ratio]
        places = [layers.index(one.layer) for one in of_ratio]
        axes.plot(places, [one.divergence for one in of_ratio], marker="o", markersize=4, label=f"{ratio:.0%}")
    if found and all(one.divergence > 0 for one in found):
        axes.set_yscale("log")
    unit = "nats" if all(one.agreement is not None for one in found) else "relative to the variance"
    axes.set_xticks(range(len(layers)), layers, rotation=90 if len(layers) > 6 else 0)
    axes.set_xlabel("layer that is pruned alone")
    axes.set_ylabel(f"divergence ({unit})")
    axes.legend(title="filters removed")
