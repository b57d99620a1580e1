"""How coupled groups follow one another: in the order in which data flows, not that of the module list."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from infoprune.network import equivalence
from infoprune.network.coupled_groups import CoupledGroup


@dataclass(frozen=True)
class Flow:
    """Coupled groups in the order in which they run, and which of them are neighbours.

    Args:
        order: Names of the groups; one of several layers runs where the layer that names it does.
        beside: By group, the groups that a layer of it reads, and those that read it, without a group between them.
            The blocks of a residual stage are all beside the group of the stage, and it beside them.
    """

    order: tuple[str, ...]
    beside: Mapping[str, frozenset[str]]


def flow(model: nn.Module, groups: Sequence[CoupledGroup], example: Tensor) -> Flow:
    """Follow the groups of a network through one forward pass.

    Args:
        model: The network; left as it is.
        groups: What is to be ordered.
        example: ``(n, ...)`` a batch; the values do not matter.
    """
    ran = _ran(equivalence.copied(model), [group.name for group in groups], example[:2])
    made = {layer: group.name for group in groups for layer in group.producers}
    beside: dict[str, set[str]] = {group.name: set() for group in groups}
    for group in groups:
        for member in group.members:
            reader = made.get(member.layer, group.name) if member.side == "in" else group.name
            if reader != group.name:
                beside[group.name].add(reader)
                beside[reader].add(group.name)
    return Flow(ran, {name: frozenset(others) for name, others in beside.items()})


def _ran(model: nn.Module, layers: Sequence[str], example: Tensor) -> tuple[str, ...]:
    """Return the layers in the order in which they first run in a network of our own."""
    ran: dict[str, None] = {}

    def noting(layer: str) -> Callable[..., None]:
        return lambda *_: ran.setdefault(layer)

    for layer in layers:
        model.get_submodule(layer).register_forward_hook(noting(layer))
    equivalence.outputs(model, equivalence.placed(example, model))
    return tuple(ran)
