"""Approximates each removed channel by a linear combination of the kept ones, folded into the next layers.

Only the channel moments of the ORIGINAL network's feature maps are stored, C x C for each layer that lost inputs. A
removed channel d is replaced by ``sum_p B[d, p] x_p + c[d]`` over the kept channels p. The next layer then has the
weight ``W[:, p] + sum_d W[:, d] B[d, p]``, the same for every kernel tap, and the constant ``sum_d W[:, d] c[d]``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from infoprune.data.batches import number_of_batches
from infoprune.network.equivalence import duplicate
from infoprune.network.layer_io import read
from infoprune.progress import Progress
from infoprune.repair.base import Pair, RepairInfo, register
from infoprune.repair.batch_norm import reestimate

RIDGE = 1e-3


@dataclass(frozen=True)
class ChannelMoments:
    """Moments of C channels over all positions of all images, float64.

    Args:
        mean: ``(C,)``.
        gram: ``(C, C)``, the mean of x x^T.

    Example:
        >>> moments = ChannelMoments(torch.tensor([1.0, 0.0]), torch.tensor([[2.0, 0.0], [0.0, 3.0]]))
        >>> moments.covariance().tolist()
        [[1.0, 0.0], [0.0, 3.0]]
    """

    mean: Tensor
    gram: Tensor

    def covariance(self) -> Tensor:
        """Return ``(C, C)``."""
        return self.gram - self.mean[:, None] * self.mean

    def among(self, channels: Tensor) -> ChannelMoments:
        """Return the moments of some of the channels."""
        return ChannelMoments(self.mean[channels], self.gram[channels][:, channels])


@dataclass(frozen=True)
class Stand:
    """An approximation of all C channels by the P kept ones.

    Args:
        combination: ``(C, P)`` float64; if only removed channels are fitted, the rows of kept ones are the identity.
        constant: ``(C,)`` float64.

    Example:
        >>> Stand(torch.eye(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)).combination.shape
        torch.Size([2, 2])
    """

    combination: Tensor
    constant: Tensor


Rule = Callable[[ChannelMoments, Tensor, Tensor | None], Stand]
"""Takes the moments of C channels, the indices of the P kept ones and, by channel, the kept one it is paired with
(-1 for none, ``None`` without pairs)."""


def gram_of_kept(moments: ChannelMoments, kept: Tensor, paired: Tensor | None = None) -> Stand:
    """Return every channel as the least squares combination of the kept ones, without a constant.

    ``B = G_:P (G_PP + 1e-3 mean(diag G_PP) I)^-1`` (GRAIL, arXiv 2602.23795).

    Example:
        >>> x = torch.tensor([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0]]).double()
        >>> moments = ChannelMoments(x.mean(dim=1), x @ x.T / 3)
        >>> round(gram_of_kept(moments, torch.tensor([0])).combination[1, 0].item(), 2)
        2.0
    """
    among = moments.gram[kept][:, kept]
    ridge = RIDGE * among.diagonal().mean().clamp_min(torch.finfo(among.dtype).tiny ** 0.5)
    eye = torch.eye(len(kept), dtype=among.dtype, device=among.device)
    combination = torch.linalg.solve(among + ridge * eye, moments.gram[kept]).mT
    return Stand(combination, torch.zeros_like(moments.mean))


def nearest_kept(moments: ChannelMoments, kept: Tensor, paired: Tensor | None = None) -> Stand:
    """Return every removed channel as ``a x_k + b`` of one kept channel k.

    k is the channel it was paired with, where the criterion paired filters, otherwise the one that explains most of its
    variance (arXiv 2010.13160). A constant channel has a = 0 and its value as b; ties go to the lowest index.

    Args:
        moments: Of C channels.
        kept: ``(P,)`` indices.
        paired: ``(C,)`` by channel, the kept one it was paired with, -1 for none.

    Example:
        >>> x = torch.tensor([[1.0, 2.0, 3.0], [3.0, 5.0, 7.0]]).double()
        >>> found = nearest_kept(ChannelMoments(x.mean(dim=1), x @ x.T / 3), torch.tensor([0]))
        >>> round(found.combination[1, 0].item(), 6), round(found.constant[1].item(), 6)
        (2.0, 1.0)
    """
    covariance = moments.covariance()
    spread = covariance.diagonal()[kept]
    some = spread > 1e-12 * moments.gram.diagonal()[kept].clamp_min(torch.finfo(spread.dtype).tiny ** 0.5)
    slopes = torch.where(some, covariance[:, kept] / torch.where(some, spread, 1.0), 0.0)
    explained = slopes * covariance[:, kept]
    partner = explained.argmax(dim=1, keepdim=True)
    if paired is not None:
        place = torch.full((len(moments.mean) + 1,), -1, device=kept.device)
        place[kept] = torch.arange(len(kept), device=kept.device)
        known = place[paired][:, None]
        partner = torch.where(known >= 0, known, partner)
    combination = torch.zeros_like(slopes).scatter(1, partner, slopes.gather(1, partner))
    combination[kept] = torch.eye(len(kept), dtype=slopes.dtype, device=slopes.device)
    return Stand(combination, moments.mean - combination @ moments.mean[kept])


@torch.no_grad()
def put_in(pair: Pair, rule: Rule, progress: Progress) -> nn.Module:
    """Return a copy of the pruned network; layers that lost inputs are corrected by a rule.

    Example:
        >>> import infoprune
        >>> _ = torch.manual_seed(0)
        >>> whole, images = infoprune.zoo.build("digits").eval(), torch.rand(20, 1, 8, 8)
        >>> plan = infoprune.plan(whole, [images], criterion="l1", macs=0.5)
        >>> pair = Pair.of(whole, plan, [images])
        >>> from infoprune.progress import silent
        >>> put_in(pair, nearest_kept, silent).classifier.in_features == pair.small.classifier.in_features
        True
    """
    small = duplicate(pair.small)
    readers = _readers(pair)
    moments = _moments(pair, readers, progress)
    images = next(pair.images())[:2]
    paired = _paired(pair)
    for layer in readers:
        _contract(pair, small, layer, moments[layer], rule, paired.get(layer, {}), images)
    return small


def _paired(pair: Pair) -> dict[str, dict[int, int]]:
    """Return by downstream layer, for each removed input, the input of the filter it was paired with."""
    found: dict[str, dict[int, int]] = {}
    for group in pair.groups.groups:
        decision = pair.plan.decisions.get(group.name)
        if decision is None or decision.partner is None:
            continue
        stand = {filter_: decision.stands_in(filter_) for filter_ in decision.removed}
        for member in group.members:
            if member.side == "in":
                pairs = ((member.channels[gone], member.channels[one]) for gone, one in stand.items() if one >= 0)
                found.setdefault(member.layer, {}).update(
                    (gone, one) for some, others in pairs for gone, one in zip(some, others, strict=False)
                )
    return found


def _readers(pair: Pair) -> list[str]:
    """Return the layers that lost inputs and can be corrected."""
    readers = []
    for (layer, side), gone in pair.removal.items():
        if side != "in" or not isinstance(layer, str):
            continue
        module = pair.original.get_submodule(layer)
        if not gone or not isinstance(getattr(module, "weight", None), Tensor):
            continue
        if isinstance(module, (nn.Linear, _ConvNd)) and not isinstance(module, _ConvTransposeNd):
            readers.append(layer)
        else:
            warnings.warn(f"layer '{layer}' is not repaired: it is a {type(module).__name__}", stacklevel=2)
    return readers


def _moments(pair: Pair, layers: list[str], progress: Progress) -> dict[str, ChannelMoments]:
    sums: dict[str, Tensor] = {}
    grams: dict[str, Tensor] = {}
    counts = dict.fromkeys(layers, 0)

    def taking(layer: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def take(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            maps: Tensor = arguments[0]
            rows = maps.flatten(0, -2).T if isinstance(module, nn.Linear) else maps.transpose(0, 1).flatten(1)
            x = rows.double()
            sums[layer] = sums[layer] + x.sum(dim=1) if counts[layer] else x.sum(dim=1)
            grams[layer] = grams[layer] + x @ x.mT if counts[layer] else x @ x.mT
            counts[layer] += x.shape[1]

        return take

    with ExitStack() as hooks:
        for layer in layers:
            hooks.callback(pair.original.get_submodule(layer).register_forward_pre_hook(taking(layer)).remove)
        for done, images in enumerate(pair.images(), 1):
            pair.original(images)
            progress("moments of channels", done, max(done, number_of_batches(pair.batches)))
    return {layer: ChannelMoments(sums[layer] / counts[layer], grams[layer] / counts[layer]) for layer in layers}


def _contract(
    pair: Pair,
    small: nn.Module,
    layer: str,
    moments: ChannelMoments,
    rule: Rule,
    paired: Mapping[int, int],
    images: Tensor,
) -> None:
    whole, reader = pair.original.get_submodule(layer), small.get_submodule(layer)
    weight = whole.weight.double()  # type: ignore[union-attr, operator]
    assert isinstance(weight, Tensor)
    groups = whole.groups if isinstance(whole, _ConvNd) else 1
    width = weight.shape[1]
    kept = torch.tensor(pair.kept(layer, "in", width * groups), device=weight.device)
    rows = torch.tensor(pair.kept(layer, "out", len(weight)), device=weight.device)
    weights, constants = [], []
    for group in range(groups):
        channels = torch.arange(group * width, (group + 1) * width, device=weight.device)
        mine = kept[(kept >= channels[0]) & (kept <= channels[-1])] - channels[0]
        stand = rule(moments.among(channels), mine, _within(paired, channels))
        own = weight[rows[(rows * groups) // len(weight) == group]].movedim(1, -1)
        weights.append((own @ stand.combination).movedim(-1, 1))
        constants.append((own @ stand.constant).reshape(len(own), -1).sum(dim=1))
    _parameter(reader).copy_(torch.cat(weights))
    _add_constant(small, layer, torch.cat(constants), images)


def _within(paired: Mapping[int, int], channels: Tensor) -> Tensor | None:
    """Return the pairs among consecutive channels, numbered from the first of them; -1 for the others."""
    if not paired:
        return None
    first, last = int(channels[0]), int(channels[-1])
    partners = [paired.get(channel, -1) for channel in range(first, last + 1)]
    inside = [one - first if first <= one <= last else -1 for one in partners]
    return torch.tensor(inside, device=channels.device)


def _parameter(layer: nn.Module) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.detach()


def _add_constant(small: nn.Module, layer: str, constant: Tensor, images: Tensor) -> None:
    """Add a constant to the output of a layer, in its bias or in the batch norm after it, if it has either."""
    bias = small.get_submodule(layer).bias
    if isinstance(bias, Tensor):
        bias.add_(constant)
        return
    norm = read(small, layer, images).norm
    if norm:
        module = small.get_submodule(norm)
        assert isinstance(module, _BatchNorm)
        assert module.running_mean is not None
        module.running_mean.sub_(constant)


def _channels(pair: Pair, progress: Progress) -> nn.Module:
    return reestimate(put_in(pair, gram_of_kept, progress), pair.batches, progress)


register(
    RepairInfo(
        "channels",
        _channels,
        "each removed channel as a linear combination of the kept ones, then batch norm",
        "arXiv 2602.23795",
    )
)
