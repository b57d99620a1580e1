"""Conditional mutual information: which maps tell the most about the labels, given those already kept.

Vu-Van et al., arXiv 2411.18578. A layer may be conditioned on maps of other layers; in which order layers are taken and
what they are conditioned on is for the planner.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from infoprune.criteria.base import CriterionInfo, Importance, register
from infoprune.criteria.dead import dead_filters
from infoprune.criteria.holding import holding
from infoprune.entropy import GreedyOrder, greedy_order, permutation_test, variables
from infoprune.entropy.ties import rounding
from infoprune.errors import InputError, unknown

SCORES = ("rank", "bits")


def conditional_mutual_information_order(
    maps: Tensor,
    labels: Tensor,
    given: Sequence[Tensor] = (),
    *,
    alpha: float = 2.0,
    method: Any = None,
    width: Any = "output",
    label_kernel: Any = "indicator",
    joint: Any = "product",
    tail: Any = "pairs",
    score: str = "bits",
) -> Importance:
    """Order the filters so that I(Y; the rest | given, the first ones) falls as fast as possible.

    Dead filters come last. ``curve`` is the information that is still missing, in bits, after the first 1, 2,
    ... filters.

    Args:
        maps: ``(n, C, H, W)``.
        labels: ``(n,)`` class indices of at least two classes.
        given: Maps ``(n, C', H', W')`` of the same images that the layer is conditioned on.
        alpha: Order of the Rényi entropy; 1.01 is the published one, 2 takes no eigenvalues.
        method: As for :func:`infoprune.entropy.greedy_order`; by default ``"pairs"`` at order 2, which is exact there,
            and ``"hybrid"`` at any other.
        width: Kernel width; ``"silverman"`` with ``label_kernel="silverman"`` is the published one.
        label_kernel: As for :func:`infoprune.entropy.greedy_order`.
        joint: As for :func:`infoprune.entropy.greedy_order`.
        tail: What ranks the filters once the joint is saturated.
        score: What the importance of a filter is. ``"bits"``: information missing without it and all after it, the
            curve before it, which compares between layers; behind saturation it goes on in a straight line to 0.
            ``"rank"``: its place in the order, C for the first, 1 for the last.

    Returns:
        The importance; the evidence holds ``information`` I(Y; given, the first ones) and ``cmi`` in bits, ``(C,)``
        each, ``whole`` I(Y; all | given), ``given`` I(Y; given), ``total`` their sum, ``label_entropy`` H(Y),
        ``saturation`` = total / H(Y), ``saturated_at``, after how many filters the order is no longer resolved, and
        ``dead``, how many filters are.

    Raises:
        InputError: The labels are all of one class, or an option is unknown.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> labels = torch.arange(32) % 2
        >>> maps = torch.rand(32, 3, 2, 2)
        >>> maps[:, 1] += 3 * labels[:, None, None]
        >>> conditional_mutual_information_order(maps, labels).order[0]
        1
    """
    if score not in SCORES:
        raise unknown("score of the criterion 'cmi'", score, SCORES)
    _check_classes(labels)
    dead = dead_filters(maps)
    live = (~dead).nonzero().flatten().tolist()
    if not live:
        return _without_information(len(dead), score)
    found = greedy_order(
        variables(maps)[live],
        labels,
        given=[variables(others) for others in given],
        alpha=alpha,
        method=method or ("pairs" if alpha == 2 else "hybrid"),
        width=width,
        label_kernel=label_kernel,
        joint=joint,
        tail=tail,
    )
    order = [live[i] for i in found.order] + dead.nonzero().flatten().tolist()
    silent = len(dead) - len(live)
    curve = (*found.cmi, *([0.0] * silent))
    scores = _bits(order, curve, found) if score == "bits" else _places(order)
    return Importance(
        scores,
        tuple(order),
        curve,
        {
            "information": _tensor((*found.information, *([found.total] * silent))),
            "cmi": _tensor(curve),
            "whole": _tensor(found.total - found.given),
            "given": _tensor(found.given),
            "total": _tensor(found.total),
            "label_entropy": _tensor(found.label_entropy),
            "saturation": _tensor(found.total / found.label_entropy),
            "saturated_at": torch.tensor(found.saturated_at),
            "dead": torch.tensor(silent),
        },
        comparable=score == "bits",
        rounding=rounding(maps.dtype, 1) * scores if score == "bits" else None,
    )


def permutation_p_value(
    maps: Tensor,
    labels: Tensor,
    order: Sequence[int],
    given: Sequence[Tensor] = (),
    *,
    alpha: float = 2.0,
    width: Any = "output",
    label_kernel: Any = "indicator",
    joint: Any = "product",
    permutations: int = 100,
    seed: int = 0,
    **_: Any,
) -> Callable[[int], float]:
    """Return the function from m to the p value of the m-th filter of an order.

    Args:
        maps: ``(n, C, H, W)``.
        labels: ``(n,)`` class indices.
        order: All filters.
        given: What the layer is conditioned on, ``(n, C', H', W')`` each.
        alpha: As for the order.
        width: Likewise.
        label_kernel: Likewise.
        joint: Likewise.
        permutations: How often a map is shuffled over the images.
        seed: Of the shuffles.
        **_: Options of the order that the test has no use for.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> labels = torch.arange(32) % 2
        >>> maps = torch.rand(32, 3, 2, 2)
        >>> maps[:, 1] += 3 * labels[:, None, None]
        >>> permutation_p_value(maps, labels, (1, 0, 2), permutations=19)(1) < 0.1
        True
    """
    dead = dead_filters(maps)
    place = {filter_: i for i, filter_ in enumerate((~dead).nonzero().flatten().tolist())}
    living = [place[filter_] for filter_ in order if filter_ in place]
    if not living:
        return lambda m: 1.0
    test = permutation_test(
        variables(maps)[~dead],
        labels,
        living,
        [variables(others) for others in given],
        alpha=alpha,
        width=width,
        label_kernel=label_kernel,
        joint=joint,
        permutations=permutations,
        seed=seed,
    )
    return lambda m: test(m) if m <= len(living) else 1.0


def _check_classes(labels: Tensor) -> None:
    classes = torch.unique(labels)
    if len(classes) < 2:
        raise InputError(
            f"all {len(labels)} calibration images are of class {int(classes[0])}: the criterion 'cmi' needs "
            "images of at least two classes"
        )


def _bits(order: list[int], curve: tuple[float, ...], found: GreedyOrder) -> Tensor:
    """The information missing before each filter, never rising, and from saturation on in a straight line to 0."""
    before = _tensor((found.total - found.given, *curve[:-1])).clamp(min=0).cummin(dim=0).values
    resolved = found.saturated_at
    if resolved < len(found.order):
        # The last filter that differs from the next one, and then equal steps down to zero.
        steps = len(found.order) - resolved
        falling = torch.linspace(1, 1 / steps, steps, dtype=torch.float64)
        before[resolved : len(found.order)] = before[resolved] * falling
    before[len(found.order) :] = 0
    scores = torch.empty_like(before)
    scores[order] = before
    return scores


def _tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _places(order: list[int]) -> Tensor:
    places = torch.empty(len(order), dtype=torch.float64)
    places[order] = torch.arange(len(order), 0, -1, dtype=torch.float64)
    return places


def _without_information(filters: int, score: str) -> Importance:
    order, nothing = list(range(filters)), torch.zeros(filters, dtype=torch.float64)
    evidence = {"information": nothing, "cmi": nothing, "whole": _tensor(0.0), "saturated_at": torch.tensor(0)}
    scores = nothing if score == "bits" else _places(order)
    return Importance(scores, tuple(order), (0.0,) * filters, evidence, comparable=score == "bits")


INFO = register(
    CriterionInfo(
        "cmi",
        holding(conditional_mutual_information_order),
        "greedy order by conditional mutual information with the labels",
        paper="arXiv 2411.18578",
        needs_labels=True,
        holds_maps=True,
        images=256,
        cost="filters^2 x images^2 / 2 per layer; at orders other than 2 eigenvalues besides",
    )
)
