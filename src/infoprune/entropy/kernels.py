"""Gram matrices of many variables at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from infoprune.entropy.distances import (
    LOWEST_EXPONENT,
    Distances,
    Which,
    check_finite,
    check_variables,
    exponents,
    is_wide,
    symmetric,
    unit_distances,
)
from infoprune.entropy.labels import Convention, exponent_scale
from infoprune.entropy.threads import in_chunks
from infoprune.entropy.widths import Width, looks_at_distances, squared_widths_of
from infoprune.errors import InputError, unknown

Kernel: TypeAlias = Literal["gaussian", "cosine"]
GramOf: TypeAlias = Callable[[Which], Tensor]


def cosine_factor(x: Tensor) -> Tensor:
    """Return U ``(..., n, d + 1)`` with unit rows and U U^T the cosine kernel: all-zero samples get their own axis.

    Example:
        >>> cosine_factor(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).norm(dim=-1).tolist()
        [1.0, 1.0]
    """
    norms = x.norm(dim=-1, keepdim=True)
    check_finite(norms)
    silent = norms == 0
    return torch.cat([x / torch.where(silent, 1.0, norms), silent.to(x.dtype)], dim=-1)


def cosine(x: Tensor) -> Tensor:
    """Return the cosine between the samples of each variable; all-zero samples are alike, and unlike all others.

    Args:
        x: ``(..., n, d)``, floating point.

    Returns:
        ``(..., n, n)``, unit diagonal, positive semi-definite.

    Example:
        >>> cosine(torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])).tolist()
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    factor = cosine_factor(x)
    product = factor @ factor.mT
    unit = torch.eye(x.shape[-2], dtype=torch.bool, device=x.device)
    return torch.where(unit, 1.0, product)


@dataclass(frozen=True)
class KernelRule:
    """How Gram matrices are made of variables; the words are those of :func:`gram`.

    Example:
        >>> KernelRule(width=0.5).kernel
        'gaussian'
    """

    kernel: Kernel = "gaussian"
    width: Width = "median"
    convention: Convention = "2s2"
    labels: Tensor | None = None


def gram_of(
    x: Tensor | Distances,
    rule: KernelRule,
    dtype: torch.dtype = torch.float64,
    *,
    order: Tensor | None = None,
    power: int = 1,
    logarithm: bool = False,
) -> GramOf:
    """Return the function from some of the C variables ``x`` to their Gram matrices; for work in chunks.

    Args:
        x: ``(C, n, d)``, or for a Gaussian kernel of fixed width the distances between the samples.
        rule: Which kernel.
        dtype: Precision of the result and of all that leads to it.
        order: ``(n,)`` permutation that the samples are brought into, chunk by chunk.
        power: Give the entries to that power: order 2 needs the squares, which cost no more than the entries.
            In single precision they may exceed 1 by rounding.
        logarithm: Give the logarithms of the entries; of a Gaussian kernel only.

    Raises:
        InputError: As for :func:`gram`, or the kernel has no logarithm.

    Example:
        >>> x = torch.tensor([[[0.0], [1.0]], [[0.0], [2.0]]])
        >>> gram_of(x, KernelRule(width=1.0))(slice(0, 2)).shape
        torch.Size([2, 2, 2])
    """
    if isinstance(x, Distances):
        return _of_distances(x, rule, dtype, order, power, logarithm=logarithm)
    check_variables(x)

    def samples(part: Which) -> Tensor:
        return x[part] if order is None else x[part].index_select(1, order)

    if rule.kernel != "gaussian":
        _check_cosine(rule.kernel, logarithm=logarithm)
        return lambda part: cosine(samples(part).to(dtype)).pow(power)
    squared_widths = squared_widths_of(rule.width, x, rule.convention, rule.labels)
    scale = power * exponent_scale(rule.convention)

    def precisely(part: Which) -> Tensor:
        # Where there are more features than samples, it is the distances that are brought into order.
        distances, unit = unit_distances(x[part] if is_wide(x) else samples(part), torch.float64)
        rates = _rates(scale, unit, squared_widths(distances, unit, part))
        if order is not None and is_wide(x):
            distances = _ordered(distances, order)
        return distances.mul_(-rates[:, None, None]).to(dtype)

    def quickly(part: Which) -> Tensor:
        some = samples(part)
        found, trusted = exponents(some, scale / squared_widths(some, some, part), torch.float32)
        if bool(trusted.all()):
            return found
        others = (~trusted).nonzero()
        indices = _indices(part, len(x), x.device)
        exact = torch.cat([precisely(indices[each]) for each in others]).clamp_(min=LOWEST_EXPONENT)
        return found.index_copy_(0, others.squeeze(-1), exact)

    # A width that is a rank among the distances must not change with their rounding, so they are taken precisely.
    if dtype == torch.float32 and not looks_at_distances(rule.width):
        return quickly if logarithm else lambda part: quickly(part).exp_()
    return precisely if logarithm else lambda part: exp_(precisely(part))


def _of_distances(
    x: Distances, rule: KernelRule, dtype: torch.dtype, order: Tensor | None, power: int, *, logarithm: bool
) -> GramOf:
    if rule.kernel != "gaussian":
        raise InputError(f"distances between samples make no kernel '{rule.kernel}': give the variables")
    squared_widths = squared_widths_of(rule.width, x, rule.convention, rule.labels)
    scale = power * exponent_scale(rule.convention)

    def powers(part: Which) -> Tensor:
        some = x[part]
        rates = _rates(scale, some.unit, squared_widths(some.values, some.unit, part))
        distances = some.values if order is None else _ordered(some.values, order)
        return distances.mul(-rates[:, None, None]).to(dtype)

    return powers if logarithm else lambda part: exp_(powers(part))


def _check_cosine(kernel: str, *, logarithm: bool) -> None:
    if kernel != "cosine":
        raise unknown("kernel", kernel, ["gaussian", "cosine"])
    if logarithm:
        raise InputError("the geometric mean of Gram matrices needs the Gaussian kernel: a cosine can be negative")


def _rates(scale: float, unit: Tensor, squared_widths: Tensor) -> Tensor:
    return torch.where(squared_widths > 0, scale * unit / squared_widths, 0.0)


def _ordered(matrices: Tensor, order: Tensor) -> Tensor:
    return matrices.index_select(1, order).index_select(2, order)


def _indices(part: Which, count: int, device: torch.device) -> Tensor:
    return torch.arange(count, device=device)[part] if isinstance(part, slice) else part


def exp_(powers: Tensor) -> Tensor:
    """Return exp of what is not positive, in place, and of nothing that gives numbers processors are slow with.

    Example:
        >>> exp_(torch.tensor([0.0, -1000.0], dtype=torch.float64))[0].item()
        1.0
    """
    return powers.clamp_(min=-87.0 if powers.dtype == torch.float32 else -300.0, max=0.0).exp_()


def gram(
    x: Tensor,
    kernel: Kernel = "gaussian",
    width: Width = "median",
    *,
    convention: Convention = "2s2",
    labels: Tensor | None = None,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Return the Gram matrices of C variables, unit diagonal always.

    Args:
        x: ``(C, n, d)``: C variables, n samples each, d features; ``(n, d)`` is one variable. Feature maps
            ``(n, C, H, W)`` become this by :func:`~infoprune.entropy.variables`.
        kernel: ``"gaussian"`` or ``"cosine"`` (the linear kernel with its diagonal brought to 1).
        width: Width s of the Gaussian: a positive number, a ``(C,)`` tensor, or a rule: ``"median"`` (each
            variable's median positive distance), ``"mean"`` (the root of its mean squared distance), ``"silverman"``
            (5 n^(-1/(4+d))), ``"layer"`` (s^2 = C/2 times the median squared distance), ``"output"`` (one width for
            all, at which their joint is 1/e at the median distance between whole outputs) or ``"alignment"`` (one
            width for all, best aligned with the labels, see :func:`~infoprune.entropy.alignment_width`).
        convention: ``"2s2"``: exp(-d^2 / (2 s^2)) (arXiv 2411.18578). ``"s2"``: exp(-d^2 / s^2) (arXiv 2202.10716).
        labels: ``(n,)`` class indices, for the rule ``"alignment"``.
        dtype: Precision of the result and of all that leads to it.

    Returns:
        ``(C, n, n)``, or ``(n, n)`` for one variable, symmetric to the bit. A variable whose samples are all
        alike gives ones.

    Raises:
        InputError: ``x`` has another shape or is not finite; the kernel, the width or the convention is unknown.

    Example:
        >>> import torch
        >>> gram(torch.tensor([[[0.0], [1.0]]]), width=1.0).shape
        torch.Size([1, 2, 2])
    """
    if x.ndim == 2:
        return gram(x[None], kernel, width, convention=convention, labels=labels, dtype=dtype)[0]
    make = gram_of(x, KernelRule(kernel, width, convention, labels), dtype)
    return in_chunks(lambda part: symmetric(make(part).clamp(max=1.0)), x.shape, x.device)
