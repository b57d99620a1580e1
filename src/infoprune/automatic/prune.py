"""Cut in steps and repair after each; every choice takes what is closest to the original on held-out images."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from infoprune.automatic.descent import CRITERION, LEAST_SQUARES, Descent, Level, repair_of, scores_of, steps_to
from infoprune.automatic.effort import Allowance
from infoprune.automatic.parts import Parts
from infoprune.automatic.ways import Way, nearest_way, possible_ways, without_unread
from infoprune.criteria.base import Importance
from infoprune.cutoff import Reach
from infoprune.data.batches import Batches
from infoprune.measure.divergence import Divergence, agrees_as_often
from infoprune.measure.metric import PLAIN, Quality
from infoprune.options import PruneOptions
from infoprune.plan import Plan
from infoprune.progress import Progress, silent
from infoprune.runs.together import current
from infoprune.selection.calibration import Calibration
from infoprune.selection.planning import check_feasible, choose_groups, with_what_it_takes


@dataclass(frozen=True)
class Automatic:
    """The network that a run without options ends with, and what was compared.

    Args:
        plan: All cuts together, in the indices of the original network.
        model: The pruned and repaired network.
        importances: Scores of the first cut, by layer.
        ways: Ways to divide the budget between layers, the chosen one first.
        repairs: Divergence on held-out images after each repair that was tried, in order.
        repair: Name of the repair whose result was kept.
        tried: Where a loss is allowed in place of a budget: every size that was judged, as JSON values.

    Example:
        >>> found = Automatic(Plan({}), nn.Linear(2, 2), {}, ways=())
        >>> found.repair
        'least-squares'
    """

    plan: Plan
    model: nn.Module
    importances: Mapping[str, Importance]
    ways: tuple[Way, ...]
    repairs: Mapping[str, Divergence] = field(default_factory=dict)
    repair: str = "least-squares"
    tried: tuple[Mapping[str, Any], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return what was compared, as JSON values."""
        return {
            "ways": [way.to_dict() for way in self.ways],
            "repairs": {
                name: {"divergence": found.value, "agreement": found.agreement, "images": found.images}
                for name, found in self.repairs.items()
            },
            "repair": self.repair,
            **({"tried": [dict(one) for one in self.tried]} if self.tried else {}),
        }


@dataclass(frozen=True)
class Setting:
    """What a run starts with: the way is chosen, the first scores are known.

    Args:
        descent: How the network is made smaller.
        parts: The images that judge.
        ways: The ways, the one that was chosen first.
        start: The original with its scores.

    Example:
        >>> import torch, infoprune
        >>> from infoprune.automatic.effort import allowance
        >>> _ = torch.manual_seed(0)
        >>> whole = Calibration.of(infoprune.zoo.build("digits").eval(), [torch.rand(16, 1, 8, 8)])
        >>> setting = prepare(whole, PruneOptions("reconstruction", ratio=0.5), allowance("quick", None))
        >>> setting.start.plan is None
        True
    """

    descent: Descent
    parts: Parts
    ways: tuple[Way, ...]
    start: Level


def prepare(
    calibration: Calibration,
    choice: PruneOptions,
    spend: Allowance,
    *,
    quality: Quality = PLAIN,
    more: Batches | None = None,
    progress: Progress = silent,
    on_reach: Callable[[Reach], None] | None = None,
) -> Setting:
    """Score the filters once, and choose the way to divide the budget between layers.

    Args:
        calibration: The trained network, which is left as it is, and its images. Labels are not read.
        choice: How much is removed, limits, and layers that may lose filters; its criterion is not read.
        spend: What the run may spend.
        quality: Which part of the output is compared with the original's.
        more: All images there are, for the repair by gradient, those of ``calibration`` first.
        progress: Called in every stage.
        on_reach: Called before anything is scored, with the smallest network possible and the layers that limit it.

    Raises:
        InputError: The budget cannot be met.

    Example:
        >>> import torch, infoprune
        >>> from infoprune.automatic.effort import allowance
        >>> _ = torch.manual_seed(0)
        >>> whole = Calibration.of(infoprune.zoo.build("digits").eval(), [torch.rand(16, 1, 8, 8)])
        >>> len(prepare(whole, PruneOptions("reconstruction", ratio=0.5), allowance("quick", None)).ways)
        1
    """
    choice = replace(choice, criterion=CRITERION, budget_by=CRITERION if choice.budget is not None else None)
    whole = calibration.made_plain()
    choice = with_what_it_takes(whole, without_unread(whole, choice))
    check_feasible(whole, choose_groups(whole.model, whole.groups, choice), choice, on_reach)
    parts = Parts.of(whole.batches, whole.model)
    ways = possible_ways(whole, choice)
    importances = scores_of(whole, choice, ways, progress)
    if spend.compares and len(ways) > 1:
        ways = nearest_way(ways, whole, choice, importances, parts, progress, quality)
    descent = Descent(whole, choice, ways[0], progress=progress, quality=quality, more=more)
    return Setting(descent, parts, ways, descent.start(importances))


def prune_automatically(
    calibration: Calibration,
    choice: PruneOptions,
    spend: Allowance,
    *,
    quality: Quality = PLAIN,
    more: Batches | None = None,
    progress: Progress = silent,
    on_reach: Callable[[Reach], None] | None = None,
) -> Automatic:
    """Meet a budget with the smallest loss within the allowance.

    Args and errors are those of :func:`prepare`.

    Example:
        >>> import torch, infoprune
        >>> from infoprune.automatic.effort import allowance
        >>> _ = torch.manual_seed(0)
        >>> whole = Calibration.of(infoprune.zoo.build("digits").eval(), [torch.rand(16, 1, 8, 8)])
        >>> found = prune_automatically(whole, PruneOptions("reconstruction", ratio=0.5), allowance("quick", None))
        >>> found.model.features[0].out_channels
        8
    """
    begun = time.perf_counter()
    setting = prepare(calibration, choice, spend, quality=quality, more=more, progress=progress, on_reach=on_reach)
    spend = spend if more is None else spend.of_many_images()
    # Networks of several steps are compared with that of one cut: no image that judges may have repaired them.
    descent = setting.descent.holding_out() if spend.steps > 1 else setting.descent
    budgets = {len(some): some for some in (steps_to(choice.budget, descent.choice, n) for n in (1, spend.steps))}
    levels = {steps: descent.stepped(setting.start, some) for steps, some in budgets.items()}
    left = None if spend.minutes is None else spend.minutes - (time.perf_counter() - begun) / 60
    return finish(setting, levels, spend, left)


def finish(setting: Setting, levels: Mapping[int, Level], spend: Allowance, minutes: float | None) -> Automatic:
    """Repair the cut, or, of several cuts or with time for a gradient, take what is nearest on held-out images.

    Args:
        setting: What the run started with.
        levels: The last cut, by the number of steps that led to it.
        spend: What the run may spend.
        minutes: Minutes left for the whole end; without, no gradient.

    Example:
        >>> import torch, infoprune
        >>> from infoprune.automatic.effort import allowance
        >>> _ = torch.manual_seed(0)
        >>> whole = Calibration.of(infoprune.zoo.build("digits").eval(), [torch.rand(16, 1, 8, 8)])
        >>> setting = prepare(whole, PruneOptions("reconstruction", ratio=0.5), allowance("quick", None))
        >>> finish(setting, {1: setting.descent.cut(setting.start, None)}, allowance("quick", None), None).repair
        'least-squares'
    """
    descent = setting.descent
    if len(levels) > 1 or minutes is not None:
        best, kept, found = _nearest(setting, levels, spend, minutes)
    else:
        (level,) = levels.values()
        best, kept = descent.repair(level, spend.rounds), repair_of(spend.rounds)
        found = {kept: descent.divergence(best.model, setting.parts.held_out)}
    assert best.plan is not None
    importances = setting.start.importances or {}
    return Automatic(best.plan, best.model, importances, setting.ways, found, kept)


def _nearest(
    setting: Setting, levels: Mapping[int, Level], spend: Allowance, minutes: float | None
) -> tuple[Level, str, dict[str, Divergence]]:
    """Return the cut and repair that are nearest on images that nothing was fitted to, and all that was found.

    A closed form that is nearest is run again with all images; the gradient holds out the same images by itself.
    """
    begun = time.perf_counter()
    descent, judges, fitting = setting.descent, setting.parts.held_out, setting.descent.holding_out()
    found: dict[str, Divergence] = {}
    tried: dict[str, tuple[Level, int]] = {}

    def attempt(name: str, level: Level, rounds: int = 0) -> None:
        tried[name] = (level, rounds)
        found[name] = descent.divergence(fitting.repair(level, rounds).model, judges)

    def nearest() -> str:
        return min(found, key=lambda name: found[name].value)

    for steps, level in levels.items():
        attempt(LEAST_SQUARES if steps == 1 else f"{LEAST_SQUARES}, {steps} steps", level)
    if spend.rounds:
        attempt(repair_of(spend.rounds), tried[nearest()][0], spend.rounds)
    level, rounds = tried[nearest()]
    before = found[nearest()]
    # A closed form that stays the nearest is run once more, which takes no longer than all of them together.
    left = None if minutes is None else current().agreed(minutes - 2 * (time.perf_counter() - begun) / 60)
    if left is not None and left > 1:
        drawn = descent.trained(level, left)
        found["distil"] = descent.divergence(drawn.model, judges)
        if found["distil"].value < before.value and agrees_as_often(found["distil"], before):
            return drawn, "distil", found
    return descent.repair(level, rounds), repair_of(rounds), found
