"""HRank: filters whose maps have a low rank are removed (Lin et al. 2020, arXiv 2002.10179).

    s_f = mean over images of rank(o_nf),   o_nf the H x W map of filter f

The rank counts the singular values above ``tolerance`` times the largest. Small maps have few possible ranks, so equal
mean ranks are ordered by the mean nuclear norm; ``soft`` takes the effective rank exp(-sum p ln p), p the singular
values divided by their sum, in place of the rank.

The paper reads a residual block after the addition; here the last convolution of a block is read before it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from infoprune.criteria.averaged import averaged, check_spatial
from infoprune.criteria.base import CriterionInfo, Importance, register
from infoprune.criteria.dead import dead_last
from infoprune.entropy.ties import bound_of_maps, default_bound
from infoprune.errors import InputError


def rank_of(singular: Tensor, tolerance: float) -> Tensor:
    """Return how many of the ``(..., k)`` singular values exceed ``tolerance`` times the largest.

    Example:
        >>> rank_of(torch.tensor([[3.0, 1.0, 1e-9], [0.0, 0.0, 0.0]]), 1e-6).tolist()
        [2.0, 0.0]
    """
    return (singular > tolerance * singular.amax(dim=-1, keepdim=True)).sum(dim=-1).double()


def effective_rank(singular: Tensor) -> Tensor:
    """Return exp of the entropy of ``(..., k)`` singular values divided by their sum; 0 where all are 0.

    Example:
        >>> [round(value, 6) for value in effective_rank(torch.tensor([[2.0, 2.0], [5.0, 0.0], [0.0, 0.0]])).tolist()]
        [2.0, 1.0, 0.0]
    """
    total = singular.sum(dim=-1, keepdim=True)
    shares = singular / torch.where(total > 0, total, 1.0)
    found: Tensor = torch.special.entr(shares).sum(dim=-1).exp() * (total[..., 0] > 0)
    return found


def ranks(maps: Tensor, *, tolerance: float | None = None, soft: bool = False) -> Tensor:
    """Return rank and nuclear norm of every map.

    Args:
        maps: ``(n, C, H, W)``.
        tolerance: Singular values above this share of the largest count; by default max(H, W) times the rounding unit
            of float32, as published.
        soft: The effective rank in place of the rank.

    Returns:
        ``(n, 2, C)`` float64.

    Raises:
        InputError: The maps are single rows, or the tolerance is out of range.

    Example:
        >>> ranks(torch.eye(3)[None, None]).flatten().tolist()
        [3.0, 3.0]
    """
    if tolerance is not None and not 0 <= tolerance < 1:
        raise InputError(f"the tolerance is a share of the largest singular value, from 0 to below 1, not {tolerance}")
    check_spatial(maps, "hrank")
    smallest = max(maps.shape[2:]) * torch.finfo(torch.float32).eps if tolerance is None else tolerance
    # In float64, so that rounding of the decomposition is far below the tolerance.
    singular = torch.linalg.svdvals(maps.double())
    found = effective_rank(singular) if soft else rank_of(singular, smallest)
    return torch.stack([found, singular.sum(dim=-1)], dim=1)


def by_rank(mean: Tensor, dead: Tensor, *, soft: bool = False) -> Importance:
    """Return the importance from ``(2, C)`` mean ranks and nuclear norms; equal ranks by nuclear norm.

    Example:
        >>> mean = torch.tensor([[4.0, 4.0, 2.0], [1.0, 3.0, 9.0]], dtype=torch.float64)
        >>> by_rank(mean, torch.zeros(3, dtype=torch.bool)).order
        (1, 0, 2)
    """
    ranks, nuclear = mean
    if soft:
        return dead_last(ranks, dead, bound_of_maps(ranks), rank=ranks)
    largest = nuclear.max().clamp_min(torch.finfo(torch.float64).tiny)
    # Below the smallest difference of mean ranks that a million images can make; ranks are whole numbers in each, so
    # that of their mean only the rounding of a sum counts.
    tail = 1e-7 * nuclear / largest
    return dead_last(ranks + tail, dead, default_bound(ranks) + bound_of_maps(tail), rank=ranks)


INFO = register(
    CriterionInfo(
        "hrank",
        averaged(ranks, by_rank),
        "mean rank of the feature map",
        paper="arXiv 2002.10179",
        by_layer=True,
        images=512,
        cost="one forward pass and C singular value decompositions of H x W per image",
    )
)
