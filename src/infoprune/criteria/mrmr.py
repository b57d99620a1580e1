"""RRWFP: relevance to the labels minus redundancy with the other filters (Lu et al. 2024, Digital Signal Processing).

A reconstruction from the abstract; the estimators are this project's choice and no parity is claimed. With T_f the
pooled map of filter f and Y the labels, minimum redundancy and maximum relevance::

    s_f = I(T_f; Y) - beta * mean over g != f of I(T_f; T_g)    bits

I is the matrix-based Rényi information of order 2 (``estimator="renyi"``) or that of histograms.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from infoprune.criteria.base import CriterionInfo, Importance, register
from infoprune.criteria.map_entropy import bin_numbers, entropy_of_counts
from infoprune.criteria.pooled import pooled
from infoprune.entropy import gram
from infoprune.entropy.ties import bound_of_maps, first_least, ranking, snapped
from infoprune.errors import InputError, unknown

Estimator = Literal["renyi", "histogram"]


def mrmr(
    values: Tensor,
    labels: Tensor,
    dead: Tensor,
    *,
    estimator: Estimator = "renyi",
    beta: float = 1.0,
    bins: int = 8,
    greedy: bool = False,
) -> Importance:
    """Return the importance of every filter: relevance minus weighted mean redundancy.

    Args:
        values: ``(n, C)`` pooled maps.
        labels: ``(n,)`` class indices.
        dead: ``(C,)`` booleans.
        estimator: ``"renyi"`` or ``"histogram"``.
        beta: Weight of the redundancy, 0 or more.
        bins: Of the histograms.
        greedy: Whether filters are added one after the other, with the redundancy to those chosen before alone.

    Returns:
        The importance in bits, possibly below 0; dead filters lie 1 bit below 0 or the least live score. The evidence
        holds ``relevance`` ``(C,)`` and ``redundancy`` ``(C, C)``.

    Raises:
        InputError: An option is unknown or out of range, or all labels are of one class.

    Example:
        >>> values = torch.tensor([[0.0, 0, 0], [0, 0, 1], [1, 1, 0], [1, 1, 1]], dtype=torch.float64)
        >>> labels, dead = torch.tensor([0, 0, 1, 1]), torch.zeros(3).bool()
        >>> mrmr(values, labels, dead, estimator="histogram").scores.tolist()
        [0.5, 0.5, 0.0]
    """
    if estimator not in get_args(Estimator):
        raise unknown("estimator of the criterion 'mrmr'", str(estimator), get_args(Estimator))
    if not (math.isfinite(beta) and beta >= 0):
        raise InputError(f"beta weighs the redundancy, 0 or more, not {beta}")
    if len(set(labels.tolist())) < 2:
        raise InputError("the criterion 'mrmr' needs images of at least two classes")
    live = (~dead).nonzero().flatten()
    found = torch.zeros(len(dead) + 1, len(dead) + 1, dtype=torch.float64)
    if len(live):
        some = torch.cat([live, torch.tensor([len(dead)])])
        information = _renyi if estimator == "renyi" else _histogram(bins)
        found[some[:, None], some] = information(values[:, live].double(), labels)
    relevance, redundancy = found[:-1, -1], found[:-1, :-1]
    out_by = bound_of_maps(relevance, float(found.abs().max()) * (1 + beta))
    scores = torch.zeros(len(dead), dtype=torch.float64)
    chosen: list[int] = []
    if len(live):
        pick = _greedily if greedy else _at_once
        scores[live], chosen = pick(
            relevance[live], redundancy[live][:, live].clone().fill_diagonal_(0), beta, float(out_by.max())
        )
    least = min(0.0, float(scores[live].min())) - 1 if len(live) else 0.0
    scores[dead] = least
    order = [*(int(live[one]) for one in chosen), *dead.nonzero().flatten().tolist()]
    return Importance(
        scores, tuple(order), evidence={"relevance": relevance, "redundancy": redundancy}, rounding=out_by
    )


def _at_once(relevance: Tensor, redundancy: Tensor, beta: float, out_by: float) -> tuple[Tensor, list[int]]:
    scores = relevance - beta * redundancy.sum(dim=1) / max(1, len(relevance) - 1)
    return snapped(scores, out_by), ranking(scores, out_by)


def _greedily(relevance: Tensor, redundancy: Tensor, beta: float, out_by: float) -> tuple[Tensor, list[int]]:
    chosen: list[int] = []
    scores = torch.zeros_like(relevance)
    shared = torch.zeros_like(relevance)
    for _ in range(len(relevance)):
        worth = relevance - beta * shared / max(1, len(chosen))
        worth[chosen] = -torch.inf
        best = first_least(-worth, out_by)
        # Scores fall along the order, as the cut-off rules expect.
        scores[best] = worth[best] if not chosen else torch.minimum(worth[best], scores[chosen[-1]])
        chosen.append(best)
        shared += redundancy[best]
    return scores, chosen


def _renyi(values: Tensor, labels: Tensor) -> Tensor:
    """Return the information in bits of order 2 between all columns and, last, the labels, ``(C + 1, C + 1)``.

    With unit diagonals, tr (K/n)^2 = (n + 2 sum over i < j of K_ij^2) / n^2; a joint variable multiplies the K.
    """
    n, filters = values.shape
    i, j = torch.triu_indices(n, n, 1)
    rows = [gram(part.T[:, :, None].contiguous())[:, i, j].square() for part in torch.split(values, 32, dim=1)]
    pairs = torch.cat([*rows, (labels[i] == labels[j]).double()[None]])
    assert len(pairs) == filters + 1
    alone = torch.log1p(2 * pairs.sum(dim=1) / n)
    together = torch.log1p(2 * (pairs @ pairs.T) / n)
    return (math.log(n) + together - alone[:, None] - alone[None, :]) / math.log(2)


def _histogram(bins: int) -> Callable[[Tensor, Tensor], Tensor]:
    def information(values: Tensor, labels: Tensor) -> Tensor:
        filters = values.shape[1]
        classes = torch.unique(labels, return_inverse=True)[1]
        width = max(bins, int(classes.max()) + 1)
        numbers = torch.cat([bin_numbers(values, bins), classes[:, None]], dim=1)
        hot = torch.nn.functional.one_hot(numbers, width).flatten(1).double()
        counts = (hot.T @ hot).reshape(filters + 1, width, filters + 1, width).movedim(2, 1)
        alone = entropy_of_counts(hot.sum(dim=0).reshape(filters + 1, width))
        return (alone[:, None] + alone[None, :] - entropy_of_counts(counts.flatten(2))) / math.log(2)

    return information


INFO = register(
    CriterionInfo(
        "mrmr",
        pooled(mrmr),
        "information about the labels minus that shared with the other filters (reconstruction)",
        paper="Lu et al. 2024, Digital Signal Processing",
        needs_labels=True,
        images=256,
        cost="one forward pass per image, then one product of C x n^2 / 2 values",
    )
)
