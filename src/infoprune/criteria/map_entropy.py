"""The entropy of a filter's pooled map over the images (Luo and Wu 2017, arXiv 1706.05791).

Each map is pooled to one number g_nf. Over the images, g_.f falls into m bins between its own least and largest value::

    s_f = -sum_b p_b ln p_b    nats

A filter of low entropy says the same of every image. The grid of each filter is its own, so the score does not change
with the scale of the map. The paper cuts layer by layer, with one or two epochs of training in between.
"""

from __future__ import annotations

import torch
from torch import Tensor

from infoprune.criteria.base import CriterionInfo, Importance, register
from infoprune.criteria.dead import dead_last
from infoprune.criteria.pooled import pooled
from infoprune.entropy.ties import default_bound
from infoprune.errors import InputError


def bin_numbers(values: Tensor, bins: int) -> Tensor:
    """Return in which of ``bins`` equal bins between the least and the largest value of its column each value falls.

    Args:
        values: ``(n, C)``.
        bins: At least 2. The largest value belongs to the last bin; a constant column is all in bin 0.

    Returns:
        ``(n, C)`` int64.

    Raises:
        InputError: There are fewer than 2 bins.

    Example:
        >>> bin_numbers(torch.tensor([[0.0], [1.0], [2.0], [3.0]]), 2).flatten().tolist()
        [0, 0, 1, 1]
    """
    if isinstance(bins, bool) or not isinstance(bins, int) or bins < 2:
        raise InputError(f"a histogram has at least 2 bins, not {bins!r}")
    low, high = values.amin(dim=0), values.amax(dim=0)
    width = torch.where(high > low, high - low, 1.0)
    return ((values - low) / width * bins).floor().long().clamp(0, bins - 1)


def entropy_of_counts(counts: Tensor) -> Tensor:
    """Return the entropies in nats of histograms, ``(..., bins)`` counts to ``(...)`` float64.

    Counts are sorted first, so that two histograms with the same counts in other bins have exactly one entropy.

    Example:
        >>> [round(value, 6) for value in entropy_of_counts(torch.tensor([[2, 2], [4, 0]])).tolist()]
        [0.693147, 0.0]
    """
    counts = counts.double().sort(dim=-1).values
    shares = counts / counts.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    found: Tensor = torch.special.entr(shares).sum(dim=-1)
    return found


def map_entropy(values: Tensor, labels: Tensor, dead: Tensor, *, bins: int = 32) -> Importance:
    """Return the importance of every filter: the entropy of its pooled map.

    Args:
        values: ``(n, C)`` pooled maps.
        labels: Not used.
        dead: ``(C,)`` booleans.
        bins: Bins of each filter's histogram; about 100 with thousands of images, fewer with fewer.

    Raises:
        InputError: There are fewer than 2 bins.

    Example:
        >>> values = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 2.0], [1.0, 3.0]])
        >>> [round(score, 4) for score in map_entropy(values, None, torch.zeros(2).bool(), bins=4).scores.tolist()]
        [0.6931, 1.3863]
    """
    numbers = bin_numbers(values, bins)
    counts = torch.zeros(values.shape[1], bins, dtype=torch.int64)
    counts.scatter_add_(1, numbers.T, torch.ones_like(numbers.T))
    found = entropy_of_counts(counts)
    return dead_last(found, dead, default_bound(found))


INFO = register(
    CriterionInfo(
        "entropy",
        pooled(map_entropy),
        "entropy of the mean of the feature map over the images",
        paper="arXiv 1706.05791",
        cost="one forward pass per image",
    )
)
