"""Information capacity and independence of a filter's weights (Tang et al., arXiv 2303.03645).

A reconstruction from the abstract and summaries: the estimator of the entropy, the fusion and its weight are this
project's choice, and no parity with the published figures is claimed. With p_i = |W_fi| / ||W_f||_1 over the d weights
of filter f::

    cap_f = -sum_i p_i ln p_i / ln d        times ||W_f||_1 / max_g ||W_g||_1 unless scaled is off
    ind_f = 1 - mean over g != f of |corr(W_f, W_g)|
    s_f   = minmax(cap)_f + balance * minmax(ind)_f
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from infoprune.criteria.base import CriterionInfo, Filters, Importance, register
from infoprune.criteria.map_entropy import entropy_of_counts
from infoprune.criteria.weights import centred, cosines, flat_weights, of_weights
from infoprune.entropy.ties import rounding, snapped
from infoprune.errors import InputError, unknown

Capacity = Literal["magnitude", "histogram"]
Independence = Literal["correlation", "cosine"]


def capacity(
    filters: Filters,
    *,
    capacity: Capacity = "magnitude",
    scaled: bool = True,
    independence: Independence = "correlation",
    balance: float = 1.0,
    bins: int = 10,
) -> Importance:
    """Return the importance of every filter from its weights alone.

    Args:
        filters: The group; its ``weights`` are ``(C, ...)`` each.
        capacity: ``"magnitude"``: entropy of the shares of the absolute weights; ``"histogram"``: entropy of a
            histogram of the weights on one grid for the whole layer.
        scaled: Whether the first is multiplied by the filter's L1 norm relative to the largest, so that a filter of
            tiny weights does not win.
        independence: ``"correlation"`` (Pearson) or ``"cosine"`` of the weights.
        balance: Weight of the independence.
        bins: Of the histogram.

    Returns:
        The importance; the evidence holds ``capacity`` and ``independence``, ``(C,)`` each, before they are scaled.

    Raises:
        InputError: An option is unknown or out of range.

    Example:
        >>> rows = torch.tensor([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [1.0, -2.0, 1.0]])
        >>> capacity(Filters((rows,))).evidence["independence"].round(decimals=6).tolist()
        [0.5, 0.5, 1.0]
    """
    if capacity not in get_args(Capacity):
        raise unknown("capacity of the criterion 'capacity'", str(capacity), get_args(Capacity))
    if independence not in get_args(Independence):
        raise unknown("independence of the criterion 'capacity'", str(independence), get_args(Independence))
    if not (math.isfinite(balance) and balance >= 0):
        raise InputError(f"the balance weighs the independence, 0 or more, not {balance}")
    weights = flat_weights(filters)
    rich = magnitude_capacity(weights, scaled=scaled) if capacity == "magnitude" else _histogram(weights, bins)
    alone = independence_of(weights if independence == "cosine" else centred(weights))
    share = rounding(torch.float64, weights.shape[1])
    scores, out_by = min_max(rich, share)
    apart, apart_by = min_max(alone, share)
    scores = scores + balance * apart
    # A filter without weights says nothing, whatever the others are.
    return Importance(
        torch.where((weights == 0).all(dim=1), 0.0, scores),
        evidence={"capacity": rich, "independence": alone},
        rounding=torch.full_like(scores, out_by + balance * apart_by + share),
    )


def min_max(values: Tensor, share: float) -> tuple[Tensor, float]:
    """Return ``(C,)`` values scaled to [0, 1] by the least and the largest, 0 where all tie, and their rounding.

    Args:
        values: ``(C,)``, finite.
        share: What the values may be out by, as a share of the larger of 1 and the largest.

    Example:
        >>> min_max(torch.tensor([1.0, 3.0, 2.0]), 0.0)
        (tensor([0.0000, 1.0000, 0.5000], dtype=torch.float64), 0.0)
        >>> min_max(torch.tensor([0.1 + 0.2, 0.3], dtype=torch.float64), 1e-15)[0].tolist()
        [0.0, 0.0]
    """
    out_by = share * max(1.0, float(values.abs().max())) if len(values) else 0.0
    values = snapped(values, out_by)
    if not len(values) or not values.max() > values.min():
        return torch.zeros_like(values), 0.0
    size = float(values.max() - values.min())
    return (values - values.min()) / size, 2 * out_by / size


def magnitude_capacity(weights: Tensor, *, scaled: bool) -> Tensor:
    """Return ``(C,)`` entropies, in [0, 1], of the shares of the absolute weights of ``(C, d)`` filters.

    Example:
        >>> magnitude_capacity(torch.tensor([[1.0, 1.0], [5.0, 0.0]]), scaled=False).tolist()
        [1.0, 0.0]
    """
    sizes = weights.double().abs()
    norms = sizes.sum(dim=1)
    shares = sizes.sort(dim=1).values / norms.clamp_min(torch.finfo(torch.float64).tiny)[:, None]
    found: Tensor = torch.special.entr(shares).sum(dim=1) / math.log(max(2, weights.shape[1]))
    return found * norms / norms.max().clamp_min(torch.finfo(torch.float64).tiny) if scaled else found


def independence_of(rows: Tensor) -> Tensor:
    """Return ``(C,)``: 1 minus the mean absolute cosine with the other rows; 0 for a row of zeros.

    Example:
        >>> independence_of(torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)).tolist()
        [1.0, 1.0]
    """
    if len(rows) == 1:
        return rows.new_ones(1) * bool((rows != 0).any())
    alike = cosines(rows).abs().fill_diagonal_(0)
    found = 1 - alike.sum(dim=1) / (len(rows) - 1)
    return torch.where((rows == 0).all(dim=1), 0.0, found)


def _histogram(weights: Tensor, bins: int) -> Tensor:
    if isinstance(bins, bool) or not isinstance(bins, int) or bins < 2:
        raise InputError(f"a histogram has at least 2 bins, not {bins!r}")
    low, high = weights.min(), weights.max()
    width = high - low if high > low else torch.ones(())
    numbers = ((weights - low) / width * bins).floor().long().clamp(0, bins - 1)
    counts = torch.zeros(len(weights), bins, dtype=torch.int64)
    return entropy_of_counts(counts.scatter_add_(1, numbers, torch.ones_like(numbers))) / math.log(bins)


INFO = register(
    CriterionInfo(
        "capacity",
        of_weights(capacity),
        "entropy of a filter's weights and independence from the others (reconstruction)",
        paper="arXiv 2303.03645",
        needs_maps=False,
        cost="no images; correlations of all pairs of filters",
    )
)
