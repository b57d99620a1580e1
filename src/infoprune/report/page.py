"""One page that shows a run: everything inside it, opened offline by any browser."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from infoprune.errors import InputError
from infoprune.measure.information_plane import PlanePoint, averaged
from infoprune.measure.record import MUCH
from infoprune.report import views
from infoprune.report.run import Run
from infoprune.report.views import LayerView, layer_views
from infoprune.version import __version__

_FOLDER = Path(__file__).parent
# A reader can distinguish up to this number of points on a layer's path.
_MOMENTS = 40
# Tiles side by side in the one picture that holds all maps of a layer.
_COLUMNS = 32


def page(run: Run, against: Sequence[Run] = ()) -> str:
    """Return the page of a run as HTML.

    Args:
        run: What is shown.
        against: Other runs to compare with, such as L1 and random selection.

    Raises:
        InputError: Jinja2 or Plotly is not installed.

    Example:
        >>> import torch, infoprune
        >>> from infoprune.report.keep import kept_run
        >>> net, batches = infoprune.zoo.build("digits").eval(), [(torch.rand(8, 1, 8, 8), torch.arange(8))]
        >>> result = infoprune.prune(net, batches, criterion="l1", ratio=0.5, repair=None)
        >>> run = kept_run(net, result, result.record(), batches, name="l1")
        >>> "features.0" in page(run)
        True
    """
    layers = layer_views(run)
    return rendered(
        "page.html.j2",
        title=f"{views.network_of(run)} pruned by {views.criterion_of(run)}",
        run=run,
        settings=json.dumps(run.settings, indent=1),
        rows=views.summary_rows(run),
        runs=comparison_rows([run, *against]) if against else [],
        layers=[_layer_row(view) for view in layers],
        images=[] if run.pictures is None else [picture(image) for image in run.pictures.images],
        data={
            "layers": [layer_values(view) for view in layers],
            "criterion": views.criterion_of(run),
            "plane": plane_values(run.plane),
        },
        short=views.short,
    )


def rendered(template: str, **values: Any) -> str:
    """Return a template of this folder with Plotly, styles and script inside it.

    Raises:
        InputError: Jinja2 or Plotly is not installed.

    Example:
        >>> rendered("no_such_template.j2")
        Traceback (most recent call last):
            ...
        jinja2.exceptions.TemplateNotFound: no_such_template.j2
    """
    jinja2, plotly = package("jinja2"), package("plotly.offline")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["inline_json"] = _inline_json
    inside = {name: (_FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", "page.js")}
    return str(
        environment.get_template(template).render(
            **values,
            css=inside["page.css"],
            script=inside["page.js"],
            plotly=plotly.get_plotlyjs(),
            version=__version__,
            much=MUCH,
        )
    )


def check_pages(path: Path | None) -> None:
    """Refuse a page that needs a package that is not installed, before any work is done.

    Raises:
        InputError: A page is asked for, and Jinja2 or Plotly is not installed.

    Example:
        >>> check_pages(None)
    """
    for name in () if path is None else ("jinja2", "plotly.offline"):
        package(name)


def package(name: str) -> Any:
    """Return a module that only reports need.

    Raises:
        InputError: It is not installed.

    Example:
        >>> package("jinja2").__name__
        'jinja2'
    """
    try:
        return import_module(name)
    except ImportError as error:
        missing = name.partition(".")[0]
        raise InputError(f"reports need the package '{missing}': pip install 'infoprune[report]'") from error


def comparison_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return one row of figures for every run.

    Example:
        >>> import torch, infoprune
        >>> from infoprune.report.keep import kept_run
        >>> net, batches = infoprune.zoo.build("digits").eval(), [(torch.rand(8, 1, 8, 8), torch.arange(8))]
        >>> result = infoprune.prune(net, batches, criterion="l1", ratio=0.5, repair=None)
        >>> run = kept_run(net, result, result.record(), batches, name="l1")
        >>> comparison_rows([run])[0]["name"]
        'l1'
    """
    found = []
    for run in runs:
        base, pruned = run.record["base"], run.record["pruned"]
        found.append(
            {
                "name": run.name or views.criterion_of(run),
                "criterion": views.criterion_of(run),
                "network": views.network_of(run),
                "accuracy": pruned.get("accuracy"),
                "base_accuracy": base.get("accuracy"),
                **{each: pruned[each] for each in ("macs", "parameters", "latency_ms")},
                **{f"base_{each}": base[each] for each in ("macs", "parameters", "latency_ms")},
            }
        )
    return found


def layer_values(view: LayerView) -> dict[str, Any]:
    """Return what the script of the page needs to draw one layer, as JSON values.

    Example:
        >>> import torch, infoprune
        >>> from infoprune.report.keep import kept_run
        >>> net, batches = infoprune.zoo.build("digits").eval(), [(torch.rand(8, 1, 8, 8), torch.arange(8))]
        >>> result = infoprune.prune(net, batches, criterion="l1", ratio=0.5, repair=None)
        >>> run = kept_run(net, result, result.record(), batches, name="l1")
        >>> from infoprune.report.views import layer_views
        >>> isinstance(layer_values(layer_views(run)[0]), dict)
        True
    """
    decision = view.decision
    return {
        "name": decision.layer,
        "filters": decision.filters,
        "kept": list(decision.kept),
        "coupled": list(decision.coupled),
        "reason": decision.reason,
        "figure": view.figure,
        "order": list(view.order),
        "scores": None if decision.scores is None else [_digits(score) for score in decision.scores],
        "curve": None if decision.curve is None else [_digits(value) for value in decision.curve],
        "saturated_at": view.saturated_at,
        "saturation": None if view.saturation is None else _digits(view.saturation),
        "candidates": [[one.count, one.accuracy] for one in view.candidates],
        "matrix": None if view.similarity is None else _matrix(view.similarity),
        "maps": None if view.maps is None else sprite(view.maps),
        "pairs": [[pair.removed, pair.kept, _digits(pair.alike)] for pair in view.pairs],
        "pairs_by": view.pairs_by,
    }


def plane_values(points: Sequence[PlanePoint]) -> list[dict[str, Any]]:
    """Return the paths of the layers in the information plane, a few dozen points each, as JSON values.

    Example:
        >>> from infoprune.measure.information_plane import PlanePoint
        >>> len(plane_values([PlanePoint(0, step, "conv1", 6.0, 2.0, 0.5) for step in range(3)]))
        1
    """
    if not points:
        return []
    moments = len({(point.round, point.step) for point in points})
    shown = averaged(points, max(1, moments // _MOMENTS))
    paths = []
    for layer in dict.fromkeys(point.layer for point in shown):
        path = [point for point in shown if point.layer == layer]
        paths.append(
            {
                "layer": layer,
                "input": [_digits(point.input_bits) for point in path],
                "label": [_digits(point.label_bits) for point in path],
                "width": [_digits(point.width) for point in path],
                "round": [point.round for point in path],
                "step": [point.step for point in path],
            }
        )
    return paths


def sprite(maps: Tensor) -> dict[str, Any]:
    """Return ``(images, C, h, w)`` uint8 maps as one picture: a tile per filter, its images one above the other.

    Example:
        >>> import torch
        >>> sorted(sprite(torch.zeros(2, 3, 4, 4, dtype=torch.uint8)))[-1]
        'width'
    """
    images, filters, height, width = maps.shape
    columns = min(_COLUMNS, filters)
    rows = -(-filters // columns)
    sheet = torch.zeros(rows * columns, images, height, width, dtype=torch.uint8)
    sheet[:filters] = maps.movedim(1, 0)
    sheet = sheet.view(rows, columns, images * height, width).permute(0, 2, 1, 3)
    return {
        "src": _png(Image.fromarray(sheet.reshape(rows * images * height, columns * width).numpy())),
        "columns": columns,
        "rows": rows,
        "images": images,
        "height": height,
        "width": width,
    }


def picture(image: Tensor) -> str:
    """Return a ``(C, H, W)`` uint8 image as a data address; with other than one or three channels, its first.

    Example:
        >>> import torch
        >>> picture(torch.zeros(1, 8, 8, dtype=torch.uint8))[:21]
        'data:image/png;base64'
    """
    pixels = image.movedim(0, 2).numpy() if image.shape[0] == 3 else image[0].numpy()
    return _png(Image.fromarray(pixels))


def _layer_row(view: LayerView) -> dict[str, Any]:
    decision = view.decision
    saved = None if not view.macs or view.macs_after is None else 100 * (1 - view.macs_after / view.macs)
    return {
        "name": decision.layer,
        "coupled": decision.coupled,
        "filters": decision.filters,
        "kept": len(decision.kept),
        "macs": view.macs,
        "macs_after": view.macs_after,
        "saved": saved,
    }


def _matrix(similarity: Tensor) -> dict[str, Any]:
    low, high = float(similarity.min()), float(similarity.max())
    scaled = ((similarity - low) / ((high - low) or 1.0) * 255).round().to(torch.uint8)
    return {"low": low, "high": high, "bytes": base64.b64encode(scaled.numpy().tobytes()).decode()}


def _png(image: Image.Image) -> str:
    written = io.BytesIO()
    image.save(written, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(written.getvalue()).decode()


def _digits(value: float) -> float:
    return float(f"{value:.6g}")


def _inline_json(values: Any) -> Any:
    # No "<" may stand inside a script element: it could end it.
    text = json.dumps(values, separators=(",", ":")).replace("<", "\\u003c")
    return package("markupsafe").Markup(text)
