"""Gram matrices of many variables at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from infoprune.entropy.distances import Which, check_variables, chunks, squared_distances
from infoprune.entropy.labels import Convention, exponent_scale
from infoprune.entropy.threads import over_chunks
from infoprune.entropy.widths import Width, width_of
from infoprune.errors import unknown

Kernel: TypeAlias = Literal["gaussian", "cosine"]
GramOf: TypeAlias = Callable[[Which], Tensor]


def gaussian(distances: Tensor, widths: Tensor, convention: Convention = "2s2") -> Tensor:
    """Return exp(-d^2 / (2 s^2)), or exp(-d^2 / s^2) under ``"s2"``; a width of 0 gives ones (a dead map).

    Args:
        distances: ``(..., n, n)`` squared distances.
        widths: ``(...)``, one width s per variable.
        convention: Which of the two published forms.
    """
    rates = torch.where(widths > 0, exponent_scale(convention) / widths.square(), 0.0)
    return torch.exp(distances * -rates.to(distances.dtype)[..., None, None])


def cosine_factor(x: Tensor) -> Tensor:
    """Return U ``(..., n, d + 1)`` with unit rows and U U^T the cosine kernel: all-zero samples get their own axis."""
    norms = x.norm(dim=-1, keepdim=True)
    silent = norms == 0
    return torch.cat([x / torch.where(silent, 1.0, norms), silent.to(x.dtype)], dim=-1)


def cosine(x: Tensor) -> Tensor:
    """Return the cosine between the samples of each variable; all-zero samples are alike, and unlike all others.

    Args:
        x: ``(..., n, d)``, floating point.

    Returns:
        ``(..., n, n)``, unit diagonal, positive semi-definite.
    """
    factor = cosine_factor(x)
    product = factor @ factor.mT
    unit = torch.eye(x.shape[-2], dtype=torch.bool, device=x.device)
    return torch.where(unit, 1.0, product)


def gram_of(
    x: Tensor, kernel: Kernel, width: Width, convention: Convention, labels: Tensor | None, dtype: torch.dtype
) -> GramOf:
    """Return the function from some of the C variables ``x`` to their Gram matrices; for work in chunks.

    The arguments and errors are those of :func:`gram`.
    """
    check_variables(x)
    if kernel == "cosine":
        return lambda part: cosine(x[part].to(dtype))
    if kernel != "gaussian":
        raise unknown("kernel", str(kernel), ["gaussian", "cosine"])
    widths = width_of(width, x, convention, labels)

    def gaussian_gram(part: Which) -> Tensor:
        distances = squared_distances(x[part].to(dtype))
        return gaussian(distances, widths(distances, part), convention)

    return gaussian_gram


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
            variable's median distance), ``"silverman"`` (5 n^(-1/(4+d))), ``"layer"`` (s^2 = C/2 times the median
            squared distance) or ``"alignment"`` (one width for all, best aligned with the labels).
        convention: ``"2s2"``: exp(-d^2 / (2 s^2)) (arXiv 2411.18578). ``"s2"``: exp(-d^2 / s^2) (arXiv 2202.10716).
        labels: ``(n,)`` class indices, for the rule ``"alignment"``.
        dtype: Precision of the result and of all that leads to it.

    Returns:
        ``(C, n, n)``, or ``(n, n)`` for one variable. A variable whose samples are all alike gives ones.

    Raises:
        InputError: ``x`` has another shape or is not finite; the kernel, the width or the convention is unknown.
    """
    if x.ndim == 2:
        return gram(x[None], kernel, width, convention=convention, labels=labels, dtype=dtype)[0]
    make = gram_of(x, kernel, width, convention, labels, dtype)
    return torch.cat(over_chunks(make, chunks(len(x), x.shape[1])))
