"""Hash codes of maps, as HASTE merges channels by them while it runs: a static use (Meiner et al. 2023).

arXiv 2309.17211, this project's own use of its codes; no parity is claimed. Maps are taken in patches. In each patch,
the mean over the filters is subtracted from every map, and the map is hashed by the sides of random hyperplanes on
which it lies, see :mod:`infoprune.hashing.convolution`. Two filters agree in a patch where their codes are equal::

    sim(f, g) = share of the patches of all images in which the codes of f and g are equal

Of the most similar pair one filter is removed, again and again; where sums of similarities are equal, that of the
smaller L1 norm. The repairs ``merge`` and ``channels`` pass on what a removed filter said to those that agree with it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from infoprune.criteria.averaged import averaged, check_spatial
from infoprune.criteria.base import CriterionInfo, Filters, Importance, register
from infoprune.criteria.coring import in_order_of_removal
from infoprune.criteria.weights import flat_weights
from infoprune.entropy.ties import snapped
from infoprune.errors import InputError
from infoprune.hashing.convolution import codes, hyperplanes


def agreement_of_codes(maps: Tensor, *, planes: int = 6, patch: int = 8) -> Tensor:
    """Return ``(n, C, C)``: the share of patches in which two maps have one code.

    Args:
        maps: ``(n, C, H, W)``; borders that are no whole patch are not read.
        planes: Hyperplanes of a code, 1 to 62: with more of them codes are seldom equal.
        patch: Side of a patch; smaller maps are one patch.

    Raises:
        InputError: The maps are single rows or columns, or an option is out of range.

    Example:
        >>> maps = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> maps[:, 2] = maps[:, 0]
        >>> agreement_of_codes(maps)[:, 0, 2].tolist()
        [1.0, 1.0]
    """
    if isinstance(planes, bool) or not isinstance(planes, int) or not 1 <= planes <= 62:
        raise InputError(f"codes are made by 1 to 62 hyperplanes, not {planes!r}")
    if isinstance(patch, bool) or not isinstance(patch, int) or patch < 1:
        raise InputError(f"a patch has a side of 1 or more, not {patch!r}")
    images, filters, height, width = check_spatial(maps, "hashing").shape
    sides = min(patch, height), min(patch, width)
    parts = F.unfold(maps.double(), sides, stride=sides).reshape(images, filters, sides[0] * sides[1], -1)
    vectors = parts.permute(0, 3, 1, 2)  # (n, patches, C, values)
    found = codes(vectors - vectors.mean(dim=2, keepdim=True), hyperplanes(sides[0] * sides[1], planes))
    total = torch.zeros(images, filters, filters, dtype=torch.float64, device=maps.device)
    for place in range(found.shape[1]):
        own = found[:, place]
        total += (own[:, :, None] == own[:, None, :]).double()
    return total / found.shape[1]


def by_agreement(mean: Tensor, dead: Tensor, filters: Filters) -> Importance:
    """Return the importance from ``(C, C)`` mean agreements: when each filter is removed.

    Example:
        >>> mean = torch.tensor([[1.0, 0.9, 0.1], [0.9, 1.0, 0.2], [0.1, 0.2, 1.0]], dtype=torch.float64)
        >>> by_agreement(mean, torch.zeros(3, dtype=torch.bool), Filters((torch.ones(3, 1),))).order[-1]
        1
    """
    norms = flat_weights(filters).abs().sum(dim=1) if filters.weights else torch.zeros(len(dead)).double()
    norms = snapped(norms)
    # Shares of patches are often equal: of such pairs the one of the smaller norms is served first.
    weight = norms / norms.max() if len(norms) and norms.max() > 0 else norms
    return in_order_of_removal(1 - mean + 1e-6 * (weight[:, None] + weight) / 2, norms, dead)


INFO = register(
    CriterionInfo(
        "hashing",
        averaged(agreement_of_codes, by_agreement),
        "filters whose maps have the same hash code as others in most patches go first (reconstruction)",
        paper="arXiv 2309.17211",
        by_layer=True,
        images=256,
        cost="one forward pass and one C x C comparison per image and patch",
    )
)
