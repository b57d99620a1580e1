"""How wide the Gaussian kernel is: a number, a rule of thumb, the data's own scale, or the width the labels prefer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from infoprune.entropy.distances import Which, chunks, squared_distances
from infoprune.entropy.labels import Convention, exponent_scale, silverman_width
from infoprune.entropy.threads import over_chunks
from infoprune.errors import InputError, unknown

Width: TypeAlias = float | Tensor | Literal["median", "silverman", "layer", "alignment"]
WidthOf: TypeAlias = Callable[[Tensor, Which], Tensor]

RULES = {
    "median": "each variable's median distance: free of scale, the default",
    "silverman": "5 n^(-1/(4+d)), as published by the CMI work: depends on the scale of the maps",
    "layer": "s^2 = C/2 times the median squared distance: the joint of all C variables does not saturate",
    "alignment": "one width for all variables, best aligned with the labels over the whole layer output (HRel)",
}


def median_width(distances: Tensor) -> Tensor:
    """Return the median of the positive distances of each variable, 0 where all samples are alike.

    Distances of zero do not count: a ReLU leaves many maps alike (all zero), and a median over those pairs too would
    fall to zero, and the kernel to the identity, once most samples leave the filter silent.

    Args:
        distances: ``(..., n, n)`` squared distances.

    Returns:
        ``(...)`` widths, in the unit of the features.
    """
    n = distances.shape[-1]
    if n < 2:
        return distances.new_zeros(distances.shape[:-2])
    rows, columns = torch.triu_indices(n, n, 1, device=distances.device)
    pairs = distances[..., rows, columns]
    median = torch.where(pairs > 0, pairs, torch.nan).nanmedian(dim=-1).values
    return median.nan_to_num(0.0).sqrt()


def alignment_width(
    x: Tensor,
    labels: Tensor,
    *,
    points: int = 300,
    smallest: float = 0.3,
    convention: Convention = "s2",
    previous: float | None = None,
    decay: float = 0.9,
) -> float:
    """Return the width whose Gram matrix is best aligned with the labels (HRel, arXiv 2202.10716).

    The width maximises <K, K_Y> / (|K| |K_Y|) over ``linspace(smallest, 10 * mean distance, points)``, ties to the
    narrowest. HRel takes 300 points at first and 100 later, and smooths over iterations or batches.

    Args:
        x: ``(C, n, d)``: the whole layer output, taken as ONE variable of C d features; or ``(n, D)``.
        labels: ``(n,)`` class indices; K_Y is the same-class indicator.
        points: Number of grid points.
        smallest: The narrowest width tried.
        convention: ``"s2"`` exp(-d^2 / s^2) as in HRel, or ``"2s2"`` exp(-d^2 / (2 s^2)).
        previous: The smoothed width so far; None gives the new width alone.
        decay: Share of ``previous`` in what is returned.

    Returns:
        The width, in the unit of the features.

    Raises:
        InputError: Shapes do not fit, or ``points`` is less than 1.
    """
    if points < 1:
        raise InputError(f"the grid of widths has {points} points: it must have at least 1")
    distances = _whole_output_distances(x if x.ndim == 3 else x[None])
    if len(labels) != len(distances):
        raise InputError(f"there are {len(labels)} labels for {len(distances)} samples: there must be one for each")
    best = _best_aligned(distances, labels, points, smallest, exponent_scale(convention))
    return best if previous is None else decay * previous + (1 - decay) * best


def width_of(width: Width, x: Tensor, convention: Convention, labels: Tensor | None) -> WidthOf:
    """Return the function from the squared distances of some of the variables to their widths.

    Args:
        width: A number, a ``(C,)`` tensor, or the name of a rule in ``RULES``.
        x: ``(C, n, d)``, all the variables.
        convention: What the width is for.
        labels: ``(n,)``, for the rule ``"alignment"``.

    Raises:
        InputError: The rule is unknown, lacks the labels, or the numbers are not positive.
    """
    count = len(x)
    if isinstance(width, str):
        if width == "median":
            return lambda distances, part: median_width(distances)
        if width == "layer":
            return lambda distances, part: median_width(distances) * (count / 2) ** 0.5
        width = _number(width, x, convention, labels)
    fixed = torch.as_tensor(width, dtype=torch.float64, device=x.device)
    if fixed.shape not in {(), (count,)} or not bool((torch.isfinite(fixed) & (fixed > 0)).all()):
        raise InputError(f"a kernel width must be a positive number, or one for each of the {count} variables")
    fixed = fixed.expand(count)
    return lambda distances, part: fixed[part]


def _number(rule: str, x: Tensor, convention: Convention, labels: Tensor | None) -> float:
    if rule == "silverman":
        return silverman_width(x.shape[1], x.shape[2])
    if rule != "alignment":
        raise unknown("width rule", rule, RULES)
    if labels is None:
        raise InputError("the width rule 'alignment' needs the labels: pass labels=")
    return alignment_width(x, labels, convention=convention)


def _whole_output_distances(x: Tensor) -> Tensor:
    # The squared distance of a concatenation is the sum over its parts: the layer output is never laid side by side.
    parts = over_chunks(lambda part: squared_distances(x[part].double()).sum(dim=0), chunks(len(x), x.shape[1]))
    return torch.stack(parts).sum(dim=0)


def _best_aligned(distances: Tensor, labels: Tensor, points: int, smallest: float, scale: float) -> float:
    mean = float(distances.sqrt().mean())
    grid = torch.linspace(smallest, max(10 * mean, smallest), points, dtype=torch.float64, device=distances.device)
    same = labels[:, None] == labels[None, :]

    def alignments(some: slice) -> Tensor:
        K = torch.exp(-scale * distances / grid[some, None, None].square())
        return (K * same).sum(dim=(-2, -1)) / K.square().sum(dim=(-2, -1)).sqrt()

    return float(grid[torch.cat(over_chunks(alignments, chunks(points, len(distances)))).argmax()])
