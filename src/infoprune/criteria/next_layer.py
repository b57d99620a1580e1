"""FPSL: the effect of a filter on the next layers' results, from weights alone (Mondal et al. 2023, CVIU).

A reconstruction from the abstract; no parity is claimed. For independent inputs of unit variance, the squared change of
the results of the layers r that read filter f is expected to be, when f is removed::

    s_f = v_f * sum over r of ||V_r[:, f]||^2,   v_f = ||W_f||^2, or gamma_f^2 + beta_f^2 where a batch norm follows

V_r are the weights of a reader, all of its taps. Over several layers of a coupled group v_f is summed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from infoprune.criteria.base import Importance
from infoprune.criteria.scoring import filters_of
from infoprune.criteria.whole_network import by_filter, register_network_criterion
from infoprune.data.batches import Batches
from infoprune.errors import InputError
from infoprune.network.coupled_groups import CoupledGroup
from infoprune.network.layers import is_producer
from infoprune.progress import Progress, silent


@torch.no_grad()
def next_layer(
    model: nn.Module, groups: Sequence[CoupledGroup], batches: Batches = (), *, progress: Progress = silent
) -> dict[str, Importance]:
    """Return the importance of the filters of every coupled group.

    Args:
        model: The network; left as it is.
        groups: What to score.
        batches: Not read.
        progress: Called after every group.

    Raises:
        InputError: A group is read by no convolution or linear layer.

    Example:
        >>> from infoprune.network.coupled_groups import find_groups
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 3, 1))
        >>> _ = nn.init.constant_(net[1].weight[:, 0], 2.0), nn.init.constant_(net[1].weight[:, 1], 0.1)
        >>> next_layer(net, find_groups(net, torch.rand(2, 1, 4, 4)).groups)["0"].order
        (0, 1)
    """
    found = {}
    for done, group in enumerate(groups, 1):
        readers = [one for one in group.members if one.side == "in" and is_producer(model.get_submodule(one.layer))]
        if not readers:
            raise InputError(
                f"layer '{group.name}' is read by no convolution or linear layer: 'next-layer' cannot score it"
            )
        heard = [by_filter(input_energy(model.get_submodule(one.layer))[None], one.channels)[0] for one in readers]
        found[group.name] = Importance(_spoken(model, group) * torch.stack(heard).sum(dim=0))
        progress("scoring filters", done, len(groups))
    return found


def input_energy(module: nn.Module) -> Tensor:
    """Return ``(inputs,)`` float64: the sum of the squared weights that each input channel meets.

    Example:
        >>> layer = nn.Linear(2, 2, bias=False)
        >>> _ = layer.weight.data.copy_(torch.tensor([[1.0, 5.0], [1.0, 5.0]]))
        >>> input_energy(layer).tolist()
        [2.0, 50.0]
    """
    weight: Tensor = module.weight.detach().to("cpu", torch.float64).square()  # type: ignore[union-attr,operator]
    if isinstance(module, _ConvTransposeNd):
        return weight.flatten(1).sum(dim=1)
    groups = getattr(module, "groups", 1)
    # (out, in / groups, ...): the outputs of each group meet its own inputs.
    return weight.flatten(2).sum(dim=2).reshape(groups, -1, weight.shape[1]).sum(dim=1).flatten() if (
        weight.ndim > 2) else weight.sum(dim=0)  # fmt: skip


def _spoken(model: nn.Module, group: CoupledGroup) -> Tensor:
    """Return ``(C,)``: the expected square of each filter's result."""
    parts = []
    for member in group.members:
        if member.layer in group.norms:
            norm = model.get_submodule(member.layer)
            width = sum(map(len, member.channels))
            scale = getattr(norm, "weight", None)
            shift = getattr(norm, "bias", None)
            power = torch.ones(width, dtype=torch.float64) if scale is None else scale.detach().cpu().double().square()
            parts.append(by_filter((power + (0 if shift is None else shift.detach().cpu().double().square()))[None],
                                   member.channels)[0])  # fmt: skip
    if not parts:
        parts = [weight.detach().cpu().double().square().sum(dim=1) for weight in filters_of(model, group).weights]
    return torch.stack(parts).sum(dim=0)


register_network_criterion(
    "next-layer",
    next_layer,
    "expected effect on the next layers' results, from weights (reconstruction)",
    paper="Mondal et al. 2023, CVIU",
    needs_maps=False,
    cost="no images; one sum over the weights",
)
