"""The figures of a report as PNG and SVG, for papers."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from infoprune.files import check_writable, written_whole
from infoprune.progress import Progress, silent
from infoprune.report import views
from infoprune.report.comparison import COSTS, distinct, pareto_front
from infoprune.report.page import comparison_rows, package
from infoprune.report.run import Run
from infoprune.report.views import LayerView, layer_views

KEPT, GONE, SOFT = "#2464b4", "#c25b12", "#566270"
LABELS = {"macs": "MACs", "parameters": "parameters", "latency_ms": "latency (ms)"}
_FORMATS = ("png", "svg")
_DOTS_PER_INCH = 200


def run_figures(run: Run, folder: Path, *, force: bool = False, progress: Progress = silent) -> list[Path]:
    """Write the widths of all layers, and for every layer the figure of its criterion, as PNG and SVG.

    Returns:
        The files.

    Raises:
        InputError: A file exists and ``force`` is not set, or cannot be written, or Matplotlib is not installed.

    Example:
        >>> import tempfile, torch, infoprune
        >>> from infoprune.report.keep import kept_run
        >>> net, batches = infoprune.zoo.build("digits").eval(), [(torch.rand(8, 1, 8, 8), torch.arange(8))]
        >>> result = infoprune.prune(net, batches, criterion="l1", ratio=0.5, repair=None)
        >>> run = kept_run(net, result, result.record(), batches, name="l1")
        >>> files = run_figures(run, Path(tempfile.mkdtemp()) / "figures")
        >>> sorted({file.suffix for file in files})
        ['.png', '.svg']
    """
    layers = layer_views(run)
    drawings: dict[str, Callable[[Any], None]] = {"filters": lambda axes: _widths(axes, layers)}
    for view in layers:
        if view.figure != "none":
            drawings[f"layer.{view.decision.layer}"] = _layer(view, views.criterion_of(run))
    return write_drawings(drawings, folder, force, progress)


def comparison_figures(runs: Sequence[Run], folder: Path, *, force: bool = False) -> list[Path]:
    """Write accuracy against MACs, parameters and latency as PNG and SVG.

    Returns:
        The files.

    Raises:
        InputError: As in :func:`run_figures`.

    Example:
        >>> import tempfile, torch, infoprune
        >>> from infoprune.report.keep import kept_run
        >>> net, batches = infoprune.zoo.build("digits").eval(), [(torch.rand(8, 1, 8, 8), torch.arange(8))]
        >>> result = infoprune.prune(net, batches, criterion="l1", ratio=0.5, repair=None)
        >>> run = kept_run(net, result, result.record(), batches, name="l1")
        >>> files = comparison_figures([run], Path(tempfile.mkdtemp()) / "figures")
        >>> all(file.exists() for file in files)
        True
    """
    rows = [row for row in comparison_rows(distinct(runs)) if row["accuracy"] is not None]
    return write_drawings({f"accuracy_against_{cost}": _tradeoff(rows, cost) for cost in COSTS}, folder, force, silent)


def figure_style() -> AbstractContextManager[None]:
    """Return a context in which Matplotlib draws in the style of the reports.

    With its fixed salt, and files without a date, the same run writes the same bytes.

    Raises:
        InputError: Matplotlib is not installed.

    Example:
        >>> import matplotlib
        >>> with figure_style():
        ...     matplotlib.rcParams["font.size"]
        9.0
    """
    style = {"svg.hashsalt": "infoprune", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    context: AbstractContextManager[None] = package("matplotlib").rc_context(style)
    return context


def write_drawings(
    drawings: dict[str, Callable[[Any], None]], folder: Path, force: bool, progress: Progress
) -> list[Path]:
    """Draw each figure on axes of its own and write it as PNG and SVG, by its name.

    Raises:
        InputError: As in :func:`run_figures`.

    Example:
        >>> import tempfile
        >>> from infoprune.progress import silent
        >>> drawings = {"line": lambda axes: axes.plot([1, 2])}
        >>> files = write_drawings(drawings, Path(tempfile.mkdtemp()) / "figures", False, silent)
        >>> sorted(file.name for file in files)
        ['line.png', 'line.svg']
    """
    figure = package("matplotlib.figure")
    files = []
    for name in drawings:
        for kind in _FORMATS:
            check_writable(folder / f"{name}.{kind}", force=force)
    with figure_style():
        for name, draw in drawings.items():
            drawn = figure.Figure(figsize=(5.5, 3.4), layout="constrained")
            draw(drawn.add_subplot())
            for kind in _FORMATS:
                written = io.BytesIO()
                metadata = {"Date": None} if kind == "svg" else {}
                drawn.savefig(written, format=kind, dpi=_DOTS_PER_INCH, metadata=metadata)
                path = folder / f"{name}.{kind}"
                with written_whole(path, force=force) as temporary:
                    temporary.write_bytes(written.getvalue())
                files.append(path)
            progress("drawing figures", len(files) // len(_FORMATS), len(drawings))
    return files


def _layer(view: LayerView, criterion: str) -> Callable[[Any], None]:
    draw = {"curve": _curve, "matrix": _matrix, "scores": _scores}[view.figure]
    return lambda axes: draw(axes, view, criterion)


def _widths(axes: Any, layers: Sequence[LayerView]) -> None:
    places = range(len(layers))
    axes.bar(places, [view.decision.filters for view in layers], color="none", edgecolor=GONE, hatch="////", lw=0.5,
             label="removed")  # fmt: skip
    axes.bar(places, [len(view.decision.kept) for view in layers], color=KEPT, label="kept")
    if len(layers) <= 20:
        axes.set_xticks(list(places), [view.decision.layer for view in layers], rotation=60, ha="right")
    else:
        axes.set_xlabel("layer, in the order of the network")
    axes.set_ylabel("filters")
    axes.legend(frameon=False)


def _curve(axes: Any, view: LayerView, criterion: str) -> None:
    decision = view.decision
    curve = decision.curve or ()
    kept = set(decision.kept)
    axes.plot(range(1, len(curve) + 1), curve, color=SOFT, lw=0.8)
    for name, inside, tone, marker in (("kept", True, KEPT, "o"), ("removed", False, GONE, "x")):
        some = [place for place, chosen in enumerate(view.order) if (chosen in kept) is inside]
        axes.plot([i + 1 for i in some], [curve[i] for i in some], marker, color=tone, ms=4, label=name)
    places = [one.count for one in view.candidates]
    if len(places) > 1:
        axes.plot(places, [curve[place - 1] for place in places], "D", color="black", mfc="none", ms=8,
                  label="candidates")  # fmt: skip
    axes.axvline(len(decision.kept) + 0.5, color=GONE, lw=1.2, label=f"cut: {len(decision.kept)} kept")
    if view.saturated_at is not None and view.saturated_at < decision.filters:
        axes.axvline(view.saturated_at + 0.5, color=SOFT, ls=":", label=f"saturated after {view.saturated_at}")
    axes.set_xlabel("filters in the order of the criterion")
    axes.set_ylabel("information left (bits)" if criterion == "cmi" else "value left")
    axes.set_title(decision.layer)
    axes.legend(frameon=False)


def _scores(axes: Any, view: LayerView, criterion: str) -> None:
    scores, kept = view.decision.scores or (), set(view.decision.kept)
    for name, inside, tone, hatch in (("kept", True, KEPT, None), ("removed", False, GONE, "////")):
        some = [place for place, chosen in enumerate(view.order) if (chosen in kept) is inside]
        heights = [scores[view.order[place]] for place in some]
        axes.bar([place + 1 for place in some], heights, width=0.9, color=tone, label=name,
                 hatch=hatch if len(scores) <= 64 else None, edgecolor="white" if hatch else tone, lw=0)  # fmt: skip
    axes.set_xlabel("filters, most important first")
    axes.set_ylabel("relevance (bits)" if criterion == "hrel" else f"importance by {criterion}")
    axes.set_title(view.decision.layer)
    axes.legend(frameon=False)


def _matrix(axes: Any, view: LayerView, criterion: str) -> None:
    assert view.similarity is not None
    kept = set(view.decision.kept)
    order = [f for f in view.order if f in kept] + [f for f in view.order if f not in kept]
    shown = axes.imshow(view.similarity[order][:, order].numpy(), cmap="cividis", interpolation="nearest")
    axes.figure.colorbar(shown, ax=axes, label=f"similarity ({criterion})")
    for line in (axes.axvline, axes.axhline):
        line(len(kept) - 0.5, color=GONE, lw=1.2)
    axes.set_xlabel("filters, kept before removed")
    axes.set_title(view.decision.layer)


def _tradeoff(rows: Sequence[dict[str, Any]], cost: str) -> Callable[[Any], None]:
    def draw(axes: Any) -> None:
        front = pareto_front([(row[cost], row["accuracy"]) for row in rows])
        axes.step([rows[i][cost] for i in front], [rows[i]["accuracy"] for i in front], where="post", color=KEPT,
                  label="Pareto front")  # fmt: skip
        # By accuracy, so that the names of neighbours alternate between left and right.
        for turn, index in enumerate(sorted(range(len(rows)), key=lambda i: -rows[i]["accuracy"])):
            row, on_it = rows[index], index in front
            axes.plot(row[cost], row["accuracy"], "o", color=KEPT if on_it else GONE, mfc=None if on_it else "none")
            aside, way = (-7, "right") if turn % 2 else (7, "left")
            axes.annotate(row["name"], (row[cost], row["accuracy"]), xytext=(aside, 0), textcoords="offset points",
                          ha=way, va="center", fontsize=8)  # fmt: skip
        known = [row for row in rows if row["base_accuracy"] is not None]
        axes.plot([row[f"base_{cost}"] for row in known], [row["base_accuracy"] for row in known], "*", color=SOFT,
                  ms=9, label="before pruning")  # fmt: skip
        axes.set_xlim(left=0)
        axes.set_xlabel(LABELS[cost])
        axes.set_ylabel("accuracy (%)")
        axes.legend(frameon=False)

    return draw
