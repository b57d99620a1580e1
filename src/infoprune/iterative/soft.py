"""Soft pruning: filters are held at zero during one training and may come back, until the last epoch decides.

ResPrune (Jayasimhan and Pabitha 2024, Pattern Recognition), a reconstruction from the abstract; no parity is claimed.
After every epoch a criterion chooses the filters to be removed. They are masked, as in a network that is really cut.
At the beginning of the next epoch each of them comes back with some probability, with the values it had when it was
masked. The probability falls linearly over the training. With a constant probability r, a filter has come back within
t epochs with probability 1 - (1 - r)^t.

The choice after the last epoch is really cut. Train the cut network further: the last choice has had no training of its
own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from infoprune import criteria
from infoprune.criteria.base import Importance
from infoprune.criteria.scoring import score
from infoprune.cutoff import cut_by_ratio, cut_to_budget
from infoprune.data.batches import Batches, example_of
from infoprune.errors import InputError
from infoprune.iterative.iterate import Images
from infoprune.network import surgery
from infoprune.network.cost import CostModel
from infoprune.network.coupled_groups import CoupledGroup, Groups, find_groups
from infoprune.network.origin import note_cut
from infoprune.network.removal import hold_at_zero
from infoprune.options import PruneOptions
from infoprune.plan import Budget, LayerDecision, Plan
from infoprune.progress import Progress, silent
from infoprune.repair import find as find_repair
from infoprune.repair import repaired
from infoprune.selection.planning import choose_groups
from infoprune.training.recipe import Epoch, Recipe
from infoprune.training.train import train


@dataclass(frozen=True)
class Softly:
    """A network that was pruned softly.

    Args:
        model: The network after the last epoch, really cut and repaired.
        plan: What was cut.
        chosen: Of every epoch, how many filters were chosen to be removed.
        back: Of every epoch but the first, how many of them had come back.
        epochs: Figures of the training.

    Example:
        >>> Softly(nn.Identity(), Plan({}), chosen=(8, 8), back=(3,), epochs=()).back
        (3,)
    """

    model: nn.Module
    plan: Plan
    chosen: tuple[int, ...]
    back: tuple[int, ...]
    epochs: tuple[Epoch, ...]


def soft_prune(
    model: nn.Module,
    images: Images,
    recipe: Recipe,
    *,
    ratio: float | None = None,
    macs: float | None = None,
    criterion: str = "fpgm",
    options: Mapping[str, Any] | None = None,
    restore: float = 0.5,
    falling: bool = True,
    layers: Sequence[str] = (),
    repair: str | None = "bn",
    seed: int = 0,
    fabric: Fabric | None = None,
    progress: Progress = silent,
) -> Softly:
    """Train a network while filters are held at zero, and cut those of the last choice.

    Args:
        model: The network; left as it is.
        images: Training images, and those that score the filters; held-out images are not used, since the last
            choice is the one that is cut.
        recipe: How to train.
        ratio: Share of the filters removed from every layer, or
        macs: Share of the multiply-adds that may remain.
        criterion: What scores the filters.
        options: Of the criterion; ``{"mix": 0.25}`` of ``fpgm`` is the choice by norm, then by redundancy.
        restore: Probability that a masked filter comes back in the next epoch.
        falling: Whether the probability falls linearly to zero over the training.
        layers: Patterns of the layers that lose filters; by default all convolutions.
        repair: What the cut network is given, on the images that score; ``None`` for nothing.
        seed: For which filters come back.
        fabric: Device and precision of the training.
        progress: Receives the progress.

    Raises:
        InputError: Neither or both of ``ratio`` and ``macs`` are given, the probability is out of range, no layer can
            lose filters, or the training fails.

    Example:
        >>> from infoprune import data, zoo
        >>> _ = torch.manual_seed(0)
        >>> few = data.open_source("digits").train.subset(torch.arange(64))
        >>> batches = data.loader(few, data.Preprocessing((0.0,), (1.0,)))
        >>> recipe = Recipe(epochs=2, precision="32-true")
        >>> found = soft_prune(zoo.build("digits"), Images(batches, batches), recipe, ratio=0.5)
        >>> found.model.features[0].out_channels, len(found.chosen)
        (8, 2)
    """
    _check(recipe, ratio, macs, restore)
    if repair is not None:
        find_repair(repair)
    budget = None if macs is None else Budget(macs=macs)
    choice = PruneOptions(criterion, budget=budget, ratio=ratio, layers=tuple(layers), seed=seed,
                          criterion_options=dict(options or {}))  # fmt: skip
    choosing = _Choosing.of(model, images.calibration, choice, progress)
    # What the criterion refuses is refused before the training.
    choosing.scored(model, [min(choosing.chosen, key=lambda group: group.filters)])
    groups = choosing.groups
    masks = Masks(groups, choosing.scored, choosing.cut, len(images.train), recipe.epochs, restore, falling, seed)
    try:
        trained = train(
            model, images.train, None, recipe, augmentation=images.augmentation, fabric=fabric, progress=progress,
            on_step=masks,
        )  # fmt: skip
    finally:
        masks.lift()
    plan = choosing.plan(masks.kept, f"chosen after the last of {recipe.epochs} epochs", restore)
    network = trained.model
    masks.put_back(network)
    small = surgery.apply(plan, network, choosing.example, groups=groups)
    if repair is not None:
        small = repaired(small, network, images.calibration, plan, groups, how=repair, progress=progress)
    return Softly(note_cut(small, model, plan), plan, tuple(masks.chosen), tuple(masks.back), trained.epochs)


def _check(recipe: Recipe, ratio: float | None, macs: float | None, restore: float) -> None:
    if (ratio is None) == (macs is None):
        raise InputError("say how much is removed by one of ratio and macs")
    if not (math.isfinite(restore) and 0 <= restore <= 1):
        raise InputError(f"filters come back with a probability from 0 to 1, not {restore}")
    if recipe.epochs < 1:
        raise InputError("soft pruning chooses after every epoch: give a recipe of 1 epoch or more")


@dataclass(frozen=True)
class _Choosing:
    """How the filters of a network in training are scored and chosen."""

    choice: PruneOptions
    batches: Batches
    example: Tensor
    groups: Groups
    chosen: tuple[CoupledGroup, ...]
    costs: CostModel
    progress: Progress

    @classmethod
    def of(cls, model: nn.Module, batches: Batches, choice: PruneOptions, progress: Progress) -> _Choosing:
        example = example_of(batches, model)
        groups = find_groups(model, example)
        chosen = choose_groups(model, groups, choice)
        return cls(choice, batches, example, groups, chosen, CostModel(model, example, groups), progress)

    def scored(self, network: nn.Module, some: Sequence[CoupledGroup] = ()) -> dict[str, Importance]:
        """Score some groups, by default all that may lose filters."""
        how = self.choice
        return score(
            network, some or self.chosen, self.batches, criteria.resolve(how.criterion), seed=how.seed,
            options=how.criterion_options, progress=self.progress,
        )  # fmt: skip

    def cut(self, importances: Mapping[str, Importance]) -> dict[str, tuple[int, ...]]:
        """Return the filters that stay, by group."""
        budget, ratio = self.choice.budget, self.choice.ratio
        if budget is not None:
            cuts = cut_to_budget(self.chosen, importances, self.costs, budget)
        else:
            assert ratio is not None  # one of the two is
            cuts = cut_by_ratio(self.chosen, importances, ratio)
        return {name: one.kept for name, one in cuts.items()}

    def plan(self, kept: Mapping[str, tuple[int, ...]], reason: str, restore: float) -> Plan:
        decisions = {
            group.name: LayerDecision(
                group.name, group.filters, kept[group.name], coupled=group.producers[1:], reason=reason
            )
            for group in self.chosen
        }
        settings = {"soft": True, "criterion": self.choice.criterion, "restore": restore}
        return Plan(decisions, dict(self.groups.left_alone), settings)


@dataclass
class Masks:
    """What is done to a network after every step of its training.

    Args:
        groups: The coupled groups of the network.
        scored: From a network to the importance by group.
        cut: From importances to the kept filters by group.
        steps: In an epoch.
        epochs: How many.
        restore: Probability that a masked filter comes back.
        falling: Whether the probability falls to zero.
        seed: For which come back.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 2, 1))
        >>> groups = find_groups(net, torch.rand(2, 1, 4, 4))
        >>> masks = Masks(groups, lambda network: {"0": Importance(torch.arange(4.0).double())},
        ...               lambda importances: {"0": (2, 3)}, steps=1, epochs=2, restore=0.0)
        >>> masks(net, None, None, step=0)
        >>> net[0](torch.ones(1, 1, 1, 1)).flatten()[:2].tolist()  # the masked filters
        [0.0, 0.0]
        >>> masks.lift()
    """

    groups: Groups
    scored: Callable[[nn.Module], dict[str, Importance]]
    cut: Callable[[Mapping[str, Importance]], dict[str, tuple[int, ...]]]
    steps: int
    epochs: int
    restore: float = 0.5
    falling: bool = True
    seed: int = 0
    kept: dict[str, tuple[int, ...]] = field(default_factory=dict)
    chosen: list[int] = field(default_factory=list)
    back: list[int] = field(default_factory=list)
    _masked: dict[str, list[int]] = field(default_factory=dict)
    _stored: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    _hooks: list[Any] = field(default_factory=list)

    def __call__(self, model: nn.Module, images: Any, labels: Any, step: int) -> None:
        """Let masked filters come back after the first step of an epoch, and choose again after its last."""
        epoch, place = divmod(step, self.steps)
        with torch.no_grad():
            if place == 0 and epoch:
                self._bring_back(model, epoch)
            if place == self.steps - 1:
                self._choose(model)

    def lift(self) -> None:
        """Take the masks off."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    @torch.no_grad()
    def put_back(self, model: nn.Module) -> None:
        """Give masked filters the values that they had when they were masked."""
        for name, filters in self._masked.items():
            for layer, tensor_name, tensor, channels in self._values(model, name, filters):
                tensor[channels] = self._stored[layer, tensor_name][channels].to(tensor)

    def probability(self, epoch: int) -> float:
        """Return the probability that a masked filter comes back before an epoch, the first being 0.

        Example:
            >>> masks = Masks(Groups((), {}), dict, dict, steps=1, epochs=4, restore=0.5)
            >>> [masks.probability(epoch) for epoch in range(4)]
            [0.5, 0.375, 0.25, 0.125]
        """
        return self.restore * (1 - epoch / self.epochs) if self.falling else self.restore

    def _bring_back(self, model: nn.Module, epoch: int) -> None:
        generator = torch.Generator().manual_seed(1009 * self.seed + epoch)
        returning: dict[str, list[int]] = {}
        for name, masked in self._masked.items():
            for unit in self.groups.by_name()[name].units:
                if unit[0] in masked and float(torch.rand((), generator=generator)) < self.probability(epoch):
                    returning.setdefault(name, []).extend(unit)
        staying = {name: [one for one in masked if one not in set(returning.get(name, ()))]
                   for name, masked in self._masked.items()}  # fmt: skip
        self._masked = returning
        self.put_back(model)
        self.back.append(sum(map(len, returning.values())))
        self._masked = staying
        self._mask(model)

    def _choose(self, model: nn.Module) -> None:
        self.lift()
        self.put_back(model)
        found = self.scored(model)
        self.kept = self.cut({name: _last(one, self._masked.get(name, ())) for name, one in found.items()})
        filters = {group.name: group.filters for group in self.groups.groups}
        self._masked = {name: sorted(set(range(filters[name])) - set(kept)) for name, kept in self.kept.items()}
        self.chosen.append(sum(map(len, self._masked.values())))
        for name, gone in self._masked.items():
            for layer, tensor_name, tensor, _ in self._values(model, name, gone):
                self._stored[layer, tensor_name] = tensor.detach().clone()
        self._mask(model)

    def _mask(self, model: nn.Module) -> None:
        self.lift()
        self._hooks = list(hold_at_zero(model, self.groups.removal(self._masked)))

    def _values(self, model: nn.Module, name: str, filters: Sequence[int]) -> list[tuple[str, str, Tensor, list[int]]]:
        """Return the tensors that hold values of each filter, with their layer, name and the channels meant."""
        group, found = self.groups.by_name()[name], []
        for member in group.members:
            if member.side == "in":
                continue
            module = model.get_submodule(member.layer)
            channels = member.channels_of(filters)
            if getattr(module, "transposed", False):
                continue  # their outputs lie along another axis; the mask alone holds them at zero
            for tensor_name, tensor in (*module._parameters.items(), *module._buffers.items()):
                if tensor is not None and tensor.ndim and tensor.is_floating_point():
                    found.append((member.layer, tensor_name, tensor, channels))
        return found


def _last(importance: Importance, masked: Sequence[int]) -> Importance:
    """Return the importance with some filters behind all others."""
    if not masked:
        return importance
    scores = importance.scores.clone()
    least = float(scores.min())
    scores[list(masked)] = least - 1 - abs(least)
    behind = set(masked)
    order = [
        *(one for one in importance.order if one not in behind),
        *(one for one in importance.order if one in behind),
    ]
    return Importance(scores, tuple(order), comparable=importance.comparable, rounding=importance.rounding)
