"""Sensitivity by layer: which layers may lose many filters, and which should keep all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from infoprune.automatic.descent import CRITERION, scores_of
from infoprune.automatic.parts import Parts
from infoprune.automatic.ways import possible_ways
from infoprune.data.batches import Batches
from infoprune.errors import InputError
from infoprune.measure.divergence import Answers, divergence_between
from infoprune.measure.metric import Metric, Output, Quality
from infoprune.network import surgery
from infoprune.network.several_inputs import takes_several_inputs
from infoprune.options import PruneOptions, RepairOptions
from infoprune.progress import Progress, reported
from infoprune.repair import repaired
from infoprune.selection.calibration import Calibration
from infoprune.selection.planning import plan_for

RATIOS = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class LayerSensitivity:
    """What one coupled group loses when it alone is cut and the network is repaired.

    Args:
        layer: Layer that names the group.
        filters: How many filters it has.
        ratio: Share of them that was removed.
        macs: Share of the network's MACs that this saves.
        divergence: Of the outputs from the original's on held-out images; see ``measure.divergence``.
        agreement: Held-out images on which the same class is named, percent; ``None`` for other outputs.
        loss: Points that the metric loses on held-out images, hundredths of its unit; ``None`` where none was passed.

    Example:
        >>> LayerSensitivity("conv1", 16, 0.5, 0.2, 0.01, 99.0).to_dict()["layer"]
        'conv1'
    """

    layer: str
    filters: int
    ratio: float
    macs: float
    divergence: float
    agreement: float | None
    loss: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the values as JSON values."""
        return asdict(self)


@takes_several_inputs
def sensitivity(
    model: nn.Module,
    images: Batches,
    ratios: Sequence[float] = RATIOS,
    *,
    layers: tuple[str, ...] = (),
    skip: tuple[str, ...] = (),
    metric: Metric | None = None,
    output: Output | None = None,
    progress: Progress | None = None,
) -> tuple[LayerSensitivity, ...]:
    """Cut each coupled group alone, repair by least squares, and compare with the original on held-out images.

    Args:
        model: The trained network; left as it is.
        images: Batches, with or without labels, iterable more than once; the first hundreds are used.
        ratios: Shares of the filters to remove, each above 0 and below 1.
        layers: Patterns of layers to look at; by default every convolution.
        skip: Patterns of layers to leave out.
        metric: What is also measured on held-out images, which then need targets; as in ``evaluate``.
        output: A part of what the network returns, or a function of it, as in ``evaluate``.
        progress: Called after every cut; by default a bar is drawn on a terminal and in a notebook.

    Raises:
        InputError: A ratio is out of range, or the images do not fit the network.

    Example:
        >>> import torch, infoprune
        >>> net = infoprune.zoo.build("digits").eval()
        >>> found = sensitivity(net, [torch.rand(40, 1, 8, 8)], (0.5,), layers=("features.3",))
        >>> found[0].layer, found[0].ratio, found[0].agreement is not None
        ('features.3', 0.5, True)
    """
    if not ratios or not all(0 < ratio < 1 for ratio in ratios):
        raise InputError(f"ratios are shares of the filters above 0 and below 1, not {tuple(ratios)}")
    choice = PruneOptions(criterion=CRITERION, ratio=max(ratios), layers=layers, skip=skip)
    whole = Calibration.of(model, images).made_plain()
    parts, quality = Parts.of(images, whole.model), Quality(metric, output)
    original = Answers(quality.answers(whole.model))
    best = None if metric is None else quality.points(quality.measure(whole.model, parts.judges)[0])
    found = []
    with reported(progress) as shown:
        importances = scores_of(whole, choice, possible_ways(whole, choice), shown)
        steps = len(importances) * len(ratios)
        for name in importances:
            for ratio in ratios:
                alone = PruneOptions(criterion=CRITERION, ratio=ratio, layers=(name,))
                plan = plan_for(whole, alone, importances=importances).plan
                cut = surgery.apply(plan, whole.model, whole.example, groups=whole.groups)
                small = repaired(cut, whole.model, parts.fit, plan, whole.groups, how=RepairOptions("least-squares"))
                away = divergence_between(original, quality.answers(small.eval()), parts.held_out)
                lost = None if best is None else best - quality.points(quality.measure(small, parts.judges)[0])
                saved = 1 - whole.costs.cost(plan.kept).macs / whole.costs.base.macs
                filters = plan.decisions[name].filters
                found.append(LayerSensitivity(name, filters, ratio, saved, away.value, away.agreement, lost))
                shown("sensitivity", len(found), steps)
    return tuple(found)
