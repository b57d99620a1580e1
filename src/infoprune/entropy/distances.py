"""Squared distances between the samples of many variables at once, by matrix products."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from infoprune.entropy.precision import full_precision
from infoprune.entropy.threads import in_chunks
from infoprune.entropy.ties import rounding
from infoprune.errors import InputError

# Some of several variables: a run of them, or their indices.
Which: TypeAlias = slice | Tensor

# Below this, exp gives single-precision numbers that processors are slow with.
LOWEST_EXPONENT = -87.0
# What half of the rounding of exponents may come to in a sum over all pairs, as a share of it, were it all of one sign.
_SHARE_OF_ROUNDING = 2e-4
# What is centred and multiplied at a time where samples have many features: half of a cache, or a GPU's fill.
_BYTES_OF_A_CORE = 1 << 20
_BYTES_OF_A_GPU = 1 << 29


def variables(maps: Tensor) -> Tensor:
    """Return the feature maps ``(n, C, ...)`` of a layer as C variables ``(C, n, d)``, each map laid flat.

    Raises:
        InputError: There is no channel axis.

    Example:
        >>> import torch
        >>> variables(torch.zeros(8, 3, 4, 4)).shape
        torch.Size([3, 8, 16])
    """
    if maps.ndim < 2:
        raise InputError(f"feature maps have the shape {tuple(maps.shape)}: they must be (n, C, ...)")
    return maps.reshape(*maps.shape[:2], -1).movedim(1, 0)


def check_variables(x: Tensor) -> None:
    """Refuse what is not ``(C, n, d)`` real numbers.

    Raises:
        InputError: It is not.

    Example:
        >>> check_variables(torch.rand(2, 5))
        Traceback (most recent call last):
            ...
        infoprune.errors.InputError: the variables have the shape (2, 5): they must be (C, n, d), none of them 0
    """
    if x.ndim != 3 or 0 in x.shape:
        raise InputError(f"the variables have the shape {tuple(x.shape)}: they must be (C, n, d), none of them 0")
    if not x.is_floating_point():
        raise InputError(f"the variables are {x.dtype}: they must be floating point")


def check_finite(norms: Tensor) -> None:
    """Refuse variables whose squared norms are not finite.

    Raises:
        InputError: Some are not.

    Example:
        >>> check_finite(torch.tensor([1.0, float("nan")]))
        Traceback (most recent call last):
            ...
        infoprune.errors.InputError: the variables hold values that are not finite
    """
    if not bool(torch.isfinite(norms).all()):
        raise InputError("the variables hold NaN, infinity or numbers too large to square: did the network diverge?")


@full_precision()
def squared_distances(x: Tensor) -> Tensor:
    """Return the squared Euclidean distances between the samples of each variable, by one matrix product.

    The features are centred first, without which the product loses every digit to a common offset. Nothing is
    negative; the diagonal and the distances between copies of a sample are exactly 0.

    Args:
        x: ``(..., n, d)``, floating point.

    Returns:
        ``(..., n, n)`` in the precision of ``x``, symmetric to the bit.

    Example:
        >>> import torch
        >>> squared_distances(torch.tensor([[[0.0], [2.0]]])).tolist()
        [[[0.0, 4.0], [4.0, 0.0]]]
    """
    flat = x.reshape(-1, *x.shape[-2:])
    return Distances(*unit_distances(flat)).squared().reshape(*x.shape[:-1], x.shape[-2])


def unit_distances(x: Tensor, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """Return squared distances as multiples of each variable's largest squared norm, and those norms.

    Args:
        x: ``(B, n, d)``, floating point.
        dtype: Precision of the result and of all that leads to it; that of ``x`` where None.

    Returns:
        ``(B, n, n)`` and ``(B,)``; a variable whose samples are all alike has the unit 1.

    Raises:
        InputError: The variables are not finite.

    Example:
        >>> distances, unit = unit_distances(torch.tensor([[[0.0], [2.0]]]))
        >>> (distances * unit)[0].tolist()
        [[0.0, 4.0], [4.0, 0.0]]
    """
    samples = _centred(x, dtype or x.dtype)
    unit = samples.norms.amax(dim=-1)
    check_finite(unit)
    # Where all samples are alike, centring leaves the rounding of the mean: that is no unit, and no distance.
    nothing = unit <= (16 * torch.finfo(unit.dtype).eps) ** 2 * samples.mean.square().sum(dim=-1)
    divisor = torch.where(nothing, torch.inf, unit)[:, None]
    distances = _expanded(samples, samples.norms / divisor, -2 / divisor)
    # What is below the rounding of the product is a distance of zero: copies of a sample stay copies.
    distances = torch.threshold_(distances, rounding(unit.dtype, x.shape[-1]), 0.0)
    distances.diagonal(dim1=-2, dim2=-1).zero_()
    return distances, torch.where(nothing, 1.0, unit)


@dataclass(frozen=True)
class Distances:
    """Squared distances between the samples of C variables, in place of the variables.

    Args:
        values: ``(C, n, n)``, as multiples of the unit of each variable.
        unit: ``(C,)``, the largest squared norm of a sample about the mean.

    Example:
        >>> Distances.of(torch.tensor([[[0.0], [2.0]]])).squared()[0].tolist()
        [[0.0, 4.0], [4.0, 0.0]]
    """

    values: Tensor
    unit: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Distances:
        """Return the distances of ``(C, n, d)`` variables, in double precision."""
        values = torch.empty(len(x), x.shape[1], x.shape[1], dtype=torch.float64, device=x.device)

        def units(part: slice) -> Tensor:
            values[part], unit = unit_distances(x[part], torch.float64)
            return unit

        return cls(values, in_chunks(units, x.shape, x.device))

    @property
    def shape(self) -> torch.Size:
        """``(C, n, n)``."""
        return self.values.shape

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.values.device

    def __len__(self) -> int:
        """Return C."""
        return len(self.values)

    def __getitem__(self, some: Which) -> Distances:
        """Return those of some of the variables."""
        return Distances(self.values[some], self.unit[some])

    def squared(self) -> Tensor:
        """Return ``(C, n, n)`` in the unit of the features, squared; symmetric to the bit."""
        return symmetric(self.values * self.unit[:, None, None])


def exponents(x: Tensor, rates: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return -rate d^2 for every two samples, in one pass where :func:`unit_distances` takes three.

    Nothing keeps copies of a sample at a distance of zero here, nor the exponents from being above it by rounding,
    which is as large as the norms are. None is lower than ``LOWEST_EXPONENT``.

    Args:
        x: ``(B, n, d)``, floating point.
        rates: ``(B,)``, not negative.
        dtype: Precision of the result and of all that leads to it.

    Returns:
        ``(B, n, n)``, and whether rounding is too small to show in a sum over all pairs: ``(B,)``.

    Raises:
        InputError: The variables are not finite.

    Example:
        >>> found, norms = exponents(torch.tensor([[[0.0], [2.0]]]), torch.tensor([0.5]), torch.float64)
        >>> found[0, 0, 1].item()
        -2.0
    """
    samples = _centred(x, dtype)
    rates = rates.to(dtype)[:, None]
    across = samples.norms * -rates
    found = _expanded(samples, across, 2 * rates)
    found.diagonal(dim1=-2, dim2=-1).zero_()
    if not 4 * float(across.min()) > LOWEST_EXPONENT:
        found = found.clamp_(min=LOWEST_EXPONENT)
    # An exponent is out by e (r_i + r_j), e the rounding and r = rate |x|^2. The sum of a positive semi-definite s
    # with a unit diagonal is then out by the share 2 e r's1 / 1's1 <= 2 e (r's r / 1's1)^1/2 <= 2 e sum(r) / n^1/2.
    share = rounding(dtype, x.shape[-1]) / math.sqrt(x.shape[-2])
    trusted = across.sum(dim=-1) > -_SHARE_OF_ROUNDING / share
    if not bool(trusted.all()):
        check_finite(across)
    return found, trusted


def is_wide(x: Tensor | Distances) -> bool:
    """Return whether ``(..., n, d)`` samples hold more numbers than their distances.

    Example:
        >>> is_wide(torch.zeros(4, 10, 64)), is_wide(torch.zeros(4, 100, 64))
        (True, False)
    """
    return x.shape[-1] >= x.shape[-2]


def symmetric(matrices: Tensor) -> Tensor:
    """Return ``(..., n, n)`` matrices that are symmetric but for rounding, symmetric to the bit.

    Example:
        >>> found = symmetric(torch.tensor([[1.0, 0.5], [0.5000001, 1.0]]))
        >>> bool((found == found.mT).all())
        True
    """
    return (matrices + matrices.mT) / 2


@dataclass(frozen=True)
class _Centred:
    """Samples about their mean: themselves ``(B, n, d)`` where they are few numbers, else their products ``(B, n, n)``.

    ``mean`` is ``(B, d)``, and ``norms`` are squared, ``(B, n)``.
    """

    values: Tensor
    norms: Tensor
    mean: Tensor
    wide: bool


def _centred(x: Tensor, dtype: torch.dtype) -> _Centred:
    if not is_wide(x):
        centred, mean = _about_mean(x, dtype)
        return _Centred(centred, torch.linalg.vector_norm(centred, dim=-1).square(), mean, wide=False)
    most = _BYTES_OF_A_CORE if x.device.type == "cpu" else _BYTES_OF_A_GPU
    size = max(1, most // (x.shape[-2] * x.shape[-1] * dtype.itemsize))
    pieces = [_product_about_mean(x[start : start + size], dtype) for start in range(0, len(x), size)]
    products, mean = (torch.cat(each) for each in zip(*pieces, strict=True))
    return _Centred(products, products.diagonal(dim1=-2, dim2=-1).clone(), mean, wide=True)


def _about_mean(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    x = x.to(dtype)
    mean = x.mean(dim=-2, keepdim=True)
    return x - mean, mean.squeeze(-2)


def _product_about_mean(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    centred, mean = _about_mean(x, dtype)
    return centred @ centred.mT, mean


def _expanded(samples: _Centred, across: Tensor, factor: Tensor) -> Tensor:
    """across_i + across_j + factor x_i x_j."""
    across, factor = across.unsqueeze(-1), factor.unsqueeze(-1)
    if samples.wide:
        return samples.values.mul_(factor).add_(across).add_(across.mT)
    return (across + across.mT).baddbmm_(samples.values * factor, samples.values.mT)


def upper_pairs(matrices: Tensor) -> Tensor:
    """Return the entries i < j of ``(B, n, n)`` matrices, row by row, as ``(B, n (n - 1) / 2)``.

    Example:
        >>> upper_pairs(torch.arange(9.0).reshape(1, 3, 3)).tolist()
        [[1.0, 2.0, 5.0]]
    """
    return matrices.flatten(-2).index_select(-1, _upper(matrices.shape[-1], matrices.device))


@functools.lru_cache(maxsize=4)
def _upper(n: int, device: torch.device) -> Tensor:
    rows, columns = torch.triu_indices(n, n, 1, device=device).unbind()
    return rows * n + columns
