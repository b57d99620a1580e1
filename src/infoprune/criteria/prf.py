"""PRF: redundant filters are found by clustering, the least important clusters lose filters first.

Sarvani, Ghorai and Basha 2024, "PRF: deep neural network compression by systematic pruning of redundant filters",
Neural Computing and Applications. Filters are clustered by complete linkage under the distance 1 - cos(W_f, W_g), cut
at 1 - similarity. The importance of a filter is the L1 norm of its weights, that of a cluster the largest of its
filters. Clusters are served from the least to the most important; in each, filters are removed from the smallest norm
up. The published code overwrites the clusters and normalises the norms away; this follows the paper.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.cluster import hierarchy  # type: ignore[import-untyped]
from torch import Tensor

from infoprune.criteria.base import CriterionInfo, Filters, Importance, register
from infoprune.criteria.weights import cosines, flat_weights, of_weights
from infoprune.entropy.ties import rounding, snapped
from infoprune.errors import InputError


def prf(filters: Filters, *, similarity: float = 0.46, spare: bool = True) -> Importance:
    """Return an order of the filters, as the paper removes them.

    Args:
        filters: The group; its ``weights`` are ``(C, ...)`` each.
        similarity: Cosine from which filters share a cluster; 0.46 for VGG-16, 0.253, 0.223 and 0.2 for the stages of
            ResNet-56, as published.
        spare: Whether the best filter of every cluster of several filters is removed only after all others.

    Returns:
        The importance. Scores are places in the order: 1 for the filter that is removed last, 1 / C for the first. The
        evidence holds ``cluster`` ``(C,)``.

    Raises:
        InputError: The similarity is out of range.

    Example:
        >>> angles, norms = torch.deg2rad(torch.tensor([0.0, 10, 90, 100])), torch.tensor([4.0, 1, 3, 2])
        >>> rows = norms[:, None] * torch.stack([angles.cos(), angles.sin()], dim=1)
        >>> prf(Filters((rows,))).evidence["cluster"].tolist()
        [0, 0, 1, 1]
    """
    if not -1 <= similarity <= 1:
        raise InputError(f"the similarity is a cosine, from -1 to 1, not {similarity}")
    weights = flat_weights(filters)
    clusters = clusters_of(weights, similarity)
    removed = removal_order(clusters, snapped(weights.abs().sum(dim=1)).tolist(), spare=spare)
    scores = torch.zeros(len(weights), dtype=torch.float64)
    scores[torch.tensor(removed)] = torch.arange(1, len(weights) + 1, dtype=torch.float64) / len(weights)
    return Importance(scores, tuple(reversed(removed)), evidence={"cluster": torch.tensor(clusters)})


def clusters_of(weights: Tensor, similarity: float) -> list[int]:
    """Return the cluster of each of ``(C, d)`` filters, numbered by their first filters.

    Args:
        weights: One row per filter; a row of zeros is a cluster of its own.
        similarity: No two filters of one cluster have a cosine below this.

    Example:
        >>> clusters_of(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1]]), similarity=0.9)
        [0, 1, 0]
    """
    if len(weights) == 1:
        return [0]
    distances = 1 - cosines(weights)
    above = torch.triu_indices(len(weights), len(weights), 1)
    # Distances that differ by rounding alone are equal, so that every processor joins the same clusters.
    pairs = snapped(distances[above[0], above[1]], rounding(torch.float64, weights.shape[1]))
    zero = (weights == 0).all(dim=1)
    pairs[zero[above[0]] | zero[above[1]]] = 3.0
    tree = hierarchy.linkage(pairs.numpy(), method="complete")
    labels = hierarchy.fcluster(tree, 1 - similarity + 1e-12, criterion="distance")
    _, first = np.unique(labels, return_index=True)
    number = {int(labels[index]): place for place, index in enumerate(sorted(first))}
    return [number[int(label)] for label in labels]


def removal_order(clusters: Sequence[int], norms: Sequence[float], *, spare: bool) -> list[int]:
    """Return the filters in the order in which they are removed.

    Of equal norms the filter of the larger index is removed first; so is, of equally important clusters, the one that
    begins later.

    Args:
        clusters: The cluster of each filter.
        norms: The L1 norm of each filter.
        spare: As for :func:`prf`.

    Example:
        >>> removal_order([0, 0, 1, 1], [4.0, 1.0, 3.0, 2.0], spare=True)
        [3, 1, 2, 0]
    """
    members: dict[int, list[int]] = {}
    for filter_ in sorted(range(len(norms)), key=lambda f: (norms[f], -f)):
        members.setdefault(clusters[filter_], []).append(filter_)
    served = sorted(members.values(), key=lambda some: (norms[some[-1]], -min(some)))
    spared = [some[-1] for some in served if spare and len(some) > 1]
    return [filter_ for some in served for filter_ in some if filter_ not in set(spared)] + spared


INFO = register(
    CriterionInfo(
        "prf",
        of_weights(prf),
        "clusters of similar filters lose their weakest ones first",
        paper="Sarvani et al. 2024, Neural Comput. Appl.",
        needs_maps=False,
        cost="no images; clustering of all pairs of filters",
    )
)
