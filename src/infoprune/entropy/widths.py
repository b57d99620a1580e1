"""How wide the Gaussian kernel is: a number, a rule of thumb, the data's own scale, or the width the labels prefer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from infoprune.entropy.distances import (
    Distances,
    Which,
    check_variables,
    squared_distances,
    unit_distances,
    upper_pairs,
)
from infoprune.entropy.labels import Convention, exponent_scale, silverman_width
from infoprune.entropy.threads import in_chunks
from infoprune.entropy.ties import first_least, rounding
from infoprune.errors import InputError, unknown

Width: TypeAlias = float | Tensor | Literal["median", "mean", "silverman", "layer", "output", "alignment"]
WidthOf: TypeAlias = Callable[[Tensor, Tensor, Which], Tensor]

RULES = {
    "median": "each variable's median distance: free of scale, the default",
    "mean": "each variable's mean squared distance, by its root: free of scale, and for nothing",
    "silverman": "5 n^(-1/(4+d)), as published by the CMI work: depends on the scale of the maps",
    "layer": "s^2 = C/2 times the median squared distance: the joint of all C variables does not saturate",
    "output": "one width for all variables, at which the joint of all C falls to 1/e at the median distance between "
    "whole outputs: what varies more weighs more, and the joint does not saturate",
    "alignment": "one width for all variables, best aligned with the labels over the whole layer output (HRel)",
}


def median_width(x: Tensor) -> Tensor:
    """Return the median of the positive distances of each variable, 0 where all samples are alike.

    Distances of zero do not count: a ReLU leaves many maps alike (all zero), and a median over those pairs too would
    fall to zero, and the kernel to the identity, once most samples leave the filter silent.

    Args:
        x: ``(C, n, d)``.

    Returns:
        ``(C,)`` widths, in the unit of the features and the precision of ``x``.

    Raises:
        InputError: ``x`` has another shape or is not finite.

    Example:
        >>> import torch
        >>> median_width(torch.tensor([[[0.0], [1.0], [3.0]]])).tolist()
        [2.0]
    """
    check_variables(x)

    def widths(part: slice) -> Tensor:
        distances, unit = unit_distances(x[part])
        return (_median(distances) * unit).sqrt()

    return in_chunks(widths, x.shape, x.device)


def alignment_width(
    x: Tensor | Distances,
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
        x: ``(C, n, d)``: the whole layer output, taken as ONE variable of C d features; or ``(n, D)``; or the
            distances between the samples of C variables.
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

    Example:
        >>> x = torch.rand(1, 16, 4, generator=torch.Generator().manual_seed(0))
        >>> alignment_width(x, torch.arange(16) % 2, points=20) > 0
        True
    """
    if points < 1:
        raise InputError(f"the grid of widths has {points} points: it must have at least 1")
    distances = _whole_output_distances(x[None] if isinstance(x, Tensor) and x.ndim == 2 else x)
    if len(labels) != len(distances):
        raise InputError(f"there are {len(labels)} labels for {len(distances)} samples: there must be one for each")
    best = _best_aligned(distances, labels, points, smallest, exponent_scale(convention))
    return best if previous is None else decay * previous + (1 - decay) * best


def looks_at_distances(width: Width) -> bool:
    """Return whether the width of each variable follows from its own distances.

    Example:
        >>> looks_at_distances("median"), looks_at_distances(0.5)
        (True, False)
    """
    return isinstance(width, str) and width in _OF_DISTANCES


def squared_widths_of(width: Width, x: Tensor | Distances, convention: Convention, labels: Tensor | None) -> WidthOf:
    """Return the function from the distances of some of the variables to their squared widths.

    It takes the squared distances ``(B, n, n)``, the ``(B,)`` unit they are in, and which variables they are of, and
    returns ``(B,)`` squared widths, 0 for a variable whose samples are all alike.

    Args:
        width: A number, a ``(C,)`` tensor, or the name of a rule in ``RULES``.
        x: ``(C, n, d)``, all the variables, or the distances between their samples.
        convention: What the width is for.
        labels: ``(n,)``, for the rule ``"alignment"``.

    Raises:
        InputError: The rule is unknown, lacks the labels, or the numbers are not positive.

    Example:
        >>> x = torch.tensor([[[0.0], [2.0]]])
        >>> find = squared_widths_of(0.5, x, "2s2", None)
        >>> callable(find)
        True
    """
    count = len(x)
    if isinstance(width, str):
        if width in _OF_DISTANCES:
            typical, factor = _OF_DISTANCES[width], count / 2 if width == "layer" else 1.0
            return lambda distances, unit, part: typical(distances) * unit * factor
        width = _number(width, x, convention, labels)
    fixed = torch.as_tensor(width, dtype=torch.float64, device=x.device)
    if fixed.shape not in {(), (count,)} or not bool((torch.isfinite(fixed) & (fixed > 0)).all()):
        raise InputError(f"a kernel width must be a positive number, or one for each of the {count} variables")
    squared = fixed.square().expand(count)
    return lambda distances, unit, part: squared[part]


def _median(distances: Tensor) -> Tensor:
    n = distances.shape[-1]
    if n < 2:
        return distances.new_zeros(len(distances))
    pairs = upper_pairs(distances.detach())
    zeros = (pairs == 0).sum(dim=-1)
    ranks = zeros + (pairs.shape[-1] - zeros + 1) // 2 - 1
    if pairs.device.type != "cpu":
        return pairs.sort(dim=-1).values.gather(-1, ranks.unsqueeze(-1)).squeeze(-1)
    # The partition of NumPy, through the bridge that comes with torch, takes a tenth of the time of torch's median.
    for row, rank in zip(pairs.numpy(), ranks.tolist(), strict=True):
        row.partition(rank)
    return pairs.gather(-1, ranks.unsqueeze(-1)).squeeze(-1)


def _mean(distances: Tensor) -> Tensor:
    n = distances.shape[-1]
    return distances.detach().sum(dim=(-2, -1)) / max(n * (n - 1), 1)


# The typical squared distance of each rule that looks at each variable alone.
_OF_DISTANCES: dict[str, Callable[[Tensor], Tensor]] = {"median": _median, "mean": _mean, "layer": _median}


def _number(rule: str, x: Tensor | Distances, convention: Convention, labels: Tensor | None) -> float:
    if rule == "silverman":
        if isinstance(x, Distances):
            raise InputError("the width rule 'silverman' needs the number of features: give the variables")
        return silverman_width(x.shape[1], x.shape[2])
    if rule == "output":
        squared = float(_median(_whole_output_distances(x)[None])) * exponent_scale(convention)
        # Where the output is the same for all samples, any width gives ones.
        return math.sqrt(squared) or 1.0
    if rule != "alignment":
        raise unknown("width rule", rule, RULES)
    if labels is None:
        raise InputError("the width rule 'alignment' needs the labels: pass labels=")
    return alignment_width(x, labels, convention=convention)


def _whole_output_distances(x: Tensor | Distances) -> Tensor:
    # The squared distance of a concatenation is the sum over its parts: the layer output is never laid side by side.
    def summed(part: slice) -> Tensor:
        each = x[part].squared() if isinstance(x, Distances) else squared_distances(x[part].double())
        return each.sum(dim=0, keepdim=True)

    return in_chunks(summed, x.shape, x.device).sum(dim=0)


def _best_aligned(distances: Tensor, labels: Tensor, points: int, smallest: float, scale: float) -> float:
    mean = float(distances.sqrt().mean())
    grid = torch.linspace(smallest, max(10 * mean, smallest), points, dtype=torch.float64, device=distances.device)
    labels = labels.to(distances.device)
    same = labels[:, None] == labels[None, :]

    def alignments(some: slice) -> Tensor:
        K = torch.exp(-scale * distances / grid[some, None, None].square())
        return (K * same).sum(dim=(-2, -1)) / K.square().sum(dim=(-2, -1)).sqrt()

    found = in_chunks(alignments, (points, *distances.shape), distances.device)
    return float(grid[first_least(-found, rounding(found.dtype, distances.numel()) * float(found.max()))])
