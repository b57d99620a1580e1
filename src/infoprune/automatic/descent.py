"""From the original down to smaller and smaller networks: each is cut from the repaired one before it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from infoprune import criteria
from infoprune.automatic.ways import Way, plan_of
from infoprune.criteria.base import Importance
from infoprune.criteria.scoring import score
from infoprune.data.augmentation import WithCopies
from infoprune.measure.figures import example_of
from infoprune.network import surgery
from infoprune.network.cost import Cost, count
from infoprune.network.coupled_groups import Groups, find_groups
from infoprune.options import PruneOptions
from infoprune.plan import Budget, Plan
from infoprune.progress import Progress, silent
from infoprune.repair import repaired
from infoprune.selection.planning import choose_groups

# What scores filters and shares budgets out: of all criteria the one whose networks lose least once they are repaired.
CRITERION = "reconstruction"
# Every fifth image is held out by the repairs; its copies are held out with it.
HELD_OUT_EVERY = 5


@dataclass(frozen=True)
class Level:
    """One network on the way down.

    Args:
        plan: All cuts so far together, in the indices of the original; ``None`` for the original.
        cut: The network as it was cut from the one before, not repaired.
        model: The network after its repair.
        importances: Scores by layer that the next cut is made by, ``None`` where they are not known yet.
    """

    plan: Plan | None
    cut: nn.Module
    model: nn.Module
    importances: Mapping[str, Importance] | None = None


@dataclass(frozen=True)
class Descent:
    """How a network is made smaller step by step.

    Args:
        original: The trained network, in eval mode; left as it is.
        groups: Its coupled groups.
        choice: Limits, and the layers that may lose filters; the budget is given to ``down``.
        way: How budgets are shared out.
        batches: Images, iterable more than once.
        copies: Changed copies of each image that a repair sees besides the image.
        progress: Told in every stage.
    """

    original: nn.Module
    groups: Groups
    choice: PruneOptions
    way: Way
    batches: Iterable[Any]
    copies: int = 0
    progress: Progress = silent

    def images(self) -> Iterable[Any]:
        """Return the images that repairs see."""
        return WithCopies(self.batches, self.copies, HELD_OUT_EVERY) if self.copies else self.batches

    def start(self, importances: Mapping[str, Importance] | None = None) -> Level:
        """Return the original as the first level."""
        return Level(None, self.original, self.original, importances)

    def cut(self, level: Level, budget: Budget | None) -> Level:
        """Return the next level as it is cut, not repaired.

        Args:
            level: Where the cut starts from.
            budget: Shares of the original network that may remain; ``None`` where the choice says how much is removed.
        """
        current = level.model
        importances = level.importances or scores_of(current, self.choice, (self.way,), self.batches, self.progress)
        example = example_of(self.batches, current)
        choice = self.choice if budget is None else replace(self.choice, budget=self._from(current, budget, example))
        plan = plan_of(self.way, current, choice, self.batches, importances)
        total = plan if level.plan is None else level.plan.then(plan)
        smaller = surgery.apply(plan, current, example).eval()
        return Level(replace(total, settings={**plan.settings, **self.choice.settings()}), smaller, smaller)

    def repair(self, level: Level, method: str = "least-squares", minutes: float | None = None) -> Level:
        """Return a level with its network repaired."""
        assert level.plan is not None
        better = repaired(level.model, self.original, self.images(), level.plan, self.groups, method=method,
                          minutes=minutes, progress=self.progress)  # fmt: skip
        return replace(level, model=better.eval())

    def down(self, level: Level, budget: Budget | None) -> Level:
        """Return the next level, repaired."""
        return self.repair(self.cut(level, budget))

    def _from(self, current: nn.Module, budget: Budget, example: Any) -> Budget:
        """Return a budget that is a share of the original as a share of the current network."""
        whole, here = count(self.original, example), count(current, example)
        shares = {what: min(1.0, share * _cost(whole, what) / _cost(here, what)) if what != "latency" else share
                  for what, share in budget.shares().items()}  # fmt: skip
        return Budget(**shares)


def scores_of(
    model: nn.Module, choice: PruneOptions, ways: Iterable[Way], batches: Iterable[Any], progress: Progress
) -> dict[str, Importance]:
    """Score every group that some of the ways may cut, once for all of them."""
    kept_whole = set.intersection(*(set(way.skip) for way in ways))
    groups = find_groups(model, example_of(batches, model))
    some = [group for group in choose_groups(model, groups, choice) if group.name not in kept_whole]
    return score(model, some, batches, criteria.find(CRITERION), progress=progress)


def steps_to(budget: Budget | None, choice: PruneOptions, steps: int) -> tuple[Budget | None, ...]:
    """Return the budgets of all steps, as shares of the original: what remains falls evenly.

    Where there is no budget of MACs and parameters, or limits are shares of the original layers, there is one step.

    Example:
        >>> from infoprune.options import PruneOptions
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


def _cost(cost: Cost, what: str) -> float:
    return float(getattr(cost, what))
