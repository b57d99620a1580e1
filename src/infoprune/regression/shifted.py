"""Second moments of patches from products of whole maps with shifted ones, where every position of the maps is used.

Two taps of a kernel see the same map, shifted. Their product, a block of the second moments, is that of all pairs of
taps with the same distance, but for the borders: a tap that lies outside of the map sees zeros. Along each axis a pair
is therefore known by the first position that both taps see, by how many they see, and by their distance. Pairs with one
distance see rectangles of the same map, which are put together from its borders and its middle: of the 81 pairs of a
kernel of 3 x 3 taps, 13 distances differ, others being transposed, so that 13 products of whole maps are enough, and
none of them multiplies the padding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise, product
from math import prod

import torch
from torch import Tensor

from infoprune.network.layer_io import Window
from infoprune.regression.normal_equations import NormalEquations

# By axis: the first position of a rectangle that one tap sees, how many follow, and the distance of the other tap.
Overlap = tuple[tuple[int, int, int], ...]
Rectangle = tuple[tuple[int, int], ...]


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
        channels, size = shape[0], shape[1:]
        taps = _Taps.of(window, size)
        self.pairs, self.parts, self.wanted, self.own = taps.pairs, taps.parts, taps.wanted, taps.own

        def zeros(*sizes: int) -> Tensor:
            return torch.zeros(*sizes, dtype=torch.float64, device=device)

        # Made when they are first added to: new memory is cleared by the system, which takes as long as a product.
        self.products: dict[Overlap, Tensor] = {}
        # By position: all images together.
        self.maps, self.targets = zeros(*size, channels), zeros(*window.outputs(size), outputs)
        self.cross = zeros(prod(window.kernel), channels, outputs)
        self.squares = zeros(outputs)
        self.images, self.rounding = 0, 0.0

    def add(self, maps: Tensor, targets: Tensor) -> None:
        """Add images.

        Args:
            maps: ``(n, C, H, W)``, minus what ``add_to`` is given.
            targets: ``(n, O, H', W')``, likewise.
        """
        seen = _Rectangles.of(maps)
        self.rounding = torch.finfo(maps.dtype).eps
        self.maps += seen.by_position()
        for part in self.wanted:
            found = seen.rows(_first(part)).mT @ seen.rows(_second(part))
            if part in self.products:
                self.products[part] += found
            else:
                self.products[part] = found.double()
        if targets.shape[1]:
            wanted = _Rectangles.of(targets.to(maps.dtype))
            for tap, (own, outputs) in self.own.items():
                self.cross[tap] += seen.rows(own).mT @ wanted.rows(outputs)
            self.targets += wanted.by_position()
            self.squares += targets.double().square().sum(dim=(0, *range(2, targets.dim())))
        self.images += len(maps)

    def add_to(self, equations: NormalEquations, about: Tensor, targets_about: Tensor) -> None:
        """Add what was summed to the equations of one group of channels.

        Args:
            equations: Changed in place.
            about: ``(C,)`` float64, what was subtracted from the maps; the padding is zero all the same.
            targets_about: ``(O,)`` float64, what was subtracted from the targets.
        """
        taps, channels = len(self.cross), len(about)
        blocks = equations.gram[0].view(taps, channels, taps, channels)
        features, cross = equations.features[0].view(taps, channels), equations.cross[0].view(taps, channels, -1)
        sums, wanted = _Rectangles(self.maps[:, None]), _Rectangles(self.targets[:, None])
        whole = {pair: self._whole(pair, sums, about) for pair in self.parts}
        for (s, t), (pair, turned) in self.pairs.items():
            blocks[s, :, t] += whole[pair].mT if turned else whole[pair]
        for tap, (own, outputs) in self.own.items():
            sum_of_tap = sums.rows(own).sum(dim=0) + self.images * prod(length for _, length in own) * about
            seen = wanted.rows(outputs).sum(dim=0)
            features[tap] += sum_of_tap
            cross[tap] += self.cross[tap] + about[:, None] * seen + sum_of_tap[:, None] * targets_about
            parts = self.parts[self.pairs[tap, tap][0]]
            spread = torch.stack([self.products[part].diagonal().sum() for part in parts]).sum()
            equations.noise += self.rounding * spread / (channels * taps) ** 0.5
        count, targets = self.images * prod(self.targets.shape[:-1]), self.targets.flatten(0, -2).sum(dim=0)
        equations.squares[0] += self.squares + targets_about * (2 * targets + count * targets_about)
        equations.targets[0] += targets + count * targets_about
        equations.count += count

    def _whole(self, pair: Overlap, sums: _Rectangles, about: Tensor) -> Tensor:
        """Return the product of a pair of taps, of the maps as they were before a constant was subtracted."""
        first, *others = self.parts[pair]
        total = self.products[first].clone()
        for part in others:
            total += self.products[part]
        one, other = (sums.rows(some).sum(dim=0) for some in (_first(pair), _second(pair)))
        constant = about[:, None] * (other + self.images * _positions(pair) * about)
        return total.add_(one[:, None] * about).add_(constant)


@dataclass(frozen=True)
class _Taps:
    """What the taps of a kernel see of maps of one size.

    ``pairs`` has, for two taps that see something at once, the pair with its distance forward, and whether the two were
    exchanged for that; ``parts`` the rectangles that are multiplied and put together for such a pair, ``wanted`` all of
    them; ``own``, for each tap that sees something, what it sees, and the outputs at which it does.
    """

    pairs: Mapping[tuple[int, int], tuple[Overlap, bool]]
    parts: Mapping[Overlap, list[Overlap]]
    wanted: tuple[Overlap, ...]
    own: Mapping[int, tuple[Rectangle, Rectangle]]

    @classmethod
    @lru_cache
    def of(cls, window: Window, size: tuple[int, ...]) -> _Taps:
        """Return those of a window on maps of a size, once for all layers and batches."""
        taps = [tuple(t * d - p for t, d, p in zip(tap, window.dilation, window.padding, strict=True))
                for tap in product(*map(range, window.kernel))]  # fmt: skip
        outputs = window.outputs(size)
        overlaps = {(s, t): tuple(map(_overlap, one, other, size, outputs))
                    for s, one in enumerate(taps) for t, other in enumerate(taps)}  # fmt: skip
        pairs = {both: _canonical(pair) for both, pair in overlaps.items() if _positions(pair)}
        own = {tap: (_first(pair), tuple((first - offset, length) for (first, length, _), offset in
                                         zip(pair, taps[tap], strict=True)))
               for (tap, other), (pair, _) in pairs.items() if tap == other}  # fmt: skip
        parts = _parts_of({pair for pair, _ in pairs.values()})
        wanted = sorted({part for some in parts.values() for part in some})
        return cls(pairs, parts, tuple(wanted), own)


@dataclass
class _Rectangles:
    """Parts of ``(H, n, ..., C)`` maps: along the first axis a part is no copy, along the others each is made once."""

    maps: Tensor
    _known: dict[Rectangle, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, maps: Tensor) -> _Rectangles:
        """Return those of ``(n, C, H, ...)`` maps."""
        return cls(maps.movedim(1, -1).transpose(0, 1).contiguous())

    def by_position(self) -> Tensor:
        """Return ``(H, ..., C)``, the sums over the images in float64."""
        return self.maps.sum(dim=1, dtype=torch.float64)

    def rows(self, rectangle: Rectangle) -> Tensor:
        """Return ``(P, C)``, the positions of a rectangle in all images."""
        (start, length), rest = rectangle[0], rectangle[1:]
        if rest not in self._known:
            narrow = self.maps
            for axis, (first, count) in enumerate(rest, 2):
                narrow = narrow.narrow(axis, first, count)
            self._known[rest] = narrow.contiguous()
        return self._known[rest].narrow(0, start, length).flatten(0, -2)


def _overlap(one: int, other: int, length: int, outputs: int) -> tuple[int, int, int]:
    """Return, along one axis, what two taps with these offsets see of a map where both lie inside."""
    first = max(0, -one, -other)
    last = min(outputs, length - one, length - other)
    return first + one, max(0, last - first), other - one


def _canonical(pair: Overlap) -> tuple[Overlap, bool]:
    """Return a pair of taps with its distance forward, and whether the two were exchanged for that."""
    if _distance(pair) >= (0,) * len(pair):
        return pair, False
    return tuple((first + delta, length, -delta) for first, length, delta in pair), True


def _parts_of(pairs: set[Overlap]) -> dict[Overlap, list[Overlap]]:
    """Return the parts of every rectangle: each begins or ends, along an axis, where one with its distance does."""
    ends: dict[tuple[tuple[int, ...], int], set[int]] = {}
    for pair in pairs:
        for axis, (first, length, _) in enumerate(pair):
            ends.setdefault((_distance(pair), axis), set()).update((first, first + length))

    def along(pair: Overlap, axis: int) -> list[tuple[int, int, int]]:
        first, length, delta = pair[axis]
        inside = sorted(cut for cut in ends[_distance(pair), axis] if first <= cut <= first + length)
        return [(start, stop - start, delta) for start, stop in pairwise(inside)]

    return {pair: list(product(*(along(pair, axis) for axis in range(len(pair))))) for pair in pairs}


def _distance(pair: Overlap) -> tuple[int, ...]:
    return tuple(delta for _, _, delta in pair)


def _positions(pair: Overlap) -> int:
    return prod(length for _, length, _ in pair)


def _first(pair: Overlap) -> Rectangle:
    """Return what the first tap of a pair sees."""
    return tuple((first, length) for first, length, _ in pair)


def _second(pair: Overlap) -> Rectangle:
    """Return what the second tap of a pair sees."""
    return tuple((first + delta, length) for first, length, delta in pair)
