"""Perceptual hashes of maps: filters with nearly the same hash can replace each other (Li et al. 2023 and 2024).

Pattern Recognition Letters 166 (2023) and Neurocomputing (2024). The hash of a map is the signs of the low k x k block
of its two-dimensional cosine transform (type II, unnormalised), k at most 8: a bit is 1 where the coefficient is not
below the mean of the block. With the normalised Hamming distance of two hashes::

    sim(f, g) = 1 - mean over images of Hamming(f, g) / k^2

Maps are read at the convolution, before the batch norm. Three rules turn similarities into an order:

``eliminate``  of the most similar pair one filter is removed, again and again, the one of the smaller L1 norm where
               sums of similarities are equal; for a given count of filters
``star``       2023: filters are joined where sim >= t; each filter in turn keeps one of its neighbourhood
``core``       2024: of every component of the innermost core the filter of the largest L1 norm is kept, repeated

The last two fix how many filters stay: kept filters score 1, others 0. Cut them with ``threshold=0.5``.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
import torch
from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]
from torch import Tensor

from infoprune.criteria.averaged import averaged, check_spatial
from infoprune.criteria.base import CriterionInfo, Filters, Importance, register
from infoprune.criteria.coring import in_order_of_removal
from infoprune.criteria.dead import dead_last
from infoprune.criteria.weights import flat_weights
from infoprune.entropy.ties import snapped
from infoprune.errors import InputError, unknown

Threshold = Literal["mean", "median"]
Rule = Literal["eliminate", "star", "core"]


def hashes(maps: Tensor, threshold: Threshold = "mean") -> Tensor:
    """Return the ``(..., k k')`` bits, 0 or 1 as float64, of ``(..., H, W)`` maps.

    Args:
        maps: At least one row and column.
        threshold: ``"mean"`` of the block, as published, or ``"median"`` of its coefficients but the first, which is
            left out then: such a hash does not change with gain and offset of the map.

    Raises:
        InputError: The threshold is unknown.

    Example:
        >>> hashes(torch.tensor([[1.0, 0.0], [0.0, 0.0]])).tolist()
        [1.0, 0.0, 0.0, 0.0]
    """
    if threshold not in get_args(Threshold):
        raise unknown("threshold of the criterion 'phash'", str(threshold), get_args(Threshold))
    rows, columns = (_cosines(size).to(maps.device) for size in maps.shape[-2:])
    block = (rows @ maps.double() @ columns.mT).flatten(-2)
    largest = block.abs().amax(dim=-1, keepdim=True)
    if threshold == "mean":
        return (block >= block.mean(dim=-1, keepdim=True) - 1e-12 * largest).double()
    changing = block[..., 1:]
    return (changing > changing.median(dim=-1, keepdim=True).values + 1e-6 * largest).double()


def hash_similarity(maps: Tensor, *, threshold: Threshold = "mean") -> Tensor:
    """Return ``(n, C, C)``: the share of equal bits of all pairs of ``(n, C, H, W)`` maps.

    Raises:
        InputError: The maps are single rows or columns, or the threshold is unknown.

    Example:
        >>> found = hash_similarity(torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
        >>> found.shape, found[0, 0, 0].item()
        (torch.Size([2, 3, 3]), 1.0)
    """
    bits = hashes(check_spatial(maps, "phash"), threshold)
    return (bits @ bits.mT + (1 - bits) @ (1 - bits).mT) / bits.shape[-1]


def by_hash(mean: Tensor, dead: Tensor, filters: Filters, *, rule: Rule = "eliminate", t: float = 0.8) -> Importance:
    """Return the importance from ``(C, C)`` mean similarities.

    Args:
        mean: The similarities.
        dead: ``(C,)`` booleans: filters that are removed first.
        filters: The group, for L1 norms.
        rule: ``"eliminate"``, ``"star"`` or ``"core"``.
        t: Similarity from which filters are joined, in (0, 1]; 0.65 to 0.95 as published.

    Raises:
        InputError: The rule is unknown, or ``t`` is out of range.

    Example:
        >>> similarity = torch.tensor([[1.0, 0.9, 0.1], [0.9, 1.0, 0.1], [0.1, 0.1, 1.0]], dtype=torch.float64)
        >>> filters = Filters((torch.tensor([[2.0], [1.0], [1.0]]),))
        >>> by_hash(similarity, torch.zeros(3, dtype=torch.bool), filters).order[-1]
        1
    """
    if rule not in get_args(Rule):
        raise unknown("rule of the criterion 'phash'", str(rule), get_args(Rule))
    if not (math.isfinite(t) and 0 < t <= 1):
        raise InputError(f"t is the similarity from which filters are joined, above 0 and at most 1, not {t}")
    norms = flat_weights(filters).abs().sum(dim=1) if filters.weights else torch.zeros(len(dead)).double()
    norms = snapped(norms)
    if rule == "eliminate":
        # Shares of bits are often equal: of such pairs the one of the smaller norms is served first. The term is below
        # the smallest difference that a few thousand hashes of 64 bits can make, and above the rounding of their mean.
        weight = norms / norms.max() if len(norms) and norms.max() > 0 else norms
        return in_order_of_removal(1 - mean + 1e-6 * (weight[:, None] + weight) / 2, norms, dead)
    live = (~dead).nonzero().flatten()
    pick = star if rule == "star" else core
    kept = pick(mean[live][:, live], norms[live], t)
    scores = torch.zeros(len(dead), dtype=torch.float64)
    scores[live[sorted(kept)]] = 1.0
    return dead_last(scores, dead, torch.zeros_like(scores), similarity=mean)


def star(similarity: Tensor, norms: Tensor, t: float) -> set[int]:
    """Return which filters stay by the rule of 2023, in index order, degrees and neighbours of the whole graph.

    It can remove a filter and all its neighbours.

    Example:
        >>> path = torch.eye(3, dtype=torch.float64) + torch.tensor([[0.0, 0.9, 0], [0.9, 0, 0.9], [0, 0.9, 0]])
        >>> star(path, torch.zeros(3), 0.8)
        {1}
    """
    joined = _edges(similarity, t)
    neighbours = [np.flatnonzero(row).tolist() for row in joined]
    sums = snapped(torch.from_numpy((similarity.numpy() * joined).sum(axis=1))).tolist()
    decided: dict[int, bool] = {}
    for v, near in enumerate(neighbours):
        if v in decided:
            continue
        if len(near) == 1:
            alone = len(neighbours[near[0]]) == 1
            decided[v] = alone
            if alone:
                decided[near[0]] = False
            continue
        open_ = [v, *(one for one in near if one not in decided)]
        best = max(open_, key=lambda one: (len(neighbours[one]), sums[one], one == v))
        decided.update({one: one == best for one in open_})
    return {one for one, stays in decided.items() if stays}


def core(similarity: Tensor, norms: Tensor, t: float) -> set[int]:
    """Return which filters stay by the rule of 2024.

    Example:
        >>> pair = torch.tensor([[1.0, 0.9, 0.1], [0.9, 1.0, 0.1], [0.1, 0.1, 1.0]], dtype=torch.float64)
        >>> core(pair, torch.tensor([1.0, 2.0, 0.5]), 0.8)
        {1, 2}
    """
    joined = _edges(similarity, t)
    left = np.ones(len(joined), dtype=bool)
    while (joined & left & left[:, None]).any():
        graph = joined & left & left[:, None]
        numbers = core_numbers(graph)
        inner = np.flatnonzero(numbers == numbers.max())
        _, labels = connected_components(graph[np.ix_(inner, inner)], directed=False)
        for label in range(labels.max() + 1):
            members = inner[labels == label].tolist()
            best = max(members, key=lambda one: (float(norms[one]), -one))
            left[[one for one in members if one != best]] = False
    return set(np.flatnonzero(left).tolist())


def core_numbers(graph: np.ndarray) -> np.ndarray:
    """Return of each vertex the largest k such that it belongs to a subgraph of degrees of at least k.

    Args:
        graph: ``(C, C)`` booleans, symmetric, without loops.

    Example:
        >>> triangle_and_tail = np.array([[0, 1, 1, 1], [1, 0, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]], dtype=bool)
        >>> core_numbers(triangle_and_tail).tolist()
        [2, 2, 2, 1]
    """
    degrees = graph.sum(axis=1)
    numbers = np.zeros(len(graph), dtype=int)
    left = np.ones(len(graph), dtype=bool)
    k = 0
    while left.any():
        v = int(np.where(left, degrees, len(graph) + 1).argmin())
        k = max(k, int(degrees[v]))
        numbers[v], left[v] = k, False
        degrees = degrees - graph[v]
    return numbers


def _edges(similarity: Tensor, t: float) -> np.ndarray:
    joined: np.ndarray = (similarity.numpy() >= t - 1e-12) & ~np.eye(len(similarity), dtype=bool)
    return joined


def _cosines(size: int) -> Tensor:
    """Return the ``(k, size)`` matrix of the unnormalised cosine transform, k at most 8."""
    frequency, place = torch.arange(min(8, size)).double()[:, None], torch.arange(size).double()
    return 2 * torch.cos(math.pi * frequency * (2 * place + 1) / (2 * size))


INFO = register(
    CriterionInfo(
        "phash",
        averaged(hash_similarity, by_hash),
        "filters whose maps have the same perceptual hash as others go first",
        paper="Li et al. 2023, Pattern Recognit. Lett. 166",
        tap="convolution",
        by_layer=True,
        images=100,
        cost="one forward pass and one C x C product per image",
    )
)
