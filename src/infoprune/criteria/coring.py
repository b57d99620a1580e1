"""CORING: filters are compared by the singular vectors of their unfoldings (Pham, Zniyed and Nguyen 2024).

"Efficient tensor decomposition-based filter pruning", Neural Networks 2024. A filter is a tensor I x kh x kw. For each
mode i the first left singular vector u_i of the unfolding describes it. The distance of two filters is the mean over
the modes of::

    cosine     1 - |cos(u_i, v_i)|
    vbd        var(u_i - v_i) / (var u_i + var v_i)
    euclidean  ||u_i - v_i||

Of the closest pair the filter with the smaller sum of distances to the filters left is removed, again and again. The
sign of a singular vector is arbitrary, which the published code leaves to LAPACK: here its entry of the largest modulus
is positive. Modes of length 1 say nothing and are left out.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from infoprune.criteria.base import CriterionInfo, Filters, Importance, register
from infoprune.criteria.qsfm import eliminate
from infoprune.criteria.weights import flat_weights, of_weights
from infoprune.entropy.ties import rounding
from infoprune.errors import unknown

Distance = Literal["cosine", "vbd", "euclidean"]


def coring(filters: Filters, *, measure: Distance = "cosine") -> Importance:
    """Return the importance of every filter: when it is removed.

    Args:
        filters: The group; the distance is the mean over its layers.
        measure: ``"cosine"``, ``"vbd"`` or ``"euclidean"``.

    Returns:
        The importance; scores are places in the order, 1 for the filter that stays last. The evidence holds
        ``distance`` ``(C, C)`` and ``partner`` ``(C,)``, the filter each was closest to when it was removed, -1 where
        there is none. Filters without weights are removed first.

    Raises:
        InputError: The measure is unknown.

    Example:
        >>> rows = torch.tensor([[[3.0, 0.0]], [[6.0, 0.1]], [[0.0, 1.0]]])
        >>> coring(Filters((rows,))).order[-1] in (0, 1)
        True
    """
    if measure not in get_args(Distance):
        raise unknown("measure of the criterion 'coring'", str(measure), get_args(Distance))
    tensors = [weight.detach().to("cpu", torch.float64) for weight in filters.weights]
    shapes = filters.shapes or tuple(tuple(tensor.shape[1:]) for tensor in tensors)
    layers = [distances(one.reshape(len(one), *shape), measure) for one, shape in zip(tensors, shapes, strict=True)]
    distance = torch.stack(layers).mean(dim=0)
    flat = flat_weights(filters)
    return in_order_of_removal(distance, flat.abs().sum(dim=1), (flat == 0).all(dim=1))


def in_order_of_removal(
    distance: Tensor, magnitude: Tensor, dead: Tensor, share: float = rounding(torch.float64, 1 << 16)
) -> Importance:
    """Return the importance by repeated removal of one filter of the closest pair.

    Args:
        distance: ``(C, C)``, symmetric.
        magnitude: ``(C,)``: of a pair whose sums of distances are equal, the smaller goes, then the later.
        dead: ``(C,)`` booleans: filters that are removed before all others.
        share: What distances and magnitudes may be out by, as a share: nearer is equal.

    Example:
        >>> distance = torch.tensor([[0.0, 0.1, 0.9], [0.1, 0.0, 0.8], [0.9, 0.8, 0.0]], dtype=torch.float64)
        >>> in_order_of_removal(distance, torch.ones(3).double(), torch.zeros(3, dtype=torch.bool)).order[-1]
        1
    """
    live = (~dead).nonzero().flatten()
    removed = eliminate(-distance[live][:, live], magnitude[live], share)
    order = [int(live[one]) for one, _, _ in reversed(removed)] + dead.nonzero().flatten().tolist()
    scores = torch.empty(len(dead), dtype=torch.float64)
    scores[torch.tensor(order)] = torch.arange(len(dead), 0, -1, dtype=torch.float64) / len(dead)
    partner = torch.full((len(dead),), -1)
    for one, other, _ in removed:
        partner[live[one]] = -1 if other is None else live[other]
    return Importance(scores, tuple(order), evidence={"distance": distance, "partner": partner})


def distances(tensors: Tensor, measure: Distance) -> Tensor:
    """Return the ``(C, C)`` distances of ``(C, I, ...)`` filters, the mean over their modes.

    Example:
        >>> x = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> distances(torch.stack([x, -2 * x]), "cosine").abs().max().item() < 1e-12
        True
    """
    found = [_distance(first_vectors(tensors, mode), measure)
             for mode in range(1, tensors.ndim) if tensors.shape[mode] > 1]  # fmt: skip
    return torch.stack(found).mean(dim=0) if found else tensors.new_zeros(len(tensors), len(tensors))


def first_vectors(tensors: Tensor, mode: int) -> Tensor:
    """Return ``(C, length)``: the first left singular vector of each filter's unfolding along one axis.

    Its entry of the largest modulus, the first of equal ones, is positive.

    Example:
        >>> first_vectors(torch.rand(4, 3, 5, 5).double(), 1).shape[0]
        4
    """
    unfolded = tensors.movedim(mode, 1).flatten(2) if tensors.ndim > 2 else tensors[:, :, None]
    vectors = torch.linalg.svd(unfolded, full_matrices=False)[0][..., 0]
    sizes = vectors.abs()
    largest = (sizes >= sizes.amax(dim=1, keepdim=True) * (1 - 1e-9)).int().argmax(dim=1, keepdim=True)
    signed: Tensor = vectors * vectors.gather(1, largest).sign()
    return signed


def variance_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return var(a - b) / (var a + var b) over the last axis; 0 where neither varies.

    Example:
        >>> a = torch.tensor([1.0, 2.0, 3.0])
        >>> [round(float(variance_distance(a, b)), 4) for b in (a, -a, a + 5, 2 * a)]
        [0.0, 2.0, 0.0, 0.2]
    """
    together = a.var(dim=-1) + b.var(dim=-1)
    return torch.where(together > 0, (a - b).var(dim=-1) / torch.where(together > 0, together, 1.0), 0.0)


def _distance(vectors: Tensor, measure: Distance) -> Tensor:
    if measure == "cosine":
        return (1 - (vectors @ vectors.mT).abs()).clamp_min(0)
    if measure == "euclidean":
        return torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")
    return variance_distance(vectors[:, None], vectors[None])


INFO = register(
    CriterionInfo(
        "coring",
        of_weights(coring),
        "filters whose tensor decompositions are the most alike go first",
        paper="Pham et al. 2024, Neural Networks",
        needs_maps=False,
        cost="no images; a singular value decomposition per filter and mode",
    )
)
