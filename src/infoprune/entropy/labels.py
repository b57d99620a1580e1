"""The label kernel: 1 inside a class, one constant outside it, so its joint with anything falls into class blocks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from infoprune.errors import InputError, unknown

LabelKernel = float | Literal["indicator", "silverman"]
Convention = Literal["2s2", "s2"]


def silverman_width(samples: int, dimensions: int, h: float = 5.0) -> float:
    """Return the rule of thumb s = h n^(-1/(4+d)) of the CMI work (arXiv 2411.18578), h = 5 as published.

    It knows nothing of the scale of the data: see the documentation for what that does to a ranking.

    Example:
        >>> round(silverman_width(100, 4), 3)
        2.812
    """
    return float(h * samples ** (-1.0 / (4 + dimensions)))


def exponent_scale(convention: Convention) -> float:
    """Return the factor c of exp(-c d^2 / s^2): 1/2 for ``"2s2"`` (CMI), 1 for ``"s2"`` (HRel).

    Example:
        >>> exponent_scale("2s2"), exponent_scale("s2")
        (0.5, 1.0)
    """
    scales = {"2s2": 0.5, "s2": 1.0}
    if convention not in scales:
        raise unknown("convention of the Gaussian", str(convention), scales)
    return scales[convention]


@dataclass(frozen=True)
class ClassBlocks:
    """What the label kernel is once the samples are sorted by class.

    Args:
        order: ``(n,)`` sample indices, sorted by class, equal ones by index.
        members: ``(n, classes)`` float64, 1 where the sorted sample is of the class.
        counts: Samples of each class that occurs, in the order of the classes.
        outside: Kernel value between samples of different classes, in [0, 1); 0 is the same-class indicator.

    Example:
        >>> blocks = class_blocks(torch.tensor([1, 0, 1]))
        >>> blocks.samples, blocks.counts
        (3, (1, 2))
    """

    order: Tensor
    members: Tensor
    counts: tuple[int, ...]
    outside: float

    @property
    def samples(self) -> int:
        """Number of samples n."""
        return sum(self.counts)

    @property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """First and one-past-last sorted position of each class."""
        ends = torch.tensor(self.counts).cumsum(0).tolist()
        return tuple((end - count, end) for end, count in zip(ends, self.counts, strict=True))


def class_blocks(labels: Tensor, kernel: LabelKernel = "indicator", convention: Convention = "2s2") -> ClassBlocks:
    """Sort the samples by class and work out the label kernel.

    Args:
        labels: ``(n,)`` class indices.
        kernel: ``"indicator"``: 1 inside a class, 0 outside. ``"silverman"`` or a width s: the Gaussian kernel on
            one-hot labels, whose classes lie at squared distance 2, so exp(-2 / (2 s^2)) outside (CMI); the number
            of dimensions of the one-hot vectors is the largest label + 1.
        convention: How that Gaussian reads its width.

    Raises:
        InputError: The labels are not ``(n,)`` non-negative integers, or the kernel is unknown.

    Example:
        >>> class_blocks(torch.tensor([1, 0, 1])).order.tolist()
        [1, 0, 2]
    """
    _check(labels)
    if kernel == "indicator":
        outside = 0.0
    else:
        width = _label_width(labels, kernel)
        outside = math.exp(-2.0 * exponent_scale(convention) / width**2)
    sorted_labels, order = torch.sort(labels, stable=True)
    _, of_class, counts = torch.unique_consecutive(sorted_labels, return_inverse=True, return_counts=True)
    members = torch.nn.functional.one_hot(of_class).double()
    return ClassBlocks(order, members, tuple(int(count) for count in counts.tolist()), outside)


def label_gram(labels: Tensor, kernel: LabelKernel = "indicator", convention: Convention = "2s2") -> Tensor:
    """Return the ``(n, n)`` float64 Gram matrix of the labels, in the order of the samples.

    The arguments and errors are those of :func:`class_blocks`.

    Example:
        >>> import torch
        >>> label_gram(torch.tensor([0, 1, 0])).tolist()
        [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]
    """
    outside = class_blocks(labels, kernel, convention).outside
    same = labels[:, None] == labels[None, :]
    return torch.where(same, 1.0, torch.full((), outside, dtype=torch.float64, device=labels.device))


def label_spectrum(counts: tuple[int, ...], outside: float) -> Tensor:
    """Return the nonzero eigenvalues of K_Y / n, ``(classes,)`` float64, from what :class:`ClassBlocks` calls so.

    Example:
        >>> [round(value, 6) for value in label_spectrum((2, 2), outside=0.0).tolist()]
        [0.5, 0.5]
    """
    roots = torch.tensor(counts, dtype=torch.float64).div(sum(counts)).sqrt()
    small = torch.outer(roots, roots) * outside
    small.diagonal().copy_(roots.square())
    eigenvalues: Tensor = torch.linalg.eigvalsh(small)
    return eigenvalues


def _label_width(labels: Tensor, kernel: LabelKernel) -> float:
    if kernel == "silverman":
        return silverman_width(labels.numel(), int(labels.max()) + 1)
    if isinstance(kernel, str):
        raise unknown("label kernel", kernel, ["indicator", "silverman"])
    width = float(kernel)
    if not width > 0 or not math.isfinite(width):
        raise InputError(f"the width of the label kernel is {width}: it must be a positive number")
    return width


def _check(labels: Tensor) -> None:
    if labels.ndim != 1 or labels.numel() == 0:
        raise InputError(f"labels have the shape {tuple(labels.shape)}: they must be (n,) class indices, n >= 1")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise InputError(f"labels are {labels.dtype}: they must be integers, one class index per sample")
    if int(labels.min()) < 0:
        raise InputError("labels hold negative numbers: class indices start at 0")
