"""Second moments of patches from products of whole maps with shifted ones, where every position of the maps is used.

Two taps of a kernel see the same map, shifted. Their product, a block of the second moments, is that of all pairs of
taps with the same distance, but for the borders: a tap that lies outside of the map sees zeros. Along each axis a pair
is therefore known by the first position that both taps see, by how many they see, and by their distance. Of the 81
pairs of a kernel of 3 x 3 taps, 29 differ, others being transposed, and none of them multiplies the padding.
"""

from __future__ import annotations

from itertools import product
from math import prod

import torch
from torch import Tensor

from infoprune.network.layer_io import Window
from infoprune.regression.normal_equations import NormalEquations

# By axis: the first position that the first tap sees where both lie inside, how many follow, and the distance.
Overlap = tuple[tuple[int, int, int], ...]


def can_be_shifted(window: Window | None) -> bool:
    """Return whether the patches of a layer are shifted maps, more than one.

    Example:
        >>> can_be_shifted(Window((3, 3), (1, 1), (1, 1), (1, 1), groups=1))
        True
        >>> can_be_shifted(Window((3, 3), (2, 2), (1, 1), (1, 1), groups=1))
        False
    """
    return window is not None and window.groups == 1 and prod(window.kernel) > 1 and set(window.stride) == {1}


class ShiftedProducts:
    """Sums of products of all patches of maps of one size, and of patches with targets.

    Args:
        window: How the layer moves over its inputs, with a stride of 1.
        shape: ``(C, H, W)`` of one input.
        outputs: Targets of one position, 0 if only the patches are needed.
        device: Device of the sums.

    Example:
        >>> window = Window((2,), (1,), (0,), (1,), groups=1)
        >>> products = ShiftedProducts(window, (1, 3), 0, torch.device("cpu"))
        >>> products.add(torch.tensor([[[1.0, 2.0, 3.0]]]), torch.zeros(1, 0, 2))
        >>> found = NormalEquations.of(torch.zeros(1, 2, 0))
        >>> products.add_to(found, torch.zeros(1).double(), torch.zeros(0).double())
        >>> found.gram[0].tolist()  # 1 1 + 2 2, 1 2 + 2 3, 2 2 + 3 3
        [[5.0, 8.0], [8.0, 13.0]]
    """

    def __init__(self, window: Window, shape: tuple[int, ...], outputs: int, device: torch.device) -> None:
        channels, self.size = shape[0], shape[1:]
        self.outputs = window.outputs(self.size)
        self.offsets = [tuple(t * d - p for t, d, p in zip(tap, window.dilation, window.padding, strict=True))
                        for tap in product(*map(range, window.kernel))]  # fmt: skip
        self.pairs = {
            (s, t): tuple(map(_overlap, one, other, self.size, self.outputs))
            for s, one in enumerate(self.offsets)
            for t, other in enumerate(self.offsets)
        }

        def zeros(*sizes: int) -> Tensor:
            return torch.zeros(*sizes, dtype=torch.float64, device=device)

        # Made when they are first added to: new memory is cleared by the system, which takes as long as a product.
        self.products: dict[Overlap, Tensor] = {}
        self.sums: dict[Overlap, tuple[Tensor, Tensor]] = {}
        self.wanted = sorted({_canonical(pair)[0] for pair in self.pairs.values() if _positions(pair)})
        self.cross = zeros(len(self.offsets), channels, outputs)
        self.seen = zeros(len(self.offsets), outputs)
        self.targets, self.squares = zeros(outputs), zeros(outputs)
        self.images, self.rounding = 0, 0.0

    def add(self, maps: Tensor, targets: Tensor) -> None:
        """Add images.

        Args:
            maps: ``(n, C, H, W)``, minus what ``add_to`` is given.
            targets: ``(n, O, H', W')``, likewise.
        """
        rows = maps.movedim(1, -1).contiguous()
        self.rounding = torch.finfo(maps.dtype).eps
        for pair in self.wanted:
            one, other = _part(rows, pair, shifted=False), _part(rows, pair, shifted=True)
            sums = (one.sum(dim=0, dtype=torch.float64), other.sum(dim=0, dtype=torch.float64))
            if pair not in self.products:
                self.products[pair], self.sums[pair] = (one.mT @ other).double(), sums
                continue
            self.products[pair] += one.mT @ other
            for total, some in zip(self.sums[pair], sums, strict=True):
                total += some
        if targets.shape[1]:
            wanted = targets.to(maps.dtype).movedim(1, -1).contiguous()
            for tap in range(len(self.offsets)):
                self._add_targets(tap, rows, wanted)
            self.targets += wanted.flatten(0, -2).sum(dim=0, dtype=torch.float64)
            self.squares += wanted.double().square().flatten(0, -2).sum(dim=0)
        self.images += len(maps)

    def add_to(self, equations: NormalEquations, about: Tensor, targets_about: Tensor) -> None:
        """Add what was summed to the equations of one group of channels.

        Args:
            equations: Changed in place.
            about: ``(C,)`` float64, what was subtracted from the maps; the padding is zero all the same.
            targets_about: ``(O,)`` float64, what was subtracted from the targets.
        """
        taps, channels = len(self.offsets), len(about)
        blocks = equations.gram[0].view(taps, channels, taps, channels)
        features, cross = equations.features[0].view(taps, channels), equations.cross[0].view(taps, channels, -1)
        whole = {pair: self._whole(pair, about) for pair in self.products}
        for (s, t), pair in self.pairs.items():
            if not _positions(pair):
                continue
            known, turned = _canonical(pair)
            blocks[s, :, t] += whole[known].mT if turned else whole[known]
            if s == t:
                own = self.sums[known][0] + self.images * _positions(pair) * about
                features[s] += own
                cross[s] += self.cross[s] + about[:, None] * self.seen[s] + own[:, None] * targets_about
                spread = self.products[known].diagonal().sum() / (channels * taps) ** 0.5
                equations.noise += self.rounding * spread
        count = self.images * prod(self.outputs)
        equations.squares[0] += self.squares + targets_about * (2 * self.targets + count * targets_about)
        equations.targets[0] += self.targets + count * targets_about
        equations.count += count

    def _whole(self, pair: Overlap, about: Tensor) -> Tensor:
        """Return the product of a pair of taps, of the maps as they were."""
        one, other = self.sums[pair]
        constant = about[:, None] * (other + self.images * _positions(pair) * about)
        return self.products[pair] + one[:, None] * about + constant

    def _add_targets(self, tap: int, rows: Tensor, wanted: Tensor) -> None:
        """Add the products of one tap with the targets of the positions at which it lies inside."""
        pair = self.pairs[tap, tap]
        if not _positions(pair):
            return
        here = wanted
        for axis, ((first, length, _), offset) in enumerate(zip(pair, self.offsets[tap], strict=True), 1):
            here = here.narrow(axis, first - offset, length)
        some = here.reshape(-1, here.shape[-1])
        self.cross[tap] += _part(rows, pair, shifted=False).mT @ some
        self.seen[tap] += some.sum(dim=0, dtype=torch.float64)


def _overlap(one: int, other: int, length: int, outputs: int) -> tuple[int, int, int]:
    """Return, along one axis, what two taps with these offsets see of a map where both lie inside."""
    first = max(0, -one, -other)
    last = min(outputs, length - one, length - other)
    return first + one, max(0, last - first), other - one


def _canonical(pair: Overlap) -> tuple[Overlap, bool]:
    """Return a pair of taps with its distance forward, and whether the two were exchanged for that."""
    distance = tuple(delta for _, _, delta in pair)
    if distance >= (0,) * len(distance):
        return pair, False
    return tuple((first + delta, length, -delta) for first, length, delta in pair), True


def _positions(pair: Overlap) -> int:
    return prod(length for _, length, _ in pair)


def _part(rows: Tensor, pair: Overlap, *, shifted: bool) -> Tensor:
    """Return ``(n P, C)``: what the first or the second tap of a pair sees of ``(n, H, W, C)`` maps."""
    for axis, (first, length, delta) in enumerate(pair, 1):
        rows = rows.narrow(axis, first + delta if shifted else first, length)
    return rows.reshape(-1, rows.shape[-1])
