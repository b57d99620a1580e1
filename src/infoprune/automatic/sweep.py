"""Several budgets in one run: each network is cut from the repaired one before it, so that all work is shared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from infoprune.automatic.effort import allowance
from infoprune.automatic.prune import prepare
from infoprune.data.batches import Batches
from infoprune.errors import InputError
from infoprune.measure.divergence import Divergence
from infoprune.measure.metric import Metric, Output, Quality
from infoprune.network.cost import Cost, count
from infoprune.network.origin import note_cut
from infoprune.network.several_inputs import takes_several_inputs
from infoprune.options import Effort, chosen
from infoprune.plan import Budget, Plan
from infoprune.progress import Progress, reported
from infoprune.selection.calibration import Calibration


@dataclass(frozen=True)
class Point:
    """One network of a sweep.

    Args:
        macs: Share of the MACs that was asked for.
        model: The pruned and repaired network.
        plan: Its cut, in the indices of the original.
        cost: What it really costs.
        held_out: How far its outputs are from the original's on every fifth image, which no repair uses.
        metric: Value of the metric on held-out images, in its own unit; ``None`` where none was passed.

    Example:
        >>> import torch, infoprune
        >>> _ = torch.manual_seed(0)
        >>> found = infoprune.sweep(infoprune.zoo.build("digits").eval(), [torch.rand(16, 1, 8, 8)], (0.5,))
        >>> found[0].macs
        0.5
    """

    macs: float
    model: nn.Module
    plan: Plan
    cost: Cost
    held_out: Divergence
    metric: float | None = None


@takes_several_inputs
def sweep(
    model: nn.Module,
    images: Batches,
    macs: Sequence[float],
    *,
    effort: Effort = "normal",
    metric: Metric | None = None,
    output: Output | None = None,
    progress: Progress | None = None,
    **choice: Any,
) -> tuple[Point, ...]:
    """Return the networks at several budgets of MACs, the largest first.

    Args:
        model: The trained network; left as it is.
        images: Batches, with or without labels, iterable more than once.
        macs: Shares of the MACs that may remain.
        effort: As in ``prune``; ``"quick"`` does not compare ways, and the steps are the budgets.
        metric: What is also measured of each network on held-out images, as in ``evaluate``.
        output: A part of what the network returns, or a function of it, as in ``evaluate``.
        progress: Called in every stage; by default a bar is drawn on a terminal and in a notebook.
        choice: Layers and limits, as words of ``PruneOptions``.

    Raises:
        InputError: A budget is not above 0 and below 1, or cannot be met.

    Example:
        >>> import torch, infoprune
        >>> net = infoprune.zoo.build("digits").eval()
        >>> points = sweep(net, [torch.rand(40, 1, 8, 8)], (0.5, 0.75), effort="quick")
        >>> [point.macs for point in points], points[0].cost.macs > points[1].cost.macs
        ([0.75, 0.5], True)
    """
    budgets = sorted(set(macs), reverse=True)
    if not budgets or not all(0 < share < 1 for share in budgets):
        raise InputError(f"a sweep takes shares of the MACs above 0 and below 1, not {tuple(macs)}")
    spend, quality = allowance(effort), Quality(metric, output)
    points = []
    with reported(progress) as shown:
        whole = Calibration.of(model, images)
        setting = prepare(whole, chosen(**choice, macs=budgets[-1]), spend, quality=quality, progress=shown)
        descent, level = setting.descent.holding_out(), setting.start
        for share in budgets:
            level = descent.down(level, Budget(macs=share))
            assert level.plan is not None
            away = descent.divergence(level.model, setting.parts.held_out)
            cost = count(level.model, descent.whole.example)
            value = None if metric is None else quality.measure(level.model, setting.parts.judges)[0]
            points.append(Point(share, note_cut(level.model, model, level.plan), level.plan, cost, away, value))
    return tuple(points)
