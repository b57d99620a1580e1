"""How far a plan depends on the images that it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import Any

from torch import nn

from infoprune.data.batches import Batches
from infoprune.errors import InputError
from infoprune.options import PruneOptions
from infoprune.plan import LayerDecision, Plan
from infoprune.progress import Progress, silent
from infoprune.selection.layerwise.state import state_of_sample
from infoprune.selection.planning import make_plan


def further_plans(
    model: nn.Module,
    samples: Sequence[Batches],
    choice: PruneOptions,
    *,
    held_out: Batches | None = None,
    resume: Path | None = None,
    progress: Progress = silent,
) -> list[Plan]:
    """Make the same plan from each of several samples of calibration images.

    Args:
        model: The network; left as it is.
        samples: ``(images, labels)`` batches each, iterable more than once.
        choice: What is removed, and by what rule.
        held_out: As for ``plan``, the same for all.
        resume: File of the plan that these are compared with; theirs lie beside it and are removed with it.
        progress: Receives the progress of each plan.

    Example:
        >>> import torch
        >>> from infoprune import zoo
        >>> _ = torch.manual_seed(0)
        >>> samples = [[torch.rand(8, 1, 8, 8)], [torch.rand(8, 1, 8, 8)]]
        >>> len(further_plans(zoo.build("digits").eval(), samples, PruneOptions("variance", ratio=0.5)))
        2
    """
    return [
        make_plan(model, sample, choice, held_out=held_out, resume=state_of_sample(resume, number), progress=progress)
        .plan
        for number, sample in enumerate(samples, 1)
    ]  # fmt: skip


def spread(plans: Sequence[Plan]) -> dict[str, dict[str, Any]]:
    """Return by layer how alike the plans are.

    Args:
        plans: Of one network, at least two.

    Returns:
        By layer ``kept``, how many filters each plan keeps; ``overlap``, the mean over pairs of plans of the filters
        both keep as a share of those that either keeps; and, where there are orders, ``kendall_tau``, the mean rank
        correlation of the orders.

    Raises:
        InputError: There are fewer than two plans, or they are of different layers.

    Example:
        >>> from infoprune.plan import LayerDecision
        >>> plans = [Plan({"conv1": LayerDecision("conv1", 4, kept)}) for kept in ((0, 1), (0, 2))]
        >>> spread(plans)["conv1"]["kept"]
        [2, 2]
    """
    if len(plans) < 2:
        raise InputError(f"the spread is that of at least two plans, not of {len(plans)}")
    if any(plan.decisions.keys() != plans[0].decisions.keys() for plan in plans):
        raise InputError("the plans are of different layers: their spread means nothing")
    return {layer: _spread([plan.decisions[layer] for plan in plans]) for layer in plans[0].decisions}


def _spread(decisions: Sequence[LayerDecision]) -> dict[str, Any]:
    pairs = list(combinations(decisions, 2))
    shared = [len({*one.kept} & {*other.kept}) / len({*one.kept} | {*other.kept}) for one, other in pairs]
    found: dict[str, Any] = {"kept": [len(decision.kept) for decision in decisions], "overlap": mean(shared)}
    if all(decision.order is not None for decision in decisions):
        found["kendall_tau"] = mean(_agreement(one.order or (), other.order or ()) for one, other in pairs)
    return found


def _agreement(one: Sequence[int], other: Sequence[int]) -> float:
    if len(one) < 2:
        return 1.0
    places = [sorted(range(len(order)), key=order.__getitem__) for order in (one, other)]
    from scipy.stats import kendalltau  # type: ignore[import-untyped]  # half a second, and only needed here

    return float(kendalltau(*places).statistic)
