"""Which filters are kept, found by a swarm of networks that are cut, repaired and compared on held-out images.

BPSO-FPruner (Tmamna et al. 2024, Applied Soft Computing), a reconstruction from the abstract; no parity is claimed.
A criterion gives the order of the filters. With ``"shares"`` a particle says how much of each layer is kept, with
``"bits"`` it says so of every filter; bits begin as 1 the more likely, the higher the filter ranks. Both are brought
to the budget: shares by one common factor, bits by removing the lowest ranked kept filters. The first particle is the
plan of the criterion alone, so that no search ends with a network that is worse on the held-out images.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from infoprune.criteria import resolve
from infoprune.criteria.base import Importance
from infoprune.criteria.scoring import score
from infoprune.cutoff.budget import Allowance, levels_within
from infoprune.cutoff.ranking import Ranking, forced, rank
from infoprune.data.batches import Batches, EveryNth, images_of
from infoprune.errors import InputError, unknown
from infoprune.measure.divergence import Answers, divergence_between
from infoprune.network.equivalence import copied
from infoprune.options import PruneOptions
from infoprune.plan import Budget, LayerDecision, Plan
from infoprune.progress import Progress, silent
from infoprune.search.swarm import Form, Judged, Swarm, fly
from infoprune.selection.calibration import Calibration
from infoprune.selection.layerwise.judging import Judge
from infoprune.selection.planning import check_feasible, choose_groups

Value = Literal["divergence", "accuracy"]

# Every fifth image judges, and no repair sees it.
_HELD_OUT_EVERY = 5
_BISECTIONS = 30


@dataclass(frozen=True)
class Found:
    """The plan that a search ends with.

    Args:
        plan: What is kept; ``infoprune.prune(model, images, plan)`` cuts and repairs.
        value: Of the network on held-out images: minus the divergence from the original, or the accuracy in percent.
        start: That of the criterion's own plan.
        history: The best value at the start and after every step.
        judged: How many different networks were cut and measured.

    Example:
        >>> Found(Plan({}), value=-0.1, start=-0.2, history=(-0.2, -0.1), judged=12).value
        -0.1
    """

    plan: Plan
    value: float
    start: float
    history: tuple[float, ...]
    judged: int


def search_filters(
    model: torch.nn.Module,
    images: Batches,
    *,
    macs: float,
    criterion: str = "reconstruction",
    options: Mapping[str, Any] | None = None,
    form: Form = "shares",
    value: Value = "divergence",
    repair: str | None = "bn",
    particles: int = 10,
    steps: int = 20,
    held_out: Batches | None = None,
    layers: Sequence[str] = (),
    skip: Sequence[str] = (),
    seed: int = 0,
    progress: Progress = silent,
) -> Found:
    """Search which filters are kept within a budget.

    Args:
        model: The trained network; left as it is.
        images: Batches, iterable more than once, with labels where the criterion or the value needs them.
        macs: Share of the multiply-adds that may remain.
        criterion: What orders the filters.
        options: Of the criterion.
        form: ``"shares"`` of the layers, or ``"bits"`` of the filters, a far larger search.
        value: ``"divergence"`` from the original network, without labels, or ``"accuracy"``.
        repair: What each network is given before it is measured; ``None`` for nothing.
        particles: 2 or more.
        steps: How often all of them move.
        held_out: Images that measure; by default every fifth of ``images``, which then is not scored or repaired with.
        layers: Patterns of layers that may lose filters.
        skip: Patterns of layers that may not.
        seed: For the particles.
        progress: Called after every network that was judged.

    Raises:
        InputError: The budget cannot be met, images or labels are missing, or an option is unknown or out of range.

    Example:
        >>> import infoprune
        >>> _ = torch.manual_seed(0)
        >>> net, images = infoprune.zoo.build("digits").eval(), [torch.rand(20, 1, 8, 8)]
        >>> found = search_filters(net, images, macs=0.5, criterion="l1", particles=2, steps=1)
        >>> found.value >= found.start
        True
    """
    if form not in get_args(Form):
        raise unknown("form of a search", str(form), get_args(Form))
    if value not in get_args(Value):
        raise unknown("value of a search", str(value), get_args(Value))
    if isinstance(particles, bool) or not isinstance(particles, int) or particles < 2:
        raise InputError(f"a swarm has 2 particles or more, not {particles!r}")
    swarm = Swarm(steps, form=form)
    choice = PruneOptions(criterion, budget=Budget(macs=macs), layers=tuple(layers), skip=tuple(skip), seed=seed)
    judges: Batches = held_out if held_out is not None else EveryNth(images, _HELD_OUT_EVERY, chosen=True)
    fitted: Batches = images if held_out is not None else EveryNth(images, _HELD_OUT_EVERY, chosen=False)
    calibration = Calibration.of(model, fitted)
    groups = choose_groups(model, calibration.groups, choice)
    check_feasible(calibration, groups, choice)
    importances = score(model, groups, fitted, resolve(criterion), seed=seed, options=options, progress=progress)
    allowance = Allowance(calibration.costs, {"macs": macs})
    ranking = rank(groups, importances, choice.limits())
    space = Space(ranking, allowance, form)
    own = levels_within(ranking, allowance, choice.budget or Budget(macs=macs), choice.limits())
    generator = torch.Generator().manual_seed(seed)
    start = space.start(own, particles, generator)
    judge = Judge(model, calibration.examples, calibration.groups, judges, repair, fitted)
    measured = _Measured(judge, value, space)
    best, worth, history = fly(
        start, measured, swarm, generator, lambda done, total: progress("searching filters", done, total)
    )
    kept, value_found = space.kept(best), worth.value
    # Shares may mean a little more than the criterion's own plan, where a common factor leaves room for it.
    alone = ranking.kept(own)
    first = measured.of(alone).value
    if first > value_found:
        kept, value_found = alone, first
    plan = _plan(kept, importances, calibration, choice, measured)
    return Found(plan, value_found, first, tuple(max(first, one) for one in history), len(measured.known))


@dataclass(frozen=True)
class Space:
    """The positions of a search, and which filters each of them keeps, within the budget.

    Args:
        ranking: The steps in which each group can be cut.
        allowance: The budget.
        form: ``"shares"``: a coordinate for each group, the share of its steps that is not taken; ``"bits"``: one for
            each step, 1 where its filters are kept.

    Example:
        >>> from infoprune.criteria.base import Importance
        >>> from infoprune.network.cost import CostModel
        >>> from infoprune.network.coupled_groups import find_groups
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 1), torch.nn.Conv2d(4, 2, 1))
        >>> found = find_groups(net, torch.rand(2, 1, 4, 4))
        >>> allowance = Allowance(CostModel(net, torch.rand(2, 1, 4, 4), found), {"macs": 0.5})
        >>> ranking = rank(found.groups, {"0": Importance(torch.tensor([1.0, 4.0, 3.0, 2.0]))})
        >>> Space(ranking, allowance, "bits").kept(torch.tensor([1.0, 0.0, 1.0]))
        {'0': (1, 2)}
    """

    ranking: Ranking
    allowance: Allowance
    form: Form

    def start(self, own: Sequence[int], particles: int, generator: torch.Generator) -> Tensor:
        """Return ``(P, D)`` positions: the criterion's own plan, then equal shares and random ones, or random bits."""
        rungs = [len(one) for one in self.ranking.ladders]
        if self.form == "shares":
            first = [1 - level / count if count else 1.0 for level, count in zip(own, rungs, strict=True)]
            rows = torch.rand(particles, len(rungs), generator=generator, dtype=torch.float64)
            rows[0] = torch.tensor(first, dtype=torch.float64)
            rows[1] = 1.0
            return rows
        # The least important filter of a group stays with a chance near 0, the most important with one near 1.
        chances = torch.cat([(torch.arange(count, dtype=torch.float64) + 0.5) / count for count in rungs if count])
        rows = (torch.rand(particles, len(chances), generator=generator, dtype=torch.float64) < chances).double()
        rows[0] = torch.cat([(torch.arange(count) >= level).double() for level, count in zip(own, rungs, strict=True)])
        return rows

    def kept(self, position: Tensor) -> dict[str, tuple[int, ...]]:
        """Return the kept filters of every group, within the budget."""
        return self._by_shares(position.tolist()) if self.form == "shares" else self._by_bits(position.tolist())

    def _by_shares(self, shares: Sequence[float]) -> dict[str, tuple[int, ...]]:
        def levels(factor: float) -> list[int]:
            found = []
            for share, rungs in zip(shares, self.ranking.ladders, strict=True):
                staying = int(min(1.0, factor * share) * len(rungs) + 1e-9)
                found.append(max(forced(rungs), len(rungs) - staying))
            return found

        # The largest factor within the budget; 0 removes all that can be.
        low, high = 0.0, 1 / max(min((share for share in shares if share > 0), default=1.0), 1e-3)
        if self.allowance.met_by(self.ranking.kept(levels(high))):
            return self.ranking.kept(levels(high))
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            if self.allowance.met_by(self.ranking.kept(levels(middle))):
                low = middle
            else:
                high = middle
        return self.ranking.kept(levels(low))

    def _by_bits(self, bits: Sequence[float]) -> dict[str, tuple[int, ...]]:
        gone: list[set[int]] = []
        first = 0
        for rungs in self.ranking.ladders:
            own = bits[first : first + len(rungs)]
            gone.append({place for place, bit in enumerate(own) if not bit} | set(range(forced(rungs))))
            first += len(rungs)

        def kept(count: int) -> dict[str, tuple[int, ...]]:
            levels = self.ranking.levels(count)
            found = {}
            each = zip(self.ranking.groups, self.ranking.ladders, levels, gone, strict=True)
            for group, rungs, level, own in each:
                lost = {filter_ for place in own | set(range(level)) for filter_ in rungs[place].filters}
                found[group.name] = tuple(filter_ for filter_ in range(group.filters) if filter_ not in lost)
            return found

        counts = range(len(self.ranking.steps))
        return kept(bisect_left(counts, True, key=lambda count: self.allowance.met_by(kept(count))))


@dataclass
class _Measured:
    """Measures the network that a position means, each network once."""

    judge: Judge
    value: Value
    space: Space
    known: dict[tuple[Any, ...], Judged] = field(default_factory=dict)

    @cached_property
    def _original(self) -> Answers:
        return Answers(copied(self.judge.model))

    def __call__(self, position: Tensor) -> Judged:
        return self.of(self.space.kept(position))

    def of(self, kept: Mapping[str, tuple[int, ...]]) -> Judged:
        """Return what the network with only these filters is worth."""
        key = tuple(kept.items())
        if key not in self.known:
            self.known[key] = Judged(self._of(kept))
        return self.known[key]

    def _of(self, kept: Mapping[str, Sequence[int]]) -> float:
        if self.value == "accuracy":
            return self.judge.accuracy(kept)
        small = copied(self.judge.cut(kept))
        return -divergence_between(self._original, small, images_of(self.judge.held_out, small)).value


def _plan(
    kept: Mapping[str, tuple[int, ...]],
    importances: Mapping[str, Importance],
    calibration: Calibration,
    choice: PruneOptions,
    measured: _Measured,
) -> Plan:
    found = measured.judge.plan(kept)
    decisions = {
        name: LayerDecision(
            name,
            decision.filters,
            decision.kept,
            scores=tuple(importances[name].scores.tolist()),
            order=importances[name].order,
            reason=f"{len(decision.kept)} of {decision.filters} filters stay: a search over "
            f"{len(measured.known)} networks on held-out images",
        )
        for name, decision in found.decisions.items()
    }
    skipped = {one.name: "was not chosen to lose filters" for one in calibration.groups.groups
               if one.name not in decisions}  # fmt: skip
    return Plan(decisions, {**calibration.groups.left_alone, **skipped}, choice.settings())
