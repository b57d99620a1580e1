"""Removes filters with constant output and folds the constant into the bias of the next layers.

This step runs before all others. On the images it was found with it changes the outputs by rounding only
(Squeeze-Release, arXiv 2606.14346, does the same by weights). A filter is removed if every next layer always receives
the same value from it, and this value is zero or the layer has no padding, so that its effect is constant too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from infoprune.data.batches import Batches, check_repeatable, examples_of, images_of, number_of_batches, shapes_of
from infoprune.network import surgery
from infoprune.network.cost import Cost
from infoprune.network.coupled_groups import CoupledGroup, find_groups
from infoprune.network.equivalence import copied
from infoprune.network.origin import note_cut
from infoprune.plan import Budget, LayerDecision, Plan
from infoprune.progress import Progress, silent
from infoprune.repair.base import Pair
from infoprune.repair.channel_combination import ChannelMoments, Stand, put_in


@dataclass(frozen=True)
class ConstantRemoval:
    """A network without its constant filters.

    Args:
        model: The smaller network; the original one if it has no constant filters.
        plan: The kept filters.
        filters: Number of removed filters, those of coupled layers counted once.

    Example:
        >>> removal = ConstantRemoval(nn.Conv2d(1, 4, 3), Plan({}), filters=0)
        >>> removal.budget(Budget(macs=0.4), Cost(100, 10), Cost(80, 10)).macs
        0.5
    """

    model: nn.Module
    plan: Plan
    filters: int

    def budget(self, asked: Budget, whole: Cost, left: Cost) -> Budget:
        """Return the budget of the smaller network that equals a budget of the whole one.

        Args:
            asked: Shares of the whole network. A share of the latency is not converted, because the latency without
                the constant filters has not been measured.
            whole: Cost of the whole network.
            left: Cost of the network without the constant filters.
        """
        shares = asked.shares()
        for what in shares.keys() & {"macs", "parameters"}:
            shares[what] = min(1.0, shares[what] * getattr(whole, what) / getattr(left, what))
        return Budget(**shares)

    def then(self, later: Plan) -> Plan:
        """Return one plan for the whole network that removes the constant filters and those of a later plan.

        Scores stay with their filters. Constant filters get the lowest score of their layer, at most 0, and the last
        places of its order.
        """
        joined = self.plan.then(later)
        lifted = {name: _lifted(self.plan.decisions.get(name), one) for name, one in later.decisions.items()}
        return replace(joined, decisions={**joined.decisions, **lifted})


def _lifted(first: LayerDecision | None, second: LayerDecision) -> LayerDecision:
    """Return a decision in the indices of the layer with its constant filters."""
    if first is None:
        return second
    place, free = first.kept, first.removed
    evidence: dict[str, Any] = {}
    if second.scores is not None:
        scores = dict.fromkeys(free, min(0.0, *second.scores)) | dict(zip(place, second.scores, strict=True))
        evidence["scores"] = tuple(scores[filter_] for filter_ in range(first.filters))
    if second.order is not None:
        evidence["order"] = (*(place[filter_] for filter_ in second.order), *free)
    if second.curve is not None:
        evidence["curve"] = (*second.curve, *(second.curve[-1] for _ in free))
    if second.partner is not None:
        pairs = {mine: -1 if other < 0 else place[other] for mine, other in zip(place, second.partner, strict=True)}
        evidence["partner"] = tuple(pairs.get(filter_, -1) for filter_ in range(first.filters))
    kept = tuple(place[filter_] for filter_ in second.kept)
    return replace(first, kept=kept, reason=f"{first.reason}; {second.reason}", **evidence)


@dataclass
class _Range:
    """Least and largest value of each input channel of a layer."""

    least: Tensor
    largest: Tensor

    def join(self, least: Tensor, largest: Tensor) -> None:
        self.least = torch.minimum(self.least, least)
        self.largest = torch.maximum(self.largest, largest)


@torch.no_grad()
def remove_constant_filters(model: nn.Module, batches: Batches, *, progress: Progress = silent) -> ConstantRemoval:
    """Remove every filter whose output is constant on all images, and keep the outputs of the network on them.

    Args:
        model: The trained network; it is not changed.
        batches: Images, with or without labels, iterable more than once. With few images a filter may be
            constant by coincidence.
        progress: Called after every batch.

    Raises:
        InputError: There are no images, or they can be read only once.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
        >>> _ = model[0].weight.data.copy_(torch.tensor([1.0, 0.0, 1.0, 1.0]).reshape(4, 1, 1, 1))
        >>> found = remove_constant_filters(model, [torch.rand(8, 1, 8, 8)])
        >>> found.filters, found.model[0].out_channels
        (1, 3)
    """
    check_repeatable(batches)
    whole = copied(model)
    examples = examples_of(batches, whole)
    groups = find_groups(whole, examples)
    ranges = _ranges(whole, groups.groups, batches, progress)
    decisions = {}
    for group in groups.groups:
        kept = _kept(whole, group, ranges)
        if len(kept) < group.filters:
            gone = group.filters - len(kept)
            reason = f"{gone} of {group.filters} filters are constant: they are removed without loss"
            decisions[group.name] = LayerDecision(
                group.name, group.filters, kept, coupled=group.producers[1:], reason=reason
            )
    plan = Plan(decisions, settings=shapes_of(examples))
    if not decisions:
        return ConstantRemoval(model, plan, 0)
    small = surgery.apply(plan, whole, examples, groups=groups)
    pair = Pair.of(whole, plan, batches, small=small, groups=groups)
    folded = put_in(pair, _constants, progress)
    for name, module in folded.named_modules():
        module.training = model.get_submodule(name).training
    filters = sum(len(decision.removed) for decision in decisions.values())
    return ConstantRemoval(note_cut(folded, model, plan), plan, filters)


def _constants(moments: ChannelMoments, kept: Tensor, paired: Tensor | None) -> Stand:
    combination = torch.zeros(len(moments.mean), len(kept), dtype=torch.float64, device=kept.device)
    combination[kept, torch.arange(len(kept), device=kept.device)] = 1
    return Stand(combination, moments.mean.index_fill(0, kept, 0))


def _ranges(
    model: nn.Module, groups: Iterable[CoupledGroup], batches: Batches, progress: Progress
) -> dict[str, _Range]:
    found: dict[str, _Range] = {}

    def taking(layer: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def take(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            maps: Tensor = arguments[0]
            rows = maps.flatten(0, -2).T if isinstance(module, nn.Linear) else maps.transpose(0, 1).flatten(1)
            least, largest = rows.amin(dim=1), rows.amax(dim=1)
            if layer in found:
                found[layer].join(least, largest)
            else:
                found[layer] = _Range(least, largest)

        return take

    layers = {member.layer for group in groups for member in group.members if member.side == "in"}
    with ExitStack() as hooks:
        for layer in sorted(layers):
            hooks.callback(model.get_submodule(layer).register_forward_pre_hook(taking(layer)).remove)
        for done, images in enumerate(images_of(batches, model), 1):
            model(images)
            progress("looking for constant filters", done, max(done, number_of_batches(batches)))
    return found


def _kept(model: nn.Module, group: CoupledGroup, ranges: dict[str, _Range]) -> tuple[int, ...]:
    """Return the filters that are not constant, at least one unit."""
    readers = [member for member in group.members if member.side == "in"]
    if not readers or any(member.layer not in ranges for member in readers):
        return tuple(range(group.filters))
    free = torch.ones(group.filters, dtype=torch.bool)
    for member in readers:
        silent_inputs = _silent(model.get_submodule(member.layer), ranges[member.layer])
        free &= torch.tensor([all(bool(silent_inputs[c]) for c in some) for some in member.channels])
    gone = [unit for unit in group.units if all(free[filter_] for filter_ in unit)]
    for part in group.parts:
        # Every coupled layer keeps a channel.
        if set(part) <= {filter_ for unit in gone for filter_ in unit}:
            gone = [unit for unit in gone if part[0] not in unit]
    if len(gone) == len(group.units):
        gone = gone[1:]
    return tuple(sorted(set(range(group.filters)) - {filter_ for unit in gone for filter_ in unit}))


def _silent(reader: nn.Module, found: _Range) -> Tensor:
    """Return which inputs of a layer are constants that can be folded into its output."""
    zero = (found.least == 0) & (found.largest == 0)
    if isinstance(reader, nn.Linear):
        takes = reader.bias is not None
    elif isinstance(reader, _ConvNd) and not isinstance(reader, _ConvTransposeNd):
        takes = reader.bias is not None and not any(reader._reversed_padding_repeated_twice)
    else:
        takes = False
    return (found.least == found.largest) & (zero | takes)
