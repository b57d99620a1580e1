"""Cuts a network in place while it is trained: parameters stay the same objects, and what was cut can be undone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from infoprune.network import equivalence, surgery
from infoprune.network.computed_weights import Computed, computed_layers, put_plain
from infoprune.network.coupled_groups import Examples, Groups, find_groups
from infoprune.network.equivalence import outside_inference_mode
from infoprune.network.removal import Removal, cut
from infoprune.plan import Plan

# The tables of a module in which its tensors and its children are.
_TABLES = ("_parameters", "_buffers", "_modules")
_ABSENT = object()


@dataclass(frozen=True)
class Smaller:
    """Which values of a parameter are left.

    Args:
        before: Shape of the parameter before the cut.
        places: Of each value that is left, its place in the flattened parameter before; in the shape after the cut.

    Example:
        >>> Smaller(torch.Size([4]), torch.tensor([0, 2])).of(torch.tensor([5.0, 6.0, 7.0, 8.0]))
        tensor([5., 7.])
    """

    before: torch.Size
    places: Tensor

    def of(self, values: Tensor) -> Tensor:
        """Return the kept part of a tensor that has one value for each of the parameter, such as a momentum."""
        return values.reshape(-1)[self.places.to(values.device).reshape(-1)].reshape(self.places.shape)


@dataclass(frozen=True)
class InPlace:
    """What a cut in place changed.

    Args:
        smaller: The parameters that lost values; each is the object that it was.
        replaced: New parameters, of layers that computed their weight and are plain now, each with the parameters of
            that layer that are gone.
        undone: By table or attributes of a module, what was there before.

    Example:
        >>> InPlace({}, {}).smaller
        {}
    """

    smaller: Mapping[nn.Parameter, Smaller]
    replaced: Mapping[nn.Parameter, tuple[nn.Parameter, ...]]
    undone: list[tuple[dict[str, Any], str, Any]] = field(default_factory=list)

    def undo(self) -> None:
        """Give the network its layers of before, in place; what the cut removed of the parameters is zero.

        Example:
            >>> from infoprune.plan import LayerDecision
            >>> _ = torch.manual_seed(0)
            >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()
            >>> plan = Plan({"0": LayerDecision("0", 4, kept=(0, 2))})
            >>> change = cut_in_place(plan, net, torch.rand(2, 1, 8, 8))
            >>> change.undo()
            >>> net[0].out_channels, net[0].weight[:, 0, 0, 0].count_nonzero().item()
            (4, 2)
        """
        for table, name, value in reversed(self.undone):
            if value is _ABSENT:
                table.pop(name, None)
            else:
                table[name] = value
        with torch.no_grad():
            for parameter, left in self.smaller.items():
                whole = parameter.data.new_zeros(left.before.numel())
                whole[left.places.to(whole.device).reshape(-1)] = parameter.data.reshape(-1)
                parameter.data, parameter.grad = whole.reshape(left.before), None


@outside_inference_mode
def cut_in_place(
    plan: Plan, model: nn.Module, example: Examples, *, groups: Groups | None = None, check: bool = True
) -> InPlace:
    """Remove the filters of a plan from the network itself, inside a training.

    Parameters stay the same objects, with fewer values, so that what refers to them goes on; their gradients are
    dropped. ``infoprune.callbacks.cut_optimizer`` does the same to the state of an optimizer.

    Args:
        plan: The kept filters. Layers it does not name keep all filters.
        model: The network, changed in place.
        example: ``(n, ...)`` one batch of inputs, or one of each shape; the values do not matter.
        groups: What ``find_groups`` returned for this network, if known.
        check: Test the plan on copies with randomised norms before it is applied.

    Raises:
        InputError: As for ``infoprune.network.surgery.apply``.

    Example:
        >>> from infoprune.plan import LayerDecision
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()
        >>> weight = net[0].weight
        >>> change = cut_in_place(Plan({"0": LayerDecision("0", 4, kept=(0, 2))}), net, torch.rand(2, 1, 8, 8))
        >>> net[0].weight is weight, tuple(weight.shape), len(change.smaller)
        (True, (2, 1, 3, 3), 3)
    """
    groups = groups or find_groups(model, example, check=False)
    removal = surgery.removal_of(plan, groups, model)
    if check and removal:
        surgery.check_plan(plan, model, example, removal)
    touched = surgery.made_plain(plan, removal, groups)
    computed: dict[str, Computed] = {}
    if touched:
        whole = equivalence.copied(model)
        first = equivalence.placed(equivalence.batches_of(example)[0], whole)
        with equivalence.exactly(first.device):
            computed = computed_layers(whole, first)
    first_state = _state(model)
    of_layer = {name: tuple(model.get_submodule(name).parameters()) for name in touched}
    put_plain(model, computed, touched)
    replaced = {one: of_layer[name] for name in touched for one in model.get_submodule(name).parameters()}
    places = _places(model, removal)
    owners = {name: _owner(model, name) for name, _ in model.named_parameters()}
    before = {name: (table[key], table[key].shape) for name, (table, key) in owners.items()}
    cut(model, removal)
    smaller: dict[nn.Parameter, Smaller] = {}
    for name, (table, key) in owners.items():
        parameter, shape = before[name]
        if table[key] is parameter and parameter.shape == shape:
            continue
        smaller[parameter] = Smaller(shape, places[name])
        parameter.data, parameter.grad = table[key].data, None
        table[key] = parameter
    undone = list(_differences(first_state, model))
    return InPlace({one: left for one, left in smaller.items() if one not in replaced}, replaced, undone)


def _owner(model: nn.Module, name: str) -> tuple[dict[str, Any], str]:
    parent, _, key = name.rpartition(".")
    return model.get_submodule(parent)._parameters, key


def _places(model: nn.Module, removal: Removal) -> dict[str, Tensor]:
    """Return by name where the values of every cut parameter are in the uncut one, by cutting a copy that counts."""
    counting = equivalence.duplicate(model).to("cpu")
    for parameter in counting.parameters():
        # Whole numbers up to 2^53 are exact.
        parameter.data = torch.arange(parameter.numel(), dtype=torch.float64).reshape(parameter.shape)
    cut(counting, removal)
    return {name: parameter.detach().long() for name, parameter in counting.named_parameters()}


def _tables(module: nn.Module) -> Iterator[dict[str, Any]]:
    yield vars(module)
    for name in _TABLES:
        yield vars(module)[name]


def _state(model: nn.Module) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [(table, dict(table)) for module in model.modules() for table in _tables(module)]


def _differences(
    before: list[tuple[dict[str, Any], dict[str, Any]]], model: nn.Module
) -> Iterator[tuple[dict[str, Any], str, Any]]:
    for table, old in before:
        for name in {**old, **table}:
            value = old.get(name, _ABSENT)
            if name not in _TABLES and table.get(name, _ABSENT) is not value:
                yield table, name, value
