"""How far the second moments of some images are from those of all images, by how much those of portions differ.

Positions of one image are alike, and a thousand of them say less than a thousand images do. How much less differs from
layer to layer: it is measured here, where a formula for independent samples would take each position for one of them.
With C_p the covariance of a portion of the images about the mean of all, and C that of all K portions, the expected
squared distance of C from the covariance of all images there could be is::

    K / (K - 1)  sum_p (n_p / n)^2 ||C_p - C||^2
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from infoprune.regression.normal_equations import NormalEquations

# Columns of a covariance that are compared; the others are taken to differ as much.
_COLUMNS = 32


@dataclass(frozen=True)
class PortionMoments:
    """Some columns of the covariance of the features on a portion of the images.

    Args:
        covariance: ``(g, F, c)`` float32, about the mean of the portion.
        mean: ``(g, F)`` float64.
        count: Number of positions.

    Example:
        >>> equations = NormalEquations.of(torch.zeros(1, 1, 1))
        >>> equations.add(torch.tensor([[[1.0, 3.0]]]), torch.zeros(1, 1, 2))
        >>> PortionMoments.of(equations).covariance.item()
        1.0
    """

    covariance: Tensor
    mean: Tensor
    count: int

    @classmethod
    def of(cls, equations: NormalEquations) -> PortionMoments:
        """Return those of the equations of a portion."""
        count = max(1, equations.count)
        mean = equations.features / count
        some = _some_columns(mean)
        about = equations.gram[:, :, some] / count - mean[:, :, None] * mean[:, None, some]
        return cls(about.float(), mean, equations.count)


def sampling_errors(portions: Sequence[PortionMoments]) -> Tensor | None:
    """Return ``(g,)``: the expected squared Frobenius distance of the covariance of all portions from the true one.

    ``None`` where there are fewer than two portions, which cannot be compared.

    Example:
        >>> equations = NormalEquations.of(torch.zeros(1, 1, 1))
        >>> equations.add(torch.tensor([[[1.0, 3.0]]]), torch.zeros(1, 1, 2))
        >>> sampling_errors([PortionMoments.of(equations)] * 2).item()
        0.0
    """
    portions = [one for one in portions if one.count]
    if len(portions) < 2:
        return None
    total = sum(one.count for one in portions)
    shares = [one.count / total for one in portions]
    mean = sum((share * one.mean for share, one in zip(shares, portions, strict=True)), torch.zeros(()))
    about = [_about(one, mean) for one in portions]
    of_all = sum((share * one for share, one in zip(shares, about, strict=True)), torch.zeros(()))
    apart = [share**2 * (one - of_all).square().sum(dim=(1, 2)) for share, one in zip(shares, about, strict=True)]
    columns = mean.shape[1] / of_all.shape[2]
    return torch.stack(apart).sum(dim=0) * columns * len(portions) / (len(portions) - 1)


def _about(portion: PortionMoments, mean: Tensor) -> Tensor:
    """Return the columns of a portion's covariance about another mean."""
    away = portion.mean - mean
    return portion.covariance.double() + away[:, :, None] * away[:, None, _some_columns(mean)]


def _some_columns(mean: Tensor) -> slice:
    return slice(None, None, max(1, mean.shape[1] // _COLUMNS))
