"""Direct and indirect effects: importance is handed back from the classes through the weights (Zheng et al. 2024).

A reconstruction from the title, in the form of NISP (arXiv 1711.05908); no parity is claimed. Every output of the
network has the importance 1. A layer hands the importance s_o of its outputs back to its inputs by the moduli of its
weights V, all taps added, and so on to the first layer::

    p_f = sum over readers r and their outputs o of s_o |V_r[o, f]|,    s_f = p_f on the way
    score_f = balance * ||W_f||_1 / mean + (1 - balance) * p_f / mean

Layers are taken from the last to the first that runs. So the stream of a residual stage gathers importance block by
block: an addition hands on to each of its terms what its sum has. Norms hand on unchanged; outputs that belong to no
scored group have the importance 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from infoprune.criteria.base import Importance
from infoprune.criteria.scoring import filters_of
from infoprune.criteria.weights import flat_weights
from infoprune.criteria.whole_network import by_filter, register_network_criterion
from infoprune.data.batches import Batches, images_of
from infoprune.errors import InputError
from infoprune.network.coupled_groups import CoupledGroup, Member
from infoprune.network.equivalence import copied
from infoprune.network.execution_order import calls
from infoprune.network.layers import Routing, is_depthwise, is_producer, width
from infoprune.progress import Progress, silent


@torch.no_grad()
def propagated(
    model: nn.Module,
    groups: Sequence[CoupledGroup],
    batches: Batches,
    *,
    balance: float = 0.5,
    progress: Progress = silent,
) -> dict[str, Importance]:
    """Return the importance of the filters of every coupled group.

    Args:
        model: The network; left as it is.
        groups: What to score.
        batches: Images, of which two show the order in which the layers run.
        balance: Weight of the direct part, 0 to 1.
        progress: Called after every layer.

    Returns:
        By the names of the groups; the mean of each is 1. The evidence holds ``propagated`` ``(C,)``.

    Raises:
        InputError: The balance is out of range, there are no images, or a group is read by no convolution or linear
            layer.

    Example:
        >>> from infoprune.network.coupled_groups import find_groups
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1))
        >>> _ = net[1].weight.data.copy_(torch.tensor([[1.0, 0.0], [2.0, 3.0]])[:, :, None, None])
        >>> images = torch.rand(2, 1, 4, 4)
        >>> propagated(net, find_groups(net, images).groups, [images])["0"].evidence["propagated"].tolist()
        [3.0, 3.0]
    """
    if not (math.isfinite(balance) and 0 <= balance <= 1):
        raise InputError(f"the balance is the weight of the direct part, from 0 to 1, not {balance}")
    model = copied(model)
    for group in groups:
        if not any(one.side == "in" and is_producer(model.get_submodule(one.layer)) for one in group.members):
            raise InputError(
                f"layer '{group.name}' is read by no convolution or linear layer: 'propagated' cannot score it"
            )
    handed = _handed_back(model, groups, _order(model, batches), progress)
    found = {}
    for group in groups:
        direct = flat_weights(filters_of(model, group)).abs().sum(dim=1)
        scores = balance * _relative(direct) + (1 - balance) * _relative(handed[group.name])
        found[group.name] = Importance(scores, evidence={"propagated": handed[group.name]})
    return found


def transferred(module: nn.Module, importance: Tensor) -> Tensor:
    """Return ``(inputs,)``: what a layer hands back of the ``(outputs,)`` importance of its outputs.

    Args:
        module: A convolution, transposed or not, a linear layer, or one that copies channels.
        importance: float64.

    Example:
        >>> layer = nn.Linear(2, 2, bias=False)
        >>> _ = layer.weight.data.copy_(torch.tensor([[1.0, 0.0], [2.0, -3.0]]))
        >>> transferred(layer, torch.tensor([1.0, 0.0]).double()).tolist()
        [1.0, 0.0]
    """
    if isinstance(module, Routing):
        place = next(module.buffers(), importance).device  # type: ignore[attr-defined]
        inputs = torch.eye(width(module, "in"), device=place)  # type: ignore[arg-type]
        copies: Tensor = module(inputs[:, :, None, None])  # type: ignore[operator]
        return copies.flatten(1).cpu().double() @ importance
    weight: Tensor = module.weight.detach().to("cpu", torch.float64).abs()  # type: ignore[union-attr,operator]
    weight = weight.flatten(2).sum(dim=2) if weight.ndim > 2 else weight
    parts: int = getattr(module, "groups", 1)  # type: ignore[assignment]
    own = importance.reshape(parts, -1)
    if isinstance(module, _ConvTransposeNd):
        return torch.einsum("gio,go->gi", weight.reshape(parts, -1, weight.shape[1]), own).flatten()
    return torch.einsum("goi,go->gi", weight.reshape(parts, -1, weight.shape[1]), own).flatten()


def _order(model: nn.Module, batches: Batches) -> list[str]:
    """Return the layers from the last to the first that runs, each once."""
    images = next(images_of(batches, model))[:2]
    return list(dict.fromkeys(call.module for call in reversed(calls(model, images))))


def _handed_back(
    model: nn.Module, groups: Sequence[CoupledGroup], order: Sequence[str], progress: Progress
) -> dict[str, Tensor]:
    """Return by group the ``(C,)`` importance that reaches its filters."""
    found = {group.name: torch.zeros(group.filters, dtype=torch.float64) for group in groups}
    reading: dict[str, list[tuple[str, Member]]] = {}
    made: dict[str, list[tuple[str, Member]]] = {}
    for group in groups:
        for member in group.members:
            (reading if member.side == "in" else made).setdefault(member.layer, []).append((group.name, member))
    layers = [layer for layer in order if layer in reading or layer in made]
    for done, layer in enumerate(layers, 1):
        module = model.get_submodule(layer)
        if layer in reading:
            heard = transferred(module, _of_outputs(module, made.get(layer, ()), found))
            for name, member in reading[layer]:
                found[name] = found[name] + by_filter(heard[None], member.channels)[0]
        elif is_depthwise(module):
            strength = module.weight.detach().to("cpu", torch.float64).abs().flatten(1).sum(dim=1)  # type: ignore[union-attr,operator]
            for name, member in made[layer]:
                # Of several channels of one filter the importance is theirs together: their mean strength.
                sizes = torch.tensor([max(1, len(some)) for some in member.channels])
                found[name] = found[name] * by_filter(strength[None], member.channels)[0] / sizes
        progress("importance through the layers", done, len(layers))
    return found


def _of_outputs(module: nn.Module, made: Sequence[tuple[str, Member]], found: Mapping[str, Tensor]) -> Tensor:
    """Return the ``(outputs,)`` importance of a layer's outputs."""
    importance = torch.ones(width(module, "out"), dtype=torch.float64)
    for name, member in made:
        for filter_, channels in enumerate(member.channels):
            for channel in channels:
                importance[channel] = found[name][filter_] / len(channels)
    return importance


def _relative(values: Tensor) -> Tensor:
    mean = values.mean()
    return values / mean if mean > 0 else torch.ones_like(values)


register_network_criterion(
    "propagated",
    propagated,
    "importance handed back from the classes through the weights, and the L1 norm (reconstruction)",
    paper="Zheng et al. 2024",
    images=2,
    cost="one forward pass of 2 images; one sum over the weights",
)
