"""Records the order of execution: the calls of modules in one forward pass, and the order of coupled groups.

The order of the module list can differ from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from typing import Any

from torch import Tensor, nn

from infoprune.network import equivalence
from infoprune.network.coupled_groups import CoupledGroup, Examples


@dataclass(frozen=True)
class Call:
    """One call of a module in a forward pass.

    Args:
        module: Dotted name.
        begin: Time at which the call begins, on a clock that counts begins and ends.
        end: Time at which the call ends, on the same clock. A call lies inside another one exactly if its times do.
        returns_maps: Whether it returns one tensor of real numbers.

    Example:
        >>> Call(module="features.0", begin=1, end=2, returns_maps=True).module
        'features.0'
    """

    module: str
    begin: int
    end: int
    returns_maps: bool


def calls(model: nn.Module, images: Tensor, modules: Iterable[str] | None = None) -> list[Call]:
    """Return the calls of modules in one forward pass, in the order in which they begin, one entry per call.

    Args:
        model: The network, in the mode whose order is recorded; the hooks are removed afterwards.
        images: ``(n, ...)`` a few images on the device of the network; the values do not matter.
        modules: Names of modules; by default all. Modules that do not run have no call.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
        >>> [(call.module, call.begin, call.end) for call in calls(model, torch.zeros(1, 2, 2))]
        [('', 0, 5), ('0', 1, 2), ('1', 3, 4)]
    """
    clock = count()
    begun: dict[str, list[int]] = {}
    found: list[Call] = []

    def enter(name: str) -> Callable[..., None]:
        return lambda *_: begun.setdefault(name, []).append(next(clock))

    def leave(name: str) -> Callable[..., None]:
        def note(module: nn.Module, arguments: Any, output: Any) -> None:
            maps = isinstance(output, Tensor) and output.is_floating_point()
            found.append(Call(name, begun[name].pop(), next(clock), maps))

        return note

    names = [name for name, _ in model.named_modules()] if modules is None else list(modules)
    with ExitStack() as hooks:
        for name in names:
            module = model.get_submodule(name)
            hooks.callback(module.register_forward_pre_hook(enter(name)).remove)
            hooks.callback(module.register_forward_hook(leave(name)).remove)
        equivalence.outputs(model, images)
    return sorted(found, key=lambda call: call.begin)


@dataclass(frozen=True)
class Flow:
    """Coupled groups in the order in which they run, and which of them are neighbours.

    Args:
        order: Names of the groups, in the order of their naming layers.
        beside: By group, its neighbours: the groups directly upstream and downstream of it. The blocks of a residual
            stage are all neighbours of the group of the stage.

    Example:
        >>> Flow(("0", "1"), {"0": frozenset({"1"}), "1": frozenset({"0"})}).order
        ('0', '1')
    """

    order: tuple[str, ...]
    beside: Mapping[str, frozenset[str]]


def flow(model: nn.Module, groups: Sequence[CoupledGroup], example: Examples) -> Flow:
    """Follow the groups of a network through one forward pass.

    Args:
        model: The network; it is not changed.
        groups: The groups to order.
        example: ``(n, ...)`` a batch, or one of each shape: layers that do not run on the first come last. The values
            do not matter.

    Example:
        >>> import torch
        >>> from infoprune.network.coupled_groups import find_groups
        >>> net, images = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2), nn.Linear(2, 1)), torch.zeros(1, 4)
        >>> found = flow(net, find_groups(net, images).groups, images)
        >>> found.order, dict(found.beside)
        (('0', '1'), {'0': frozenset({'1'}), '1': frozenset({'0'})})
    """
    copy = equivalence.copied(model)
    names = [group.name for group in groups]
    batches = [equivalence.placed(one[:2], copy) for one in equivalence.batches_of(example)]
    ran = [call for one in batches for call in calls(copy, one, names)]
    made = {layer: group.name for group in groups for layer in group.producers}
    beside: dict[str, set[str]] = {group.name: set() for group in groups}
    for group in groups:
        for member in group.members:
            reader = made.get(member.layer, group.name) if member.side == "in" else group.name
            if reader != group.name:
                beside[group.name].add(reader)
                beside[reader].add(group.name)
    return Flow(
        tuple(dict.fromkeys(call.module for call in ran)), {name: frozenset(others) for name, others in beside.items()}
    )
