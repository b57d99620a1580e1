"""Normal equations summed over many small batches: centred products in float32, their sums in float64.

With few features everything is float64. With many, float32 products of centred values have an error of about 1e-7 of a
variance, far below the ridge that is used for many features.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from infoprune.network.layer_io import Window
from infoprune.regression.normal_equations import NormalEquations, symmetric_product
from infoprune.regression.shifted import ShiftedProducts

FLOAT32_FROM = 128
# Positions multiplied at a time: a few products with long rows are faster than many with short ones.
_LEAST_POSITIONS = 4096
# Largest number of values that wait for multiplication.
_MOST_VALUES = 1 << 24


class Products:
    """Sums of the products of features and targets, g groups of F features and O targets.

    Args:
        groups: g.
        features: F.
        outputs: O, 0 if only the features are needed.
        device: Device of the sums.
        memory: Sums of the same shapes that nobody needs any more, whose memory is used again.

    Example:
        >>> import torch
        >>> from infoprune.regression.products import Products
        >>> x = torch.randn(1, 3, 50, generator=torch.Generator().manual_seed(0))
        >>> products = Products(1, 3, 1)
        >>> products.add(x, x[:, :1] + 2)
        >>> equations = products.equations()
        >>> equations.count, torch.allclose(equations.gram, (x @ x.mT).double(), atol=1e-4)
        (50, True)
    """

    def __init__(
        self,
        groups: int,
        features: int,
        outputs: int,
        device: torch.device | None = None,
        memory: NormalEquations | None = None,
    ) -> None:
        self.exact = features < FLOAT32_FROM
        self.shape = (groups, features, outputs)
        self.positions = max(1, min(max(features, _LEAST_POSITIONS), _MOST_VALUES // max(1, groups * features)))
        self.about: Tensor | None = None
        self.targets_about: Tensor | None = None
        start = torch.empty(groups, features, outputs, device=device)
        self._sums = NormalEquations.of(start) if memory is None else memory.cleared()
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._shifted: dict[tuple[Window, torch.Size], ShiftedProducts] = {}

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Add P positions.

        Args:
            features: ``(g, F, P)``, minus ``about`` if it is set.
            targets: ``(g, O, P)``, minus ``targets_about`` if it is set.
        """
        self._waiting.append((features, targets))
        if sum(one.shape[2] for one, _ in self._waiting) >= self.positions:
            self._multiply()

    def add_maps(self, window: Window, maps: Tensor, targets: Tensor) -> None:
        """Add all positions of some images.

        Args:
            window: How the layer moves over its inputs, with a stride of 1.
            maps: ``(n, C, ...)``, minus the values of ``about`` by channel.
            targets: ``(n, O, ...)``, minus ``targets_about``.
        """
        key = window, maps.shape[1:]
        if key not in self._shifted:
            self._shifted[key] = ShiftedProducts(window, maps.shape[1:], self.shape[2], maps.device)
        self._shifted[key].add(maps, targets)

    def equations(self) -> NormalEquations:
        """Return the normal equations of all added positions. The sums are handed over: nothing is added afterwards."""
        self._multiply()
        found = self._sums
        m = torch.zeros_like(found.features) if self.about is None else self.about.double()
        n = torch.zeros_like(found.targets) if self.targets_about is None else self.targets_about.double()
        if self.about is not None and found.count:
            # Matrices of wide layers take hundreds of MiB: they are changed in place.
            half = found.features + found.count / 2 * m
            found.gram.baddbmm_(m[:, :, None], half[:, None, :])
            found.gram.baddbmm_(half[:, :, None], m[:, None, :])
        found.cross += m[:, :, None] * (found.targets + found.count * n)[:, None, :]
        found.cross += found.features[:, :, None] * n[:, None, :]
        found.squares += n * (2 * found.targets + found.count * n)
        found.features += found.count * m
        found.targets += found.count * n
        for (window, _), one in self._shifted.items():
            one.add_to(found, m[0, : m.shape[1] // prod(window.kernel)], n[0])
        return found

    def _multiply(self) -> None:
        if not self._waiting:
            return
        x, t = (_joined([pair[which] for pair in self._waiting]) for which in (0, 1))
        self._waiting = []
        if self.exact:
            self._sums.add(x, t)
            return
        ones = x.new_ones(x.shape[2], 1)
        t = t.to(x.dtype)
        gram = symmetric_product(x)
        sums = self._sums
        sums.gram += gram
        sums.cross += x @ t.mT
        sums.features += (x @ ones)[..., 0]
        sums.targets += (t @ ones)[..., 0]
        sums.squares += t.square().double().sum(dim=2)
        sums.noise += torch.finfo(x.dtype).eps * gram.diagonal(dim1=1, dim2=2).double().sum(dim=1) / x.shape[1] ** 0.5
        sums.count += x.shape[2]


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
