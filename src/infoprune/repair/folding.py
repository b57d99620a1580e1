"""Model folding: filters of a group are clustered by their weights, and each cluster becomes its mean filter.

The clusters start from the kept filters of the plan, so that there is one cluster for each. The next layers read the
mean of a cluster, with the sum of the weights of its filters (arXiv 2502.10216).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from infoprune.network.computed_weights import computed_layers, put_plain
from infoprune.network.coupled_groups import CoupledGroup, Member
from infoprune.network.equivalence import copied, duplicate
from infoprune.network.removal import cut
from infoprune.network.surgery import made_plain
from infoprune.progress import Progress
from infoprune.regression.layer_fit import norm_scale
from infoprune.repair.base import Pair, RepairInfo, register
from infoprune.repair.batch_norm import reestimate


@dataclass(frozen=True)
class _Fold:
    """Which kept filter each filter of a group is folded into."""

    group: CoupledGroup
    kept: tuple[int, ...]
    into: tuple[int, ...]


@torch.no_grad()
def fold(pair: Pair, progress: Progress) -> nn.Module:
    """Return a network of the pruned shape whose filters are means of clusters of the original's filters.

    Groups whose filters can only be removed several at a time are not folded, nor are groups with layers other than
    convolution, linear and batch norm.

    Example:
        >>> import infoprune
        >>> _ = torch.manual_seed(0)
        >>> whole, images = infoprune.zoo.build("digits").eval(), torch.rand(20, 1, 8, 8)
        >>> plan = infoprune.plan(whole, [images], criterion="l1", macs=0.5)
        >>> pair = Pair.of(whole, plan, [images])
        >>> from infoprune.progress import silent
        >>> fold(pair, silent).features[0].out_channels == pair.small.features[0].out_channels
        True
    """
    whole = duplicate(pair.original)
    if plain := made_plain(pair.plan, pair.removal, pair.groups):
        put_plain(whole, computed_layers(copied(whole), next(pair.images())), plain)
    folds = [
        _fold(whole, group, pair.plan.kept[group.name])
        for group in pair.groups.groups
        if pair.plan.kept.get(group.name) and len(pair.plan.kept[group.name]) < group.filters and _can(whole, group)
    ]
    for done, one in enumerate(folds, 1):
        for member in one.group.members:
            layer = whole.get_submodule(member.layer)
            if member.side == "out":
                _mean_outputs(layer, member, one)
            else:
                _sum_inputs(layer, member, one)
        progress("folding", done, len(folds))
    # The means are stored at the indices of the kept filters, so the same cut removes the rest.
    cut(whole, pair.removal)
    return whole


def _can(model: nn.Module, group: CoupledGroup) -> bool:
    layers = [model.get_submodule(member.layer) for member in group.members]
    plain = all(isinstance(layer, (nn.Linear, _ConvNd, _BatchNorm)) for layer in layers)
    single = all(len(unit) == 1 for unit in group.units)
    return plain and single and not any(isinstance(layer, _ConvTransposeNd) for layer in layers)


def _fold(model: nn.Module, group: CoupledGroup, kept: tuple[int, ...]) -> _Fold:
    rows = _rows(model, group)
    from sklearn.cluster import KMeans

    found = KMeans(len(kept), init=rows[list(kept)], n_init=1, max_iter=100, random_state=0).fit(rows)
    labels = _with_all_clusters(found.labels_, kept)
    return _Fold(group, kept, tuple(kept[label] for label in labels))


def _with_all_clusters(labels: np.ndarray, kept: tuple[int, ...]) -> list[int]:
    """Assign to each empty cluster the filter it started from."""
    assigned = [int(label) for label in labels]
    for label in set(range(len(kept))) - set(assigned):
        assigned[kept[label]] = label
    return assigned


def _rows(model: nn.Module, group: CoupledGroup) -> np.ndarray:
    """Return ``(C, D)``: the weights of each filter in all layers that make it, times their norms' scales."""
    norms = {layer: model.get_submodule(layer) for layer in group.norms}
    scales = [norm_scale(norm) for norm in norms.values() if isinstance(norm, _BatchNorm)]
    parts = []
    for number, layer in enumerate(group.producers):
        member = next(one for one in group.members if one.layer == layer and one.side == "out")
        weight = model.get_submodule(layer).weight
        assert isinstance(weight, Tensor)
        scale = scales[number] if len(scales) == len(group.producers) else torch.ones(len(weight)).double()
        scaled = weight.flatten(1).double() * scale.to(weight.device)[:, None]
        parts.append(torch.stack([_of(scaled, some) for some in member.channels]))
    rows: np.ndarray = torch.cat(parts, dim=1).cpu().numpy()
    return rows


def _of(rows: Tensor, some: tuple[int, ...]) -> Tensor:
    return rows[list(some)].mean(dim=0) if some else torch.zeros_like(rows[0])


def _mean_outputs(layer: nn.Module, member: Member, one: _Fold) -> None:
    """Replace each kept filter by the mean of its cluster: weights, biases and norm parameters."""
    for tensor in (*layer.parameters(recurse=False), *layer.buffers(recurse=False)):
        if tensor.dim() == 0:
            continue
        old = tensor.clone()
        for filter_ in one.kept:
            cluster = [other for other, target in enumerate(one.into) if target == filter_]
            for place, channel in enumerate(member.channels[filter_]):
                some = [member.channels[other][place] for other in cluster if place < len(member.channels[other])]
                tensor[channel] = old[some].mean(dim=0)


def _sum_inputs(layer: nn.Module, member: Member, one: _Fold) -> None:
    """Replace the weights on the inputs of a cluster by their sum, at the kept filter."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    if isinstance(layer, _ConvNd) and layer.groups > 1:
        return
    old = weight.clone()
    for filter_ in one.kept:
        cluster = [other for other, target in enumerate(one.into) if target == filter_]
        for place, channel in enumerate(member.channels[filter_]):
            some = [member.channels[other][place] for other in cluster if place < len(member.channels[other])]
            weight[:, channel] = old[:, some].sum(dim=1)


def _repair(pair: Pair, progress: Progress) -> nn.Module:
    return reestimate(fold(pair, progress), pair.batches, progress)


register(RepairInfo("fold", _repair, "each cluster of filters becomes its mean, then batch norm", "arXiv 2502.10216"))
