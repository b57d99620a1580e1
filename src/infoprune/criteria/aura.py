"""Spatial aura entropy: what neighbouring grey levels of a map say about the label (Musat and Andonie 2023).

arXiv 2312.04926, a reconstruction from the abstract; no parity is claimed. Maps are quantised to at most G levels. The
aura matrix A of some maps counts, for each pair of levels i and j, the neighbours of level j that pixels of level i
have among the four next to them. With A_y that of the images of class y, divided by its sum, and H in bits::

    s_f = H(sum_y P(y) A_y) - sum_y P(y) H(A_y)

This is the information of a pair of neighbours about the class: 0 where all classes have one texture, at most the
entropy of the labels.

The grid is one for the layer. Its step is the smallest power of two with which all maps of the layer fall into G
levels, so it is known without keeping maps: where a later map needs a larger step, pairs of levels are joined exactly.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from infoprune.criteria.averaged import check_spatial
from infoprune.criteria.base import CriterionInfo, Filters, Importance, register
from infoprune.criteria.dead import Extremes, dead_last
from infoprune.criteria.map_entropy import entropy_of_counts
from infoprune.entropy.ties import rounding
from infoprune.errors import InputError

# The exponent of the smallest positive float32: no step is smaller.
_FINEST = -149


class Aura:
    """Counts of neighbouring levels by class and filter, on a grid that becomes coarser as the maps need it.

    Args:
        filters: The group.
        seed: Not used.
        levels: The most levels of the grid, at least 2; at least half of them are used.

    Raises:
        InputError: There are fewer than 2 levels.

    Example:
        >>> aura = Aura(Filters((), name="conv1"))
        >>> maps = torch.tensor([[[[0.0, 1.0], [1.0, 0.0]]], [[[0.0, 0.0], [1.0, 1.0]]]])
        >>> aura.update(maps, torch.tensor([0, 1]))
        >>> round(aura.compute().scores.item(), 6)
        0.311278
    """

    def __init__(self, filters: Filters, *, seed: int = 0, levels: int = 8) -> None:
        if isinstance(levels, bool) or not isinstance(levels, int) or levels < 2:
            raise InputError(f"the criterion 'aura' counts pairs of at least 2 levels, not {levels!r}")
        self.name = filters.name
        self.levels = levels
        self.extremes = Extremes(filters.name)
        self.images: dict[int, int] = {}
        self.counts: dict[int, Tensor] = {}
        self.exponent, self.base = _FINEST, 0

    def update(self, maps: Tensor, labels: Tensor) -> None:
        """Take in ``(n, C, H, W)`` maps and ``(n,)`` labels.

        Raises:
            InputError: The maps are single rows or columns.
        """
        self.extremes.note(check_spatial(maps, "aura"))
        self._widen()
        numbers = level_numbers(maps, self.exponent, self.base)
        for label in sorted(set(labels.tolist())):
            some = numbers[labels == label]
            self._join(label, len(some), pairs_of_levels(some, self.levels).cpu())

    def merge(self, other: Aura) -> None:
        """Take in what another instance has seen."""
        self.extremes.merge(other.extremes)
        if other.images:
            self._widen()
            for label, counts in other.counts.items():
                moved = joined_levels(counts, other.exponent, other.base, self.exponent, self.base)
                self._join(label, other.images[label], moved)

    def compute(self) -> Importance:
        """Return the ``(C,)`` informations in bits; the evidence holds ``entropy``, that of all classes together.

        Raises:
            InputError: There were no maps, or all images are of one class.
        """
        dead = self.extremes.dead()
        if len(self.images) < 2:
            raise InputError(
                f"all calibration images are of class {next(iter(self.images))}: the criterion 'aura' needs images of "
                "at least two classes"
            )
        total = sum(self.images.values())
        pooled = torch.zeros(len(dead), self.levels**2, dtype=torch.float64)
        within = torch.zeros(len(dead), dtype=torch.float64)
        for label in sorted(self.images):
            counts = (self.counts[label] + self.counts[label].mT).flatten(1).double()
            share = self.images[label] / total
            pooled += share * counts / counts.sum(dim=1, keepdim=True)
            within += share * bits(counts)
        entropy = bits(pooled)
        # The largest entropy there can be: that of all pairs of levels alike.
        out_by = torch.full_like(entropy, rounding(torch.float64, self.levels**2) * 2 * math.log2(self.levels))
        return dead_last((entropy - within).clamp_min(0), dead, out_by, entropy=entropy)

    def _widen(self) -> None:
        """Bring the grid and the counts to the range of all maps seen so far."""
        assert self.extremes.low is not None
        assert self.extremes.high is not None
        exponent, base = grid_of(float(self.extremes.low.min()), float(self.extremes.high.max()), self.levels)
        if (exponent, base) != (self.exponent, self.base):
            self.counts = {label: joined_levels(counts, self.exponent, self.base, exponent, base)
                           for label, counts in self.counts.items()}  # fmt: skip
            self.exponent, self.base = exponent, base

    def _join(self, label: int, images: int, counts: Tensor) -> None:
        self.images[label] = self.images.get(label, 0) + images
        self.counts[label] = self.counts[label] + counts if label in self.counts else counts


def grid_of(low: float, high: float, levels: int) -> tuple[int, int]:
    """Return the exponent of the smallest step 2^e that leaves at most ``levels`` levels of a range, and the first one.

    Level i holds the values from (first + i) 2^e to below (first + i + 1) 2^e.

    Example:
        >>> grid_of(0.0, 1.0, levels=8)
        (-2, 0)
    """
    exponent = _FINEST
    if high > low:
        exponent = max(_FINEST, math.frexp((high - low) / levels)[1] - 2)
    while _level(high, exponent) - _level(low, exponent) >= levels:
        exponent += 1
    return exponent, _level(low, exponent)


def level_numbers(maps: Tensor, exponent: int, base: int) -> Tensor:
    """Return the int64 levels of values on a grid of :func:`grid_of`.

    Example:
        >>> level_numbers(torch.tensor([0.0, 0.3, 1.0]), exponent=-2, base=0).tolist()
        [0, 1, 4]
    """
    # Division by a power of two, floor and difference are exact in float64, whatever the size of the values.
    scaled = (maps.detach().double() * 2.0**-exponent).floor()
    return (scaled - float(base)).long()


def pairs_of_levels(numbers: Tensor, levels: int) -> Tensor:
    """Return ``(C, G, G)`` counts of ``(n, C, H, W)`` levels: of a pixel and the next one, right and below.

    Their sum with their transpose is the aura matrix.

    Example:
        >>> pairs_of_levels(torch.tensor([[[[0, 1], [1, 0]]]]), levels=2).tolist()
        [[[0, 2], [2, 0]]]
    """
    filters = numbers.shape[1]
    own = torch.arange(filters, device=numbers.device)[:, None, None] * levels**2
    found = torch.zeros(filters * levels**2, dtype=torch.int64, device=numbers.device)
    for here, there in ((numbers[..., :-1], numbers[..., 1:]), (numbers[..., :-1, :], numbers[..., 1:, :])):
        keys = own + here * levels + there
        found += torch.bincount(keys.flatten(), minlength=len(found))
    return found.reshape(filters, levels, levels)


def joined_levels(counts: Tensor, exponent: int, base: int, new_exponent: int, new_base: int) -> Tensor:
    """Return ``(C, G, G)`` counts of one grid on another whose step is as large or larger.

    Example:
        >>> joined_levels(torch.tensor([[[1, 2], [3, 4]]]), 0, 2, 1, 0).tolist()  # levels 2 and 3 become level 1
        [[[0, 0], [0, 10]]]
    """
    levels = counts.shape[-1]
    # No count lies outside of the new grid, which holds every value seen.
    to = torch.tensor([min(max(((base + i) >> (new_exponent - exponent)) - new_base, 0), levels - 1)
                       for i in range(levels)])  # fmt: skip
    rows = torch.zeros_like(counts).index_add_(1, to, counts)
    return torch.zeros_like(counts).index_add_(2, to, rows)


def bits(counts: Tensor) -> Tensor:
    """Return the entropies in bits of ``(C, n)`` counts.

    Example:
        >>> bits(torch.tensor([[2.0, 2.0], [4.0, 0.0]])).tolist()
        [1.0, 0.0]
    """
    return entropy_of_counts(counts) / math.log(2)


def _level(value: float, exponent: int) -> int:
    return math.floor(math.ldexp(value, -exponent))


INFO = register(
    CriterionInfo(
        "aura",
        Aura,
        "information of neighbouring grey levels of the map about the labels (reconstruction)",
        paper="arXiv 2312.04926",
        needs_labels=True,
        by_layer=True,
        images=1000,
        cost="one forward pass per image; classes x C x G^2 counts are kept",
    )
)
