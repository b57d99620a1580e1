"""Two criteria on attention maps; both are reconstructions from abstracts, and no parity is claimed.

``consistency``, FPAC (Yang et al. 2023): the attention of a filter is its map after a ReLU, divided by its length::

    s_f = mean over g != f and images of cos(relu(o_f), relu(o_g))

A filter that attends to other places than the rest is removed: the reverse of the similarity criteria.

``attention``, ARPruning (Yuan et al. 2024): the attention of the layer is Q = sum_c o_c^2, a map::

    s_f = mean over images of || Q / |Q| - Q_-f / |Q_-f| ||,   Q_-f = Q - o_f^2

Dead filters are no partners and are removed first.
"""

from __future__ import annotations

import torch
from torch import Tensor

from infoprune.criteria.averaged import averaged
from infoprune.criteria.base import CriterionInfo, Importance, register
from infoprune.criteria.dead import dead_last
from infoprune.criteria.wavelet import mean_over_others
from infoprune.criteria.weights import cosines
from infoprune.entropy.ties import bound_of_maps


def agreement(maps: Tensor) -> Tensor:
    """Return ``(n, C, C)``: the cosines of the positive parts of all pairs of ``(n, C, H, W)`` maps.

    Example:
        >>> maps = torch.tensor([[[[1.0, 1, 0, 0]], [[2.0, 2, 0, 0]], [[0.0, 0, 1, 1]]]])
        >>> agreement(maps)[0].round(decimals=6).tolist()
        [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    return cosines(maps.flatten(2).double().relu())


def like_the_others(mean: Tensor, dead: Tensor) -> Importance:
    """Return the importance: the mean agreement with the other live filters; 1 for the only one.

    Example:
        >>> agreement = torch.tensor([[1.0, 0.8, 0.0], [0.8, 1.0, 0.2], [0.0, 0.2, 1.0]], dtype=torch.float64)
        >>> like_the_others(agreement, torch.zeros(3, dtype=torch.bool)).order
        (1, 0, 2)
    """
    found = mean_over_others(mean, dead)
    if int((~dead).sum()) == 1:
        found = torch.where(dead, found, 1.0)
    return dead_last(found, dead, bound_of_maps(found, 1.0), agreement=mean)


def change_of_attention(maps: Tensor) -> Tensor:
    """Return ``(n, C)``: how far the layer's attention moves without each filter, from 0 to 1.41.

    Example:
        >>> change_of_attention(torch.ones(1, 2, 2, 2)).tolist()
        [[0.0, 0.0]]
    """
    squares = maps.flatten(2).double().square()
    whole = squares.sum(dim=1, keepdim=True)
    without = (whole - squares).clamp_min(0)
    # What is left over by rounding alone has no direction.
    without = torch.where(without <= 1e-12 * whole, 0.0, without)
    moved: Tensor = torch.linalg.vector_norm(_unit(whole) - _unit(without), dim=2)
    return moved


def by_change(mean: Tensor, dead: Tensor) -> Importance:
    """Return the importance from ``(C,)`` mean changes.

    Example:
        >>> by_change(torch.tensor([0.1, 0.4], dtype=torch.float64), torch.zeros(2, dtype=torch.bool)).order
        (1, 0)
    """
    return dead_last(mean, dead, bound_of_maps(mean, 1.0))


def _unit(rows: Tensor) -> Tensor:
    norms = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return rows / torch.where(norms > 0, norms, 1.0)


register(
    CriterionInfo(
        "consistency",
        averaged(agreement, like_the_others),
        "how much the filter attends to the same places as the others (reconstruction)",
        paper="Yang et al. 2023 (FPAC)",
        images=256,
        cost="one forward pass and one C x C product per image",
    )
)
register(
    CriterionInfo(
        "attention",
        averaged(change_of_attention, by_change),
        "how far the layer's attention map moves without the filter (reconstruction)",
        paper="Yuan et al. 2024 (ARPruning)",
        images=256,
        cost="one forward pass per image",
    )
)
