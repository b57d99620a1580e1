"""Matrix-based Rényi entropy of Gram matrices, and what is made of it: joint entropy, information, relevance."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from infoprune.entropy.distances import chunks
from infoprune.entropy.kernels import Kernel, gram_of
from infoprune.entropy.labels import ClassBlocks, Convention, LabelKernel, class_blocks, label_spectrum
from infoprune.entropy.threads import over_chunks
from infoprune.entropy.widths import Width
from infoprune.errors import InputError, unknown

Unit: TypeAlias = Literal["bits", "nats"]


def entropy_of_spectrum(eigenvalues: Tensor, alpha: float = 1.01, unit: Unit = "bits") -> Tensor:
    """Return S_a = log(sum_i l_i^a) / (1 - a), l the eigenvalues brought to the sum 1; continuous through a = 1.

    Negative eigenvalues are rounding and count as 0. Near a = 1 the sum is taken as 1 + sum l expm1((a-1) ln l), so
    that no digit is lost to the division by 1 - a.

    Args:
        eigenvalues: ``(..., n)``.
        alpha: Order in (0, inf]; 1 is the von Neumann entropy, infinity minus the log of the largest eigenvalue.
        unit: ``"bits"`` or ``"nats"``.

    Returns:
        ``(...)``.

    Raises:
        InputError: ``alpha`` or ``unit`` is not one of these.
    """
    check_order(alpha)
    shares = eigenvalues.clamp(min=0)
    shares = shares / shares.sum(dim=-1, keepdim=True)
    if alpha < 1:
        # The power a < 1 blows rounding up: what lies below it is no eigenvalue.
        rounding = shares.shape[-1] * torch.finfo(shares.dtype).eps * shares.amax(dim=-1, keepdim=True)
        shares = torch.where(shares > rounding, shares, 0.0)
    return _nats(shares, alpha) * in_unit(unit)


def entropy(K: Tensor, alpha: float = 1.01, unit: Unit = "bits") -> Tensor:
    """Return S_a(K / tr K), the matrix-based Rényi entropy (Sanchez Giraldo et al., IEEE TIT 2015).

    a = 2, and small integers, take matrix products instead of eigenvalues.

    Args:
        K: ``(..., n, n)`` symmetric, positive semi-definite; unit diagonal unless you know why not.
        alpha: Order in (0, inf]; 1 is the von Neumann entropy.
        unit: ``"bits"`` or ``"nats"``.

    Returns:
        ``(...)`` in [0, log n].

    Raises:
        InputError: ``K`` is not square, or ``alpha`` or ``unit`` is not one of these.
    """
    check_order(alpha)
    if K.ndim < 2 or K.shape[-1] != K.shape[-2] or K.shape[-1] == 0:
        raise InputError(f"the Gram matrix has the shape {tuple(K.shape)}: it must be (..., n, n)")
    flat = K.reshape(-1, *K.shape[-2:])
    parts = over_chunks(lambda part: _entropy(flat[part], alpha), chunks(len(flat), K.shape[-1]))
    return torch.cat(parts).reshape(K.shape[:-2]) * in_unit(unit)


def joint_entropy(*grams: Tensor, alpha: float = 1.01, unit: Unit = "bits") -> Tensor:
    """Return the joint entropy of several variables: S_a of the Hadamard product of their Gram matrices.

    Args:
        grams: Each ``(..., n, n)``, unit diagonal (without it the product is no joint); shapes broadcast.
        alpha: Order in (0, inf].
        unit: ``"bits"`` or ``"nats"``.

    Returns:
        ``(...)``.

    Raises:
        InputError: There is no Gram matrix, or as for :func:`entropy`.
    """
    if not grams:
        raise InputError("joint_entropy was given no Gram matrix: it needs at least one")
    product = grams[0]
    for K in grams[1:]:
        product = product * K
    return entropy(product, alpha, unit)


def mutual_information(K: Tensor, L: Tensor, alpha: float = 1.01, unit: Unit = "bits") -> Tensor:
    """Return I(X;Y) = S(X) + S(Y) - S(X,Y) of the variables whose Gram matrices are K and L.

    Never clipped: for every a but 1 it can be slightly negative.

    Args:
        K: ``(..., n, n)``, unit diagonal.
        L: ``(..., n, n)``, unit diagonal; the shapes broadcast.
        alpha: Order in (0, inf].
        unit: ``"bits"`` or ``"nats"``.

    Returns:
        ``(...)``.

    Raises:
        InputError: As for :func:`entropy`.
    """
    return entropy(K, alpha, unit) + entropy(L, alpha, unit) - joint_entropy(K, L, alpha=alpha, unit=unit)


def conditional_mutual_information(
    K: Tensor, L: Tensor, given: Tensor, alpha: float = 1.01, unit: Unit = "bits"
) -> Tensor:
    """Return I(X;Y|Z) = S(X,Z) + S(Y,Z) - S(X,Y,Z) - S(Z); never clipped, see :func:`mutual_information`.

    Args:
        K: ``(..., n, n)`` Gram matrix of X, unit diagonal.
        L: ``(..., n, n)`` Gram matrix of Y.
        given: ``(..., n, n)`` Gram matrix of Z: of several variables, their Hadamard product.
        alpha: Order in (0, inf].
        unit: ``"bits"`` or ``"nats"``.

    Returns:
        ``(...)``.

    Raises:
        InputError: As for :func:`entropy`.
    """
    one_known = joint_entropy(K, given, alpha=alpha, unit=unit) + joint_entropy(L, given, alpha=alpha, unit=unit)
    return one_known - joint_entropy(K, L, given, alpha=alpha, unit=unit) - entropy(given, alpha, unit)


def relevance(
    maps: Tensor,
    labels: Tensor,
    alpha: float = 1.01,
    width: Width = "median",
    *,
    kernel: Kernel = "gaussian",
    convention: Convention = "2s2",
    label_kernel: LabelKernel = "indicator",
    unit: Unit = "bits",
) -> Tensor:
    """Return the information I(X_c; Y) each feature map carries about the labels.

    Args:
        maps: ``(C, n, d)``; feature maps ``(n, C, H, W)`` become this by :func:`~infoprune.entropy.variables`.
        labels: ``(n,)`` class indices.
        alpha: Order in (0, inf].
        width: As for :func:`~infoprune.entropy.gram`.
        kernel: As for :func:`~infoprune.entropy.gram`.
        convention: As for :func:`~infoprune.entropy.gram`; also of the label kernel.
        label_kernel: ``"indicator"``, ``"silverman"`` or a width on one-hot labels.
        unit: ``"bits"`` or ``"nats"``.

    Returns:
        ``(C,)`` float64. A dead map has 0.

    Raises:
        InputError: Shapes do not fit, values are not finite, or a name is unknown.
    """
    check_order(alpha)
    blocks = class_blocks(labels, label_kernel, convention)
    check_samples(maps, labels)
    make = gram_of(maps[:, blocks.order], kernel, width, convention, labels[blocks.order], torch.float64)
    parts = over_chunks(lambda part: equivocation(make(part), blocks, alpha), chunks(len(maps), maps.shape[1]))
    return (label_entropy(blocks, alpha) - torch.cat(parts)) * in_unit(unit)


def label_entropy(blocks: ClassBlocks, alpha: float) -> float:
    """Return S(Y) in nats."""
    return float(entropy_of_spectrum(label_spectrum(blocks), alpha, "nats"))


def equivocation(K: Tensor, blocks: ClassBlocks, alpha: float) -> Tensor:
    """Return S(X,Y) - S(X), what is left to know of the labels, in nats.

    Args:
        K: ``(B, n, n)`` Gram matrices whose samples are sorted by class.
        blocks: The classes.
        alpha: Order in (0, inf].

    Returns:
        ``(B,)``.
    """
    return joint_with_labels(K, blocks, alpha) - _entropy(K, alpha)


def joint_with_labels(K: Tensor, blocks: ClassBlocks, alpha: float) -> Tensor:
    """Return S(X,Y) in nats of ``(B, n, n)`` Gram matrices whose samples are sorted by class, as ``(B,)``.

    Under the indicator the spectrum of K o K_Y is that of its class blocks; otherwise K o K_Y is
    (1 - r) blockdiag(K) + r K, of full size.
    """
    if blocks.outside > 0:
        joint = K * blocks.outside
        for start, end in blocks.edges:
            joint[..., start:end, start:end] = K[..., start:end, start:end]
        return _entropy(joint, alpha)
    if alpha == 2:
        squares = [K[..., start:end, start:end].square().sum(dim=(-2, -1)) for start, end in blocks.edges]
        return 2 * math.log(blocks.samples) - torch.stack(squares).sum(dim=0).log()
    spectra = []
    for size in sorted(set(blocks.counts)):
        same = [K[..., start:end, start:end] for start, end in blocks.edges if end - start == size]
        spectra.append(spectrum(torch.stack(same, dim=-3)).flatten(-2))
    return entropy_of_spectrum(torch.cat(spectra, dim=-1), alpha, "nats")


def spectrum(K: Tensor) -> Tensor:
    """Return the eigenvalues ``(..., n)``, on a CPU whatever the device: batched solvers on CUDA run one by one."""
    eigenvalues: Tensor = torch.linalg.eigvalsh(K.cpu())
    return eigenvalues.to(K.device)


def pairwise_redundancy(
    maps: Tensor,
    width: Width = "median",
    *,
    kernel: Kernel = "gaussian",
    convention: Convention = "2s2",
    unit: Unit = "bits",
) -> Tensor:
    """Return the information I(X_a; X_b) of order 2 between every two feature maps, by one matrix product.

    Args:
        maps: ``(C, n, d)``.
        width: As for :func:`~infoprune.entropy.gram`; without the rule ``"alignment"``, which needs labels.
        kernel: As for :func:`~infoprune.entropy.gram`.
        convention: As for :func:`~infoprune.entropy.gram`.
        unit: ``"bits"`` or ``"nats"``.

    Returns:
        ``(C, C)`` float64, symmetric. The diagonal is I(X;X) = 2 S(X) - S(X,X), which is not S(X).

    Raises:
        InputError: As for :func:`~infoprune.entropy.gram`.
    """
    n = maps.shape[1]
    make = gram_of(maps, kernel, width, convention, None, torch.float64)
    squares = torch.cat(over_chunks(lambda part: make(part).square().flatten(1).float(), chunks(len(maps), n)))
    joint = 2 * math.log(n) - (squares @ squares.T).double().log()
    single = 2 * math.log(n) - squares.double().sum(dim=1).log()
    return (single[:, None] + single[None, :] - joint) * in_unit(unit)


def _nats(shares: Tensor, alpha: float) -> Tensor:
    if alpha == 1:
        return torch.special.entr(shares).sum(dim=-1)
    if math.isinf(alpha):
        return -shares.amax(dim=-1).log()
    present = shares > 0
    logs = torch.where(present, shares, 1.0).log()
    if abs(alpha - 1) < 0.5:
        return torch.log1p((shares * torch.expm1((alpha - 1) * logs)).sum(dim=-1)) / (1 - alpha)
    powers: Tensor = torch.logsumexp(torch.where(present, alpha * logs, -torch.inf), dim=-1)
    return powers / (1 - alpha)


def in_unit(unit: Unit) -> float:
    """Return what one nat is worth in that unit.

    Raises:
        InputError: The unit is neither ``"bits"`` nor ``"nats"``.
    """
    if unit not in {"bits", "nats"}:
        raise unknown("unit", str(unit), ["bits", "nats"])
    return 1 / math.log(2) if unit == "bits" else 1.0


def check_samples(maps: Tensor, labels: Tensor) -> None:
    """Refuse maps and labels that are not of the same samples.

    Raises:
        InputError: They are not.
    """
    if maps.ndim != 3:
        raise InputError(f"the feature maps have the shape {tuple(maps.shape)}: they must be (C, n, d)")
    if maps.shape[1] != len(labels):
        raise InputError(f"there are {len(labels)} labels for {maps.shape[1]} samples: there must be one for each")


def check_order(alpha: float) -> None:
    """Refuse an order outside (0, inf].

    Raises:
        InputError: It lies outside.
    """
    if not alpha > 0:
        raise InputError(f"the order alpha is {alpha}: it must lie in (0, inf]")


def _entropy(K: Tensor, alpha: float) -> Tensor:
    if alpha == 2:
        trace = K.diagonal(dim1=-2, dim2=-1).sum(dim=-1)
        return 2 * trace.log() - K.square().sum(dim=(-2, -1)).log()
    return entropy_of_spectrum(spectrum(K), alpha, "nats")
