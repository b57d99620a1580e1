"""Group Fisher: the loss changes by half the Fisher information when a filter is removed (Liu et al. 2021).

arXiv 2108.00708. A gate m multiplies channel i of the input of every layer x that reads it. At a minimum of the loss,
with N images::

    s_i = 1 / (2 N) * sum over n of (sum over readers x of dL_n/dm_i^x)^2

The gradients of all readers of a coupled channel are added, then squared. The score is divided by what one filter
saves: ``"memory"``, the output values per image of the layers that make it (the paper's default), ``"macs"``,
multiply-adds per image, or nothing.

The paper removes one filter of the whole network at a time while it trains; here all are scored at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from infoprune.criteria.base import Importance
from infoprune.criteria.whole_network import by_filter, register_network_criterion
from infoprune.data.batches import Batches, images_of, number_of_batches
from infoprune.entropy.ties import bound_of_maps
from infoprune.errors import InputError, unknown
from infoprune.network.cost import CostModel, output_values
from infoprune.network.coupled_groups import CoupledGroup, Groups, Member
from infoprune.network.gradients import Labels, Place, gate_gradients
from infoprune.network.layers import width
from infoprune.progress import Progress, silent

Normalise = Literal["memory", "macs", "none"]


def fisher(
    model: nn.Module,
    groups: Sequence[CoupledGroup],
    batches: Batches,
    *,
    normalise: Normalise = "memory",
    labels: Labels = "given",
    progress: Progress = silent,
) -> dict[str, Importance]:
    """Return the importance of the filters of every coupled group.

    Args:
        model: The network; left as it is.
        groups: What to score.
        batches: ``(images, labels)`` pairs, iterable more than once.
        normalise: ``"memory"``, ``"macs"`` or ``"none"``.
        labels: ``"given"``, or ``"own"`` for the network's own answers.
        progress: Called after every batch.

    Returns:
        By the names of the groups. Scores compare between groups: squared nats by what a filter saves.

    Raises:
        InputError: A group is read by no layer, an option is unknown, or as for
            :func:`infoprune.network.gradients.gate_gradients`.

    Example:
        >>> import infoprune
        >>> from infoprune.network.coupled_groups import find_groups
        >>> _ = torch.manual_seed(0)
        >>> net, images = infoprune.zoo.build("digits").eval(), torch.rand(8, 1, 8, 8)
        >>> found = fisher(net, find_groups(net, images).groups, [(images, torch.arange(8))])
        >>> found["features.0"].scores.shape
        torch.Size([16])
    """
    if normalise not in get_args(Normalise):
        raise unknown("normalise of the criterion 'fisher'", str(normalise), get_args(Normalise))
    readers = {group.name: _readers(group) for group in groups}
    sums = {group.name: torch.zeros(group.filters, dtype=torch.float64) for group in groups}
    count, done = 0, 0

    def consume(gradients: dict[Place, Tensor], positions: dict[Place, int]) -> None:
        nonlocal count, done
        for name, members in readers.items():
            parts = [by_filter(gradients[Place(member.layer, "in")], member.channels) for member in members]
            sums[name] += group_fisher(parts)
        count, done = count + len(next(iter(gradients.values()))), done + 1
        progress("gradients", done, max(done, number_of_batches(batches)))

    places = [Place(member.layer, "in") for members in readers.values() for member in members]
    if not places:
        return {}
    gate_gradients(model, batches, places, consume, labels=labels)
    saved = _saved(model, groups, next(images_of(batches, model))[:1], normalise)
    scores = {group.name: sums[group.name] / (2 * count) / saved[group.name] for group in groups}
    return {name: Importance(worth, comparable=True, rounding=bound_of_maps(worth)) for name, worth in scores.items()}


def group_fisher(gradients: Sequence[Tensor]) -> Tensor:
    """Return ``(C,)``: the sum over images of the squared sum over readers of ``(n, C)`` gradients.

    Example:
        >>> group_fisher([torch.tensor([[1.0], [-2.0]]), torch.tensor([[-1.0], [-2.0]])]).item()
        16.0
    """
    return torch.stack(list(gradients)).sum(dim=0).square().sum(dim=0)


def _readers(group: CoupledGroup) -> list[Member]:
    readers = [member for member in group.members if member.side == "in"]
    if not readers:
        raise InputError(f"layer '{group.name}' is read by no layer: 'fisher' cannot score it")
    return readers


def _saved(model: nn.Module, groups: Sequence[CoupledGroup], example: Tensor, normalise: Normalise) -> dict[str, float]:
    """Return what one filter of each group saves per image, in the unit of the normalisation."""
    if normalise == "none":
        return dict.fromkeys((group.name for group in groups), 1.0)
    if normalise == "macs":
        costs = CostModel(model, example, Groups(tuple(groups), {}))
        return {group.name: _macs_of_a_filter(costs, group) for group in groups}
    values = output_values(model, example)
    return {
        group.name: sum(values[layer] * _share(model, group, layer) for layer in group.producers) / group.filters
        for group in groups
    }


def _macs_of_a_filter(costs: CostModel, group: CoupledGroup) -> float:
    unit = set(group.units[-1])
    rest = [filter_ for filter_ in range(group.filters) if filter_ not in unit]
    return max(1.0, (costs.base.macs - costs.cost({group.name: rest}).macs) / len(unit))


def _share(model: nn.Module, group: CoupledGroup, layer: str) -> float:
    """Return which share of a layer's outputs belongs to the group."""
    member = next(one for one in group.members if one.layer == layer and one.side == "out")
    return len({channel for some in member.channels for channel in some}) / width(model.get_submodule(layer), "out")


register_network_criterion(
    "fisher",
    fisher,
    "Fisher information of a gate on the filter, by what the filter saves",
    paper="arXiv 2108.00708",
    needs_labels=True,
    images=1024,
    cost="one forward and one backward pass per image",
)
