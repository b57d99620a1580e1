"""APSSF: filters whose averaged tensors are alike are redundant (Geng and Niu 2024, Int. J. Comput. Intell. Syst.).

A reconstruction from the abstract; no parity is claimed. A filter is a tensor I x kh x kw. It is averaged over one axis
at a time, and the distances of the three averages are added::

    d(f, g) = sum over axes of || mean over the axis of W_f - mean over the axis of W_g ||

Filters are joined to clusters by single linkage up to a threshold, and one filter of each cluster is kept. The paper
searches the threshold at which the wanted number is removed. Here filters are joined in the order of their distances,
which is the same for every number at once: each time two clusters are joined, one of their two filters is removed, that
which is nearer to a third filter left; of equally near ones that of the smaller L1 norm, then the later one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from infoprune.criteria.base import CriterionInfo, Filters, Importance, register
from infoprune.criteria.weights import flat_weights, of_weights
from infoprune.entropy.ties import default_bound, snapped

_AXES = 3


def apssf(filters: Filters) -> Importance:
    """Return the importance of every filter: when it is removed.

    Args:
        filters: The group; the distance is the sum over its layers.

    Returns:
        The importance; scores are places in the order, 1 for the filter that stays last. The evidence holds
        ``distance`` ``(C, C)``. Filters without weights are removed first.

    Example:
        >>> rows = torch.tensor([[[1.0, 0.0]], [[1.0, 0.1]], [[0.0, 3.0]]])
        >>> apssf(Filters((rows,))).order[-1] in (0, 1)
        True
    """
    tensors = [weight.detach().to("cpu", torch.float64) for weight in filters.weights]
    shapes = filters.shapes or tuple(tuple(tensor.shape[1:]) for tensor in tensors)
    layers = [averaged_distances(one.reshape(len(one), *shape)) for one, shape in zip(tensors, shapes, strict=True)]
    distance = torch.stack(layers).sum(dim=0)
    flat = flat_weights(filters)
    dead = (flat == 0).all(dim=1)
    live = (~dead).nonzero().flatten()
    removed = removal_by_joining(distance[live][:, live], flat[live].abs().sum(dim=1))
    order = [int(live[one]) for one in reversed(removed)] + dead.nonzero().flatten().tolist()
    scores = torch.empty(len(dead), dtype=torch.float64)
    scores[torch.tensor(order)] = torch.arange(len(dead), 0, -1, dtype=torch.float64) / len(dead)
    return Importance(scores, tuple(order), evidence={"distance": distance})


def averaged_distances(tensors: Tensor) -> Tensor:
    """Return the ``(C, C)`` distances of ``(C, I, ...)`` filters; axes that are missing have length 1.

    Example:
        >>> filters = torch.tensor([[1.0, 0.0], [0.0, 1.0]])[:, :, None, None]
        >>> round(averaged_distances(filters)[0, 1].item() / 2**0.5, 6)  # nothing, and the whole distance twice
        2.0
    """
    missing = max(0, _AXES + 1 - tensors.ndim)
    tensors = tensors.reshape(*tensors.shape, *[1] * missing)
    found = torch.zeros(len(tensors), len(tensors), dtype=torch.float64)
    for axis in range(1, tensors.ndim):
        rows = tensors.double().mean(dim=axis).flatten(1)
        found += torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    return (found + found.T) / 2


def removal_by_joining(distance: Tensor, norms: Tensor) -> list[int]:
    """Return filters in the order in which they are removed while clusters are joined, the one kept last at the end.

    Args:
        distance: ``(C, C)``, symmetric.
        norms: ``(C,)``.

    Example:
        >>> distance = torch.tensor([[0.0, 1.0, 5.0], [1.0, 0.0, 2.0], [5.0, 2.0, 0.0]], dtype=torch.float64)
        >>> removal_by_joining(distance, torch.ones(3))
        [1, 2, 0]
    """
    filters = len(distance)
    if not filters:
        return []
    norms = snapped(norms)
    rows, columns = torch.triu_indices(filters, filters, 1)
    pairs = distance[rows, columns]
    # What differs by rounding alone is equal, so that every processor joins the same clusters.
    pairs = snapped(pairs, default_bound(pairs).max() if len(pairs) else 0.0)
    nearest = torch.full((filters, filters), torch.inf, dtype=torch.float64)
    nearest[rows, columns] = nearest[columns, rows] = pairs
    leader, kept = list(range(filters)), list(range(filters))  # of each cluster, by its first filter
    removed: list[int] = []
    for pair in torch.argsort(pairs, stable=True).tolist():
        one, other = (_find(leader, int(some[pair])) for some in (rows, columns))
        if one == other:
            continue
        both = kept[one], kept[other]
        nearest[both] = nearest[both[::-1]] = torch.inf  # nearer to a third one is meant
        gone, stays = sorted(both, key=lambda f: (float(nearest[f].min()), float(norms[f]), -f))
        removed.append(gone)
        nearest[gone] = nearest[:, gone] = torch.inf
        first = min(one, other)
        leader[max(one, other)] = first
        kept[first] = stays
    return [*removed, kept[0]]


def _find(leader: list[int], filter_: int) -> int:
    while leader[filter_] != filter_:
        filter_ = leader[filter_]
    return filter_


INFO = register(
    CriterionInfo(
        "apssf",
        of_weights(apssf),
        "filters whose averages along each axis are the most alike go first (reconstruction)",
        paper="Geng and Niu 2024, Int. J. Comput. Intell. Syst.",
        needs_maps=False,
        cost="no images; distances of all pairs of filters",
    )
)
