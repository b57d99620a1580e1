"""Capacity of maps: what a map holds, and no other map of the layer holds (Liu, Fan and Zhou 2024, IJMLC).

A reconstruction from the abstract; no parity is claimed. The capacity of a filter is the entropy of its map, its
relevance how much its map is correlated with those of the others, both means over the images::

    s_f = H(o_f) / max H * (1 - mean over g != f of |corr(o_f, o_g)|)

H is the two-dimensional entropy, of a level and the mean level around it, or that of levels alone. The paper prunes a
share, distils from the original network and repeats: ``infoprune iterate`` with ``distillation`` in its recipe. Dead
filters are no partners and are removed first.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from infoprune.criteria.averaged import averaged, check_spatial
from infoprune.criteria.base import CriterionInfo, Importance, register
from infoprune.criteria.dead import dead_last
from infoprune.criteria.fsim import two_dimensional_entropy
from infoprune.criteria.map_entropy import bin_numbers, entropy_of_counts
from infoprune.criteria.wavelet import mean_over_others
from infoprune.criteria.weights import centred, cosines
from infoprune.entropy.ties import bound_of_maps
from infoprune.errors import unknown

Capacity = Literal["two-dimensional", "histogram"]
_LEVELS = 256


def entropy_and_correlation(maps: Tensor, *, capacity: Capacity = "two-dimensional") -> Tensor:
    """Return of every map its entropy in bits, and the moduli of its correlations with all maps of its image.

    Args:
        maps: ``(n, C, H, W)``.
        capacity: ``"two-dimensional"`` or ``"histogram"``, both of 256 levels between the extremes of each map.

    Returns:
        ``(n, C + 1, C)``: the entropies, then a row of correlations for each map.

    Raises:
        InputError: The maps are single rows or columns, or the capacity is unknown.

    Example:
        >>> found = entropy_and_correlation(torch.tensor([[[[0.0, 1.0], [1.0, 0.0]], [[3.0, 1.0], [1.0, 3.0]]]]))
        >>> found.round(decimals=6).tolist()
        [[[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]]
    """
    if capacity not in get_args(Capacity):
        raise unknown("capacity of the criterion 'capacity-maps'", str(capacity), get_args(Capacity))
    maps = check_spatial(maps, "capacity-maps").double()
    flat = maps.flatten(2)
    if capacity == "histogram":
        numbers = bin_numbers(flat.flatten(0, 1).T, _LEVELS).T
        counts = torch.zeros(len(numbers), _LEVELS, dtype=torch.int64, device=numbers.device)
        counts.scatter_add_(1, numbers, torch.ones_like(numbers))
        entropies = (entropy_of_counts(counts) / math.log(2)).reshape(flat.shape[:2])
    else:
        entropies = torch.stack([two_dimensional_entropy(image) for image in maps])
    return torch.cat([entropies[:, None], cosines(centred(flat)).abs()], dim=1)


def rich_and_alone(mean: Tensor, dead: Tensor) -> Importance:
    """Return the importance from ``(C + 1, C)`` mean entropies and moduli of correlations.

    Example:
        >>> alike = torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.float64)
        >>> mean = torch.cat([torch.full((1, 3), 2.0), alike])
        >>> rich_and_alone(mean, torch.zeros(3, dtype=torch.bool)).scores.tolist()
        [0.5, 0.5, 1.0]
    """
    capacity, alike = mean[0], mean[1:]
    largest = capacity.max()
    rich = capacity / largest if largest > 0 else capacity
    alone = 1 - mean_over_others(alike, dead)
    scores = rich * alone
    return dead_last(scores, dead, bound_of_maps(scores, 1.0), capacity=capacity, correlation=alike)


INFO = register(
    CriterionInfo(
        "capacity-maps",
        averaged(entropy_and_correlation, rich_and_alone),
        "entropy of the feature map, by how little it is correlated with the others (reconstruction)",
        paper="Liu et al. 2024, IJMLC",
        by_layer=True,
        images=64,
        cost="one forward pass, C histograms and one C x C product per image",
    )
)
