"""CHIP: channel independence, what the nuclear norm of a layer's maps loses without a filter (Sui et al. 2021).

arXiv 2110.13981. With A the ``(C, H W)`` maps of one image, one row per filter::

    CI_f = ||A||_* - ||A with row f zeroed||_*,    s_f = mean over images of CI_f

A small value: the other filters span the map. ``fast`` takes the first-order form CI_f ~ ((A A^T)^1/2)_ff, one
decomposition an image for all filters; it never underestimates, and is exact for orthogonal rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from infoprune.criteria.averaged import averaged
from infoprune.criteria.base import CriterionInfo, Importance, register
from infoprune.criteria.dead import dead_last
from infoprune.entropy.ties import bound_of_maps

# Up to this number of filters each row is left out once, which takes C decompositions per image.
EXACT_UP_TO = 128


def independence(rows: Tensor) -> Tensor:
    """Return ``(n, C)``: what the nuclear norm of ``(n, C, S)`` matrices loses when a row is zeroed.

    Example:
        >>> rows = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]], dtype=torch.float64)
        >>> [round(value, 6) for value in independence(rows)[0].tolist()]
        [0.414214, 1.0, 0.414214]
    """
    filters = rows.shape[1]
    # U S has the same Gram matrix of rows, and no more columns than rows.
    left, singular, _ = torch.linalg.svd(rows, full_matrices=False)
    smaller = left * singular[:, None, :]
    others = 1 - torch.eye(filters, dtype=rows.dtype, device=rows.device)
    found = [total - torch.linalg.svdvals(others[:, :, None] * matrix).sum(dim=-1)
             for total, matrix in zip(singular.sum(dim=-1), smaller, strict=True)]  # fmt: skip
    return torch.stack(found)


def independence_to_first_order(rows: Tensor) -> Tensor:
    """Return ``(n, C)``: the diagonal of (A A^T)^1/2 of ``(n, C, S)`` matrices A.

    Example:
        >>> rows = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]], dtype=torch.float64)
        >>> [round(value, 6) for value in independence_to_first_order(rows)[0].tolist()]
        [0.707107, 1.0, 0.707107]
    """
    left, singular, _ = torch.linalg.svd(rows, full_matrices=False)
    found: Tensor = (left.square() * singular[:, None, :]).sum(dim=-1)
    return found


def channel_independence(maps: Tensor, *, fast: bool | None = None, unit: bool = False) -> Tensor:
    """Return the channel independence of every map.

    Args:
        maps: ``(n, C, H, W)``.
        fast: Whether the first-order form is taken; by default for more than 128 filters.
        unit: Whether every map is divided by its norm first, so that a strong copy does not exceed a weak filter that
            is independent of the others.

    Returns:
        ``(n, C)`` float64, never negative.

    Example:
        >>> maps = torch.tensor([[[[3.0, 4.0]], [[6.0, 8.0]]]])
        >>> [round(value, 4) for value in channel_independence(maps)[0].tolist()]
        [1.1803, 6.1803]
    """
    rows = maps.flatten(2).double()
    if unit:
        norms = torch.linalg.vector_norm(rows, dim=2, keepdim=True)
        rows = rows / torch.where(norms > 0, norms, 1.0)
    first_order = maps.shape[1] > EXACT_UP_TO if fast is None else fast
    return (independence_to_first_order(rows) if first_order else independence(rows)).clamp_min(0)


def by_independence(mean: Tensor, dead: Tensor) -> Importance:
    """Return the importance from ``(C,)`` mean independences.

    Example:
        >>> by_independence(torch.tensor([0.1, 0.4], dtype=torch.float64), torch.zeros(2, dtype=torch.bool)).order
        (1, 0)
    """
    return dead_last(mean, dead, bound_of_maps(mean))


INFO = register(
    CriterionInfo(
        "chip",
        averaged(channel_independence, by_independence),
        "what the nuclear norm of the layer's maps loses without the filter",
        paper="arXiv 2110.13981",
        images=256,
        cost="one forward pass per image and C singular value decompositions of C x min(C, H W); one with fast",
    )
)
