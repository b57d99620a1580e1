"""Prune in steps: each network is cut from the repaired one before it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from infoprune import criteria
from infoprune.automatic.ways import Way, with_way
from infoprune.criteria.base import Importance
from infoprune.criteria.scoring import score
from infoprune.data.batches import Batches, EveryNth
from infoprune.measure.divergence import Divergence, divergence_between
from infoprune.measure.metric import PLAIN, Quality
from infoprune.network import surgery
from infoprune.options import PruneOptions, RepairOptions
from infoprune.plan import Budget, Plan
from infoprune.progress import Progress, silent
from infoprune.regression.layer_fit import HELD_OUT_EVERY
from infoprune.repair import repaired
from infoprune.selection.calibration import Calibration
from infoprune.selection.planning import choose_groups, plan_for

# Scores filters and divides budgets: of all criteria, its networks lose least accuracy once they are repaired.
CRITERION = "reconstruction"
LEAST_SQUARES = "least-squares"
# How much more an error counts in the last layer than in the first, as a logarithm. On images that neither scored nor
# repaired, late layers lose more than was measured. 0, 0.25 and 0.5 leave ResNet-56 0.140, 0.131 and 0.133 nats from
# the original on other images after least squares, MobileNetV2 0.265, 0.256 and 0.244.
_LATE = 0.5


@dataclass(frozen=True)
class Level:
    """One network of a stepwise pruning.

    Args:
        plan: All cuts so far together, in the indices of the original; ``None`` for the original.
        model: The network, cut and perhaps repaired.
        importances: Scores by layer that the next cut is made by, ``None`` where they are not known yet.

    Example:
        >>> level = Level(plan=None, model=nn.Linear(2, 2))
        >>> level.plan is None  # the original
        True
    """

    plan: Plan | None
    model: nn.Module
    importances: Mapping[str, Importance] | None = None


@dataclass(frozen=True)
class Descent:
    """How a network is made smaller step by step.

    Args:
        whole: The trained network, in eval mode, with the images that choose filters and repair; left as it is.
        choice: Limits, and the layers that may lose filters; budgets are passed to ``down``.
        way: How budgets are divided between the layers.
        progress: Called in every stage.
        quality: Which part of the output is compared with the original's.
        more: All images there are, for the repair by gradient, those of ``whole`` first; by default these alone.

    Example:
        >>> import torch, infoprune
        >>> from infoprune.automatic.ways import possible_ways
        >>> from infoprune.plan import Budget
        >>> _ = torch.manual_seed(0)
        >>> net, images = infoprune.zoo.build("digits").eval(), [torch.rand(16, 1, 8, 8)]
        >>> whole, choice = Calibration.of(net, images), PruneOptions("reconstruction", budget=Budget(macs=0.5))
        >>> descent = Descent(whole, choice, possible_ways(whole, choice)[0])
        >>> small = descent.cut(descent.start(), Budget(macs=0.5))
        >>> whole.costs.cost(small.plan.kept).macs <= 0.5 * whole.costs.base.macs
        True
    """

    whole: Calibration
    choice: PruneOptions
    way: Way
    progress: Progress = silent
    quality: Quality = PLAIN
    more: Batches | None = None

    @property
    def original(self) -> nn.Module:
        """The trained network."""
        return self.whole.model

    def holding_out(self) -> Descent:
        """Return the same with all images but every fifth: these can judge what is repaired."""
        others = EveryNth(self.whole.batches, HELD_OUT_EVERY, chosen=False)
        return replace(self, whole=replace(self.whole, batches=others))

    def divergence(self, model: nn.Module, images: Iterable[Tensor]) -> Divergence:
        """Return how far the outputs of a network are from those of the original."""
        return divergence_between(self.quality.answers(self.original), self.quality.answers(model), images)

    def start(self, importances: Mapping[str, Importance] | None = None) -> Level:
        """Return the original as the first level."""
        return Level(None, self.original, importances)

    def cut(self, level: Level, budget: Budget | None) -> Level:
        """Return the next level as it is cut, not repaired.

        Args:
            level: Where the cut starts from.
            budget: Shares of the original network that may remain; ``None`` where the choice says how much is removed.
        """
        here = self.whole if level.plan is None else self.whole.of_network(level.model)
        importances = level.importances or scores_of(here, self.choice, (self.way,), self.progress)
        choice = self.choice if budget is None else replace(self.choice, budget=self._share_of(here, budget))
        known = self.whole.groups.by_name()
        # In a smaller network more may be removable: with one map per input left, a layer is depthwise.
        fresh = (group.name for group in here.groups.groups if group.name not in known)
        choice = replace(choice, skip=(*choice.skip, *fresh))
        plan = plan_for(here, with_way(choice, self.way), importances=importances).plan
        smaller = surgery.apply(plan, here.model, here.examples, groups=here.groups).eval()
        total = plan if level.plan is None else level.plan.then(plan)
        settings = {**plan.settings, **self.choice.settings()}
        if computed := dict(self.whole.groups.computed):
            settings["made_plain"] = computed
        return Level(replace(total, settings=settings), smaller)

    def repair(self, level: Level, rounds: int = 0) -> Level:
        """Return a level with its network repaired by least squares, or by some rounds of it for layers in turn."""
        how = RepairOptions(repair_of(rounds), rounds=rounds or RepairOptions.rounds)
        return self._repaired(level, self.whole.batches, how)

    def trained(self, level: Level, minutes: float) -> Level:
        """Return a level with its network repaired by gradient, which moves and mirrors all images by itself."""
        images = self.whole.batches if self.more is None else self.more
        return self._repaired(level, images, RepairOptions("distil", minutes=minutes))

    def _repaired(self, level: Level, images: Batches, how: RepairOptions) -> Level:
        assert level.plan is not None
        better = repaired(level.model, self.original, images, level.plan, self.whole.groups, how=how,
                          progress=self.progress)  # fmt: skip
        return replace(level, model=better.eval())

    def down(self, level: Level, budget: Budget | None) -> Level:
        """Return the next level, repaired."""
        return self.repair(self.cut(level, budget))

    def stepped(self, level: Level, budgets: Sequence[Budget | None]) -> Level:
        """Return the level of the last budget, cut and not repaired, by way of the others, each cut and repaired."""
        for budget in budgets[:-1]:
            level = self.down(level, budget)
        return self.cut(level, budgets[-1])

    def _share_of(self, here: Calibration, budget: Budget) -> Budget:
        """Return a budget that is a share of the original as a share of another network."""
        shares = budget.shares()
        for what in ("macs", "parameters"):
            if what in shares:
                part = getattr(self.whole.costs.base, what) / getattr(here.costs.base, what)
                shares[what] = min(1.0, shares[what] * part)
        return Budget(**shares)


def scores_of(
    calibration: Calibration, choice: PruneOptions, ways: Iterable[Way], progress: Progress
) -> dict[str, Importance]:
    """Score every group that some of the ways may cut, once for all of them; errors of late layers count more.

    Example:
        >>> import torch, infoprune
        >>> from infoprune.automatic.ways import possible_ways
        >>> from infoprune.progress import silent
        >>> _ = torch.manual_seed(0)
        >>> whole = Calibration.of(infoprune.zoo.build("digits").eval(), [torch.rand(16, 1, 8, 8)])
        >>> choice = PruneOptions("reconstruction", ratio=0.5)
        >>> sorted(scores_of(whole, choice, possible_ways(whole, choice), silent))
        ['features.0', 'features.10', 'features.3', 'features.7']
    """
    kept_whole = set.intersection(*(set(way.skip) for way in ways))
    chosen = choose_groups(calibration.model, calibration.groups, choice)
    some = [group for group in chosen if group.name not in kept_whole]
    found = score(calibration.model, some, calibration.batches, criteria.find(CRITERION), progress=progress)
    return _late_more(found)


def _late_more(importances: Mapping[str, Importance]) -> dict[str, Importance]:
    """Return the same with larger scores in late layers; the order within a layer stays."""
    last = max(1, len(importances) - 1)
    return {
        name: replace(one, scores=one.scores * math.exp(_LATE * (place / last - 0.5)))
        for place, (name, one) in enumerate(importances.items())
    }


def repair_of(rounds: int) -> str:
    """Return the name of the repair: least squares, with some rounds alternating.

    Example:
        >>> repair_of(0), repair_of(2)
        ('least-squares', 'alternating')
    """
    return "alternating" if rounds else LEAST_SQUARES


def steps_to(budget: Budget | None, choice: PruneOptions, steps: int) -> tuple[Budget | None, ...]:
    """Return the budgets of all steps, as shares of the original: the remaining share falls in equal steps.

    Where there is no budget of MACs and parameters, or limits are shares of the original layers, there is one step.

    Example:
        >>> from infoprune.options import PruneOptions, RepairOptions
        >>> half = Budget(macs=0.5)
        >>> [one.macs for one in steps_to(half, PruneOptions("l1", budget=half), 2)]
        [0.75, 0.5]
    """
    if budget is None or budget.latency is not None or choice.keep_share > 0 or choice.multiple > 1:
        return (budget,)
    return tuple(
        Budget(**{what: 1 - (1 - share) * number / steps for what, share in budget.shares().items()})
        for number in range(1, steps + 1)
    )
