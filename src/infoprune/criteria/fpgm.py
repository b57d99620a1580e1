"""FPGM: a filter near the geometric median of its layer can be replaced by the others (He et al. 2019).

arXiv 1811.00250. With W_f all weights of filter f, over all layers of its coupled group::

    s_f = sum_g ||W_f - W_g||_2

The filters with the smallest sums are removed. The score does not change when one vector is added to all filters, and
a small norm alone is no reason to remove a filter. Under ``mix`` a share of the filters with the smallest norms is
removed first, and the sums run over the others only ("FPGM-mix").

The paper zeroes filters during training and lets them come back ("soft pruning"); here the filters of a trained network
are scored once.
"""

from __future__ import annotations

import torch
from scipy.spatial.distance import cdist  # type: ignore[import-untyped]

from infoprune.criteria.base import CriterionInfo, Filters, Importance, register
from infoprune.criteria.weights import flat_weights, of_weights
from infoprune.entropy.ties import snapped
from infoprune.errors import InputError


def fpgm(filters: Filters, *, mix: float = 0.0) -> Importance:
    """Return the importance of every filter: the sum of its distances to the others.

    Args:
        filters: The group; its ``weights`` are ``(C, ...)`` each.
        mix: Share of the filters that is removed for its small L2 norm before distances count, from 0 to below 1. Of
            those the scores are norms, scaled to lie at or below the least sum of distances.

    Raises:
        InputError: ``mix`` is out of range.

    Example:
        >>> square = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.5, 0.5]])
        >>> fpgm(Filters((square,))).order[-1]
        4
    """
    if not 0 <= mix < 1:
        raise InputError(f"mix is the share of filters that is removed by norm first, from 0 to below 1, not {mix}")
    weights = flat_weights(filters)
    norms = snapped(torch.linalg.vector_norm(weights, dim=1))
    by_norm = torch.sort(norms, descending=True, stable=True).indices
    first = len(weights) - int(mix * len(weights) + 1e-9)
    rest, small = by_norm[:first].sort().values, by_norm[first:]
    sums = snapped(torch.from_numpy(cdist(weights[rest].numpy(), weights[rest].numpy())).sum(dim=1))
    scores = torch.zeros(len(weights), dtype=torch.float64)
    scores[rest] = sums
    if len(small) and norms[rest].min() > 0:
        scores[small] = sums.min() * norms[small] / norms[rest].min()
    order = [*rest[torch.sort(sums, descending=True, stable=True).indices].tolist(), *small.tolist()]
    return Importance(scores, tuple(order))


INFO = register(
    CriterionInfo(
        "fpgm",
        of_weights(fpgm),
        "sum of the distances from a filter to the others of its layer (geometric median)",
        paper="arXiv 1811.00250",
        needs_maps=False,
        cost="no images; distances of all pairs of filters",
    )
)
