"""Squared distances between the samples of many variables at once, by matrix products."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

from infoprune.errors import InputError

# Some of several variables: a run of them, or their indices.
Which: TypeAlias = slice | Tensor

# Entries of (n, n) matrices worked on at a time by one worker: 8 MiB in float64.
_CHUNK_ENTRIES = 1 << 20


def variables(maps: Tensor) -> Tensor:
    """Return the feature maps ``(n, C, ...)`` of a layer as C variables ``(C, n, d)``, each map laid flat.

    Raises:
        InputError: There is no channel axis.
    """
    if maps.ndim < 2:
        raise InputError(f"feature maps have the shape {tuple(maps.shape)}: they must be (n, C, ...)")
    return maps.reshape(*maps.shape[:2], -1).movedim(1, 0)


def check_variables(x: Tensor) -> None:
    """Refuse what is not ``(C, n, d)`` finite real numbers.

    Raises:
        InputError: It is not.
    """
    if x.ndim != 3 or 0 in x.shape:
        raise InputError(f"the variables have the shape {tuple(x.shape)}: they must be (C, n, d), none of them 0")
    if not x.is_floating_point():
        raise InputError(f"the variables are {x.dtype}: they must be floating point")
    if not torch.isfinite(x.sum()) and not torch.isfinite(x).all():
        raise InputError("the variables hold NaN or infinity: look for a network that diverged or half precision")


def squared_distances(x: Tensor) -> Tensor:
    """Return the squared Euclidean distances between the samples of each variable, by one matrix product.

    The features are centred first, without which the product loses every digit to a common offset. Nothing is
    negative, the diagonal and the distances between copies of a sample are exactly 0.

    Args:
        x: ``(..., n, d)``, floating point.

    Returns:
        ``(..., n, n)`` in the precision of ``x``.
    """
    centred = x - x.mean(dim=-2, keepdim=True)
    product = centred @ centred.mT
    norms = product.diagonal(dim1=-2, dim2=-1)
    distances = norms.unsqueeze(-1) + norms.unsqueeze(-2) - 2 * product
    rounding = 8 * torch.finfo(x.dtype).eps * norms.amax(dim=-1)
    return torch.where(distances > rounding[..., None, None], distances, 0.0)


def chunks(variables: int, samples: int) -> list[slice]:
    """Cut the variables into runs whose ``(n, n)`` matrices stay within one bound of memory."""
    size = max(1, _CHUNK_ENTRIES // samples**2)
    return [slice(start, min(start + size, variables)) for start in range(0, variables, size)]
