"""The JSON record of a run: figures before and after, the plan, seconds, and the settings that repeat it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import StringIO

from rich.console import Console
from rich.table import Table

# Columns of a table where nothing says how wide the paper is.
WIDTH = 100
# Points of accuracy from which a loss is much.
MUCH = 5.0


@dataclass(frozen=True)
class Figures:
    """What was measured of one network.

    Args:
        macs: Multiply-adds of convolution and linear layers for one image.
        parameters: Number of parameters.
        latency_ms: Median milliseconds of one image.
        accuracy: Top-1, percent, ``None`` where there were no test images.
        top5: Top-5, percent.
        loss: Mean cross entropy, nats.
        images: Number of test images.
        latency_spread_ms: Interquartile range of the latency, milliseconds.
        metric: Value of the metric that was measured in place of accuracy, in its own unit.
        metric_name: Its name.
        higher_is_better: Whether a higher value of it is better.
        agreement: Where nothing else was measured, the share of held-aside calibration images, at most 512, on which a
            pruned network names the class of the original, percent. A repair has seen them, so it is an upper bound.
        divergence: The same for the outputs, as ``infoprune.measure.divergence.Divergence`` has it.
        dead_filters: Prunable filters whose map is constant over all calibration images and positions.

    Example:
        >>> Figures(macs=100, parameters=10, latency_ms=1.5).accuracy is None
        True
    """

    macs: int
    parameters: int
    latency_ms: float
    accuracy: float | None = None
    top5: float | None = None
    loss: float | None = None
    images: int | None = None
    dead_filters: int | None = None
    latency_spread_ms: float | None = None
    metric: float | None = None
    metric_name: str | None = None
    higher_is_better: bool | None = None
    agreement: float | None = None
    divergence: float | None = None

    @property
    def points(self) -> float | None:
        """What was measured, in points, so that more is better: accuracy, or the metric times 100.

        Example:
            >>> Figures(100, 10, 1.5, metric=0.25, metric_name="rmse", higher_is_better=False).points
            -25.0
        """
        if self.metric is None:
            return self.accuracy
        return -100 * self.metric if self.higher_is_better is False else 100 * self.metric


@dataclass
class Stopwatch:
    """Seconds by stage, in the order of the stages.

    Example:
        >>> watch = Stopwatch()
        >>> with watch.stage("score"):
        ...     pass
        >>> list(watch.seconds)
        ['score']
    """

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside to the stage of that name."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def removed(base: float, pruned: float) -> float:
    """Return the percent of ``base`` that was removed.

    Example:
        >>> removed(200, 50)
        75.0
    """
    return 100 * (1 - pruned / base)


def comparison(base: Figures, pruned: Figures, title: str = "", as_cut: Figures | None = None) -> Table:
    """Return base and pruned figures side by side, for a terminal; accuracy as cut too, where it was repaired since.

    Example:
        >>> comparison(Figures(100, 10, 1.5), Figures(50, 5, 1.0)).row_count
        3
    """
    table = Table(title=title or None)
    for column in ("", "base", "pruned", "change"):
        table.add_column(column, justify="right" if column else "left")
    if base.accuracy is not None and as_cut is not None and as_cut.accuracy is not None:
        points = as_cut.accuracy - base.accuracy
        table.add_row("as cut (%)", f"{base.accuracy:.2f}", f"{as_cut.accuracy:.2f}", f"{points:+.2f} points")
    if base.accuracy is not None and pruned.accuracy is not None:
        points = pruned.accuracy - base.accuracy
        style = "bold red" if points <= -MUCH else None
        table.add_row(
            "accuracy (%)", f"{base.accuracy:.2f}", f"{pruned.accuracy:.2f}", f"{points:+.2f} points", style=style
        )
    if base.metric is not None and pruned.metric is not None:
        assert base.points is not None and pruned.points is not None  # noqa: PT018 - they follow from the metric
        style = "bold red" if pruned.points - base.points <= -MUCH else None
        change = f"{pruned.metric - base.metric:+.4f}"
        table.add_row(base.metric_name or "metric", f"{base.metric:.4f}", f"{pruned.metric:.4f}", change, style=style)
    if base.loss is not None and pruned.loss is not None:
        table.add_row("loss (nats)", f"{base.loss:.4f}", f"{pruned.loss:.4f}", f"{pruned.loss - base.loss:+.4f}")
    if pruned.agreement is not None:
        points = pruned.agreement - 100
        style = "bold red" if points <= -MUCH else None
        row = ("same class, calibration images (%)", "100.00", f"{pruned.agreement:.2f}", f"{points:+.2f} points")
        table.add_row(*row, style=style)
    elif pruned.divergence is not None:
        table.add_row("change of the outputs (of their variance)", "0.00 %", f"{pruned.divergence:.2%}", "")
    rows: tuple[tuple[str, float, float, str], ...] = (
        ("MACs", base.macs, pruned.macs, ",.0f"),
        ("parameters", base.parameters, pruned.parameters, ",.0f"),
    )
    for name, before, after, form in rows:
        table.add_row(name, format(before, form), format(after, form), f"{-removed(before, after):+.2f} %")
    change = f"{-removed(base.latency_ms, pruned.latency_ms):+.2f} %"
    table.add_row("latency (ms)", _milliseconds(base), _milliseconds(pruned), change)
    return table


def as_text(table: Table) -> str:
    """Return a table as lines of text.

    Example:
        >>> print(as_text(comparison(Figures(100, 10, 1.5), Figures(50, 5, 1.0))).splitlines()[1])
        ┃              ┃ base ┃ pruned ┃   change ┃
    """
    console = Console(file=StringIO(), width=WIDTH)
    with console.capture() as captured:
        console.print(table)
    return captured.get().rstrip()


def _milliseconds(figures: Figures) -> str:
    """Return the latency with half its interquartile range."""
    spread = "" if figures.latency_spread_ms is None else f" ± {figures.latency_spread_ms / 2:.2f}"
    return f"{figures.latency_ms:.2f}{spread}"
