"""FPWT: maps are compared by the bands of a Haar wavelet transform (Liu, Fan and Zhou 2024, Neural Networks).

A reconstruction from the abstract; the weights of the bands are this project's choice and no parity is claimed. One
level of the Haar transform gives the bands LL, LH, HL and HH. With cosL the cosine of two LL bands, cosH that of the
three others, and e_L = |LL|^2 / |o|^2, e_H = 1 - e_L the shares of the energy of the map of f::

    s_f = 1 - mean over g != f and images of (e_L cosL(f, g) + e_H cosH(f, g))

A filter that is like no other is kept. Dead filters are no partners. Maps of odd size repeat their last row or column.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from infoprune.criteria.averaged import averaged, check_spatial
from infoprune.criteria.base import CriterionInfo, Importance, register
from infoprune.criteria.dead import dead_last
from infoprune.criteria.weights import cosines
from infoprune.entropy.ties import bound_of_maps


def haar(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return LL flat, ``(..., S)``, and LH, HL and HH side by side, ``(..., 3 S)``, of ``(..., H, W)`` maps.

    Example:
        >>> low, high = haar(torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64))
        >>> low.tolist(), high.tolist()
        ([5.0], [-1.0, -2.0, 0.0])
    """
    a, b = maps[..., 0::2, 0::2], maps[..., 0::2, 1::2]
    c, d = maps[..., 1::2, 0::2], maps[..., 1::2, 1::2]
    bands = [(a + b + c + d) / 2, (a - b + c - d) / 2, (a + b - c - d) / 2, (a - b - c + d) / 2]
    low, *high = (band.flatten(-2) for band in bands)
    return low, torch.cat(high, dim=-1)


def likeness(maps: Tensor) -> Tensor:
    """Return ``(n, C, C)``: how alike each map is to each other, weighted by the energies of the first.

    Args:
        maps: ``(n, C, H, W)``.

    Raises:
        InputError: The maps are single rows or columns.

    Example:
        >>> found = likeness(torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
        >>> found.shape
        torch.Size([2, 3, 3])
    """
    maps = check_spatial(maps, "wavelet").double()
    height, width = maps.shape[2:]
    low, high = haar(F.pad(maps, (0, width % 2, 0, height % 2), mode="replicate"))
    energies = low.square().sum(dim=-1), high.square().sum(dim=-1)
    total = energies[0] + energies[1]
    share = torch.where(total > 0, energies[0] / torch.where(total > 0, total, 1.0), 1.0)[..., None]
    return share * cosines(low) + (1 - share) * cosines(high)


def unlike_the_others(mean: Tensor, dead: Tensor) -> Importance:
    """Return the importance 1 - the mean likeness to the other live filters; 1 for the only one.

    Example:
        >>> mean = torch.tensor([[1.0, 0.9, 0.1], [0.9, 1.0, 0.3], [0.1, 0.3, 1.0]], dtype=torch.float64)
        >>> unlike_the_others(mean, torch.zeros(3, dtype=torch.bool)).order
        (2, 0, 1)
    """
    found = 1 - mean_over_others(mean, dead)
    return dead_last(found, dead, bound_of_maps(found, 1.0), likeness=mean)


def mean_over_others(pairs: Tensor, dead: Tensor) -> Tensor:
    """Return ``(C,)``: the mean of each row of ``(C, C)`` values over the live filters but the row's own.

    Example:
        >>> pairs = torch.tensor([[1.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
        >>> mean_over_others(pairs, torch.tensor([False, False, True])).tolist()
        [0.5, 0.5, 0.0]
    """
    live = (~dead).to(pairs.dtype)
    others = live.expand_as(pairs) * (1 - torch.eye(len(pairs), dtype=pairs.dtype))
    return (pairs * others).sum(dim=1) / others.sum(dim=1).clamp_min(1)


INFO = register(
    CriterionInfo(
        "wavelet",
        averaged(likeness, unlike_the_others),
        "how unlike the wavelet bands of the other maps (reconstruction)",
        paper="Liu et al. 2024, Neural Networks",
        by_layer=True,
        images=256,
        cost="one forward pass and one C x C product per image",
    )
)
