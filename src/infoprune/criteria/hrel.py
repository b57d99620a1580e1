"""HRel: the information a feature map carries about the labels (Sarvani et al. 2022, arXiv 2202.10716)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from infoprune.criteria.base import CriterionInfo, Importance, register
from infoprune.criteria.dead import dead_filters, dead_last
from infoprune.criteria.holding import holding
from infoprune.entropy import alignment_width, relevance, variables
from infoprune.errors import InputError, unknown

WIDTHS = {
    "average": "the mean of the best aligned widths of all batches: what the moving average settles to",
    "moving": "the moving average, 0.9 of the past and 0.1 of the present, in the order of the batches",
    "batch": "every batch its own best aligned width",
}


def relevance_to_labels(
    maps: Tensor,
    labels: Tensor,
    *,
    batch: int = 100,
    width: Literal["average", "moving", "batch"] | float = "average",
    alpha: float = 1.0,
) -> Importance:
    """Score every filter by the mean over batches of I(T_f; Y) = S(K_f) + S(K_Y) - S(K_f o K_Y), in bits.

    One kernel width serves all filters of the layer: the one whose Gram matrix of the whole layer output is best
    aligned with the labels. The images are taken in batches of ``batch`` whatever batches they came in; what is left
    over counts only where there is no whole batch.

    Args:
        maps: ``(n, C, H, W)``.
        labels: ``(n,)`` class indices.
        batch: Images at a time, since the estimate depends on their number; 100 as published.
        width: A rule of ``WIDTHS``, or the width s of exp(-d^2 / s^2).
        alpha: Order of the entropy, 1 as published (von Neumann).

    Returns:
        The importance; the evidence holds ``widths`` ``(batches,)`` as used and ``relevance`` ``(batches, C)`` in bits.

    Raises:
        InputError: The batch is not positive, or the rule is unknown.
    """
    if batch < 2:
        raise InputError(f"the relevance needs batches of at least 2 images, not {batch}")
    whole = max(len(maps) // batch * batch, min(len(maps), batch))
    pieces = list(zip(torch.split(maps[:whole], batch), torch.split(labels[:whole], batch), strict=True))
    widths = _widths(width, pieces)
    scores = torch.stack(
        [
            relevance(variables(some), classes, alpha=alpha, width=s, convention="s2", label_kernel="indicator").cpu()
            for (some, classes), s in zip(pieces, widths, strict=True)
        ]
    )
    return dead_last(
        scores.mean(dim=0), dead_filters(maps), widths=torch.tensor(widths, dtype=torch.float64), relevance=scores
    )


def _widths(rule: str | float, pieces: list[tuple[Tensor, Tensor]]) -> list[float]:
    if not isinstance(rule, str):
        return [float(rule)] * len(pieces)
    if rule not in WIDTHS:
        raise unknown("width rule of the criterion 'hrel'", rule, WIDTHS)
    # 300 grid points at first and 100 from then on, as published.
    best = [alignment_width(variables(x), y, points=100 if i else 300) for i, (x, y) in enumerate(pieces)]
    if rule == "batch":
        return best
    if rule == "average":
        return [sum(best) / len(best)] * len(best)
    smoothed = best[:1]
    for width in best[1:]:
        smoothed.append(0.9 * smoothed[-1] + 0.1 * width)
    return smoothed


INFO = register(
    CriterionInfo(
        "hrel",
        holding(relevance_to_labels),
        "information of the feature map about the labels",
        paper="arXiv 2202.10716",
        needs_labels=True,
        holds_maps=True,
        images=1000,
        cost="eigenvalues of C matrices of 100 x 100 per layer and 100 images",
    )
)
