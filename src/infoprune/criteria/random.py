"""Random importance: what any criterion must beat."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from infoprune.criteria.base import CriterionInfo, Filters, Importance, register


class Random:
    """Uniform scores in [0, 1) that depend on the seed and the group's name alone.

    Args:
        filters: The group.
        seed: Another seed, another draw.

    Example:
        >>> filters = Filters((torch.rand(8, 3),), name="conv1")
        >>> Random(filters, seed=1).compute().order == Random(filters, seed=1).compute().order
        True
    """

    def __init__(self, filters: Filters, *, seed: int = 0) -> None:
        self.filters = filters
        self.seed = seed

    def update(self, maps: Tensor, labels: Tensor) -> None:
        """Look away."""

    def merge(self, other: Random) -> None:
        """Nothing was taken in."""

    def compute(self) -> Importance:
        """Return ``(C,)`` random scores."""
        digest = hashlib.sha256(f"{self.seed}:{self.filters.name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        return Importance(torch.rand(len(self.filters.weights[0]), generator=generator, dtype=torch.float64))


INFO = register(
    CriterionInfo(
        "random", Random, "a draw that depends on the seed and the layer's name", needs_maps=False, cost="none"
    )
)
