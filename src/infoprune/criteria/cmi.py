"""Conditional mutual information: which maps tell the most about the labels, given those already kept.

Vu-Van et al., arXiv 2411.18578: the per-layer form, in which a layer is conditioned on no other.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from infoprune.criteria.base import CriterionInfo, Importance, register
from infoprune.criteria.dead import dead_filters
from infoprune.criteria.holding import holding
from infoprune.entropy import greedy_order, variables
from infoprune.errors import InputError


def conditional_mutual_information_order(
    maps: Tensor,
    labels: Tensor,
    *,
    alpha: float = 1.01,
    method: Any = "hybrid",
    width: Any = "median",
    label_kernel: Any = "indicator",
    joint: Any = "product",
    tail: Any = "pairs",
) -> Importance:
    """Order the filters so that I(Y; the rest | the first ones) falls as fast as possible.

    The importance of a filter is its place in the order: C for the first, 1 for the last. Dead filters come last,
    as they tell nothing. ``curve`` is what is left to be told, in bits, after the first 1, 2, ... filters.

    Args:
        maps: ``(n, C, H, W)``.
        labels: ``(n,)`` class indices of at least two classes.
        alpha: Order of the Rényi entropy.
        method: As for :func:`infoprune.entropy.greedy_order`.
        width: Kernel width; ``"silverman"`` with ``label_kernel="silverman"`` is the published one.
        label_kernel: As for :func:`infoprune.entropy.greedy_order`.
        joint: As for :func:`infoprune.entropy.greedy_order`.
        tail: What ranks the filters once the joint is saturated.

    Returns:
        The importance; the evidence holds ``information`` I(Y; the first ones) and ``cmi`` in bits, ``(C,)`` each,
        ``total`` I(Y; all), ``label_entropy`` H(Y), ``saturation`` = total / H(Y) and ``saturated_at``, after how many
        filters the order is no longer resolved.

    Raises:
        InputError: The labels are all of one class, or an option is unknown.
    """
    classes = torch.unique(labels)
    if len(classes) < 2:
        raise InputError(
            f"all {len(labels)} calibration images are of class {int(classes[0])}: the criterion 'cmi' needs "
            "images of at least two classes"
        )
    dead = dead_filters(maps)
    live = (~dead).nonzero().flatten().tolist()
    if not live:
        return _without_information(len(dead))
    found = greedy_order(
        variables(maps)[live],
        labels,
        alpha=alpha,
        method=method,
        width=width,
        label_kernel=label_kernel,
        joint=joint,
        tail=tail,
    )
    order = [live[i] for i in found.order] + dead.nonzero().flatten().tolist()
    silent = len(dead) - len(live)
    curve = (*found.cmi, *([0.0] * silent))
    return Importance(
        _places(order),
        tuple(order),
        curve,
        {
            "information": torch.tensor((*found.information, *([found.total] * silent)), dtype=torch.float64),
            "cmi": torch.tensor(curve, dtype=torch.float64),
            "total": torch.tensor(found.total, dtype=torch.float64),
            "label_entropy": torch.tensor(found.label_entropy, dtype=torch.float64),
            "saturation": torch.tensor(found.total / found.label_entropy, dtype=torch.float64),
            "saturated_at": torch.tensor(found.saturated_at),
        },
    )


def _places(order: list[int]) -> Tensor:
    places = torch.empty(len(order), dtype=torch.float64)
    places[order] = torch.arange(len(order), 0, -1, dtype=torch.float64)
    return places


def _without_information(filters: int) -> Importance:
    order, nothing = list(range(filters)), torch.zeros(filters, dtype=torch.float64)
    evidence = {"information": nothing, "cmi": nothing, "saturated_at": torch.tensor(0)}
    return Importance(_places(order), tuple(order), (0.0,) * filters, evidence)


INFO = register(
    CriterionInfo(
        "cmi",
        holding(conditional_mutual_information_order),
        "greedy order by conditional mutual information with the labels",
        paper="arXiv 2411.18578",
        needs_labels=True,
        holds_maps=True,
        images=256,
        cost="eigenvalues of about C + 200 matrices of images x images per layer",
    )
)
