"""Matrix-based Rényi entropy of Gram matrices, and what is made of it: joint entropy and information."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from infoprune.entropy.copies import distinct
from infoprune.entropy.distances import check_variables, symmetric, upper_pairs
from infoprune.entropy.kernels import Kernel, KernelRule, gram_of
from infoprune.entropy.labels import Convention
from infoprune.entropy.precision import full_precision
from infoprune.entropy.spectrum import check_order, nats_of_gram, nats_of_spectrum
from infoprune.entropy.threads import in_chunks
from infoprune.entropy.widths import Width
from infoprune.errors import InputError, unknown

Unit: TypeAlias = Literal["bits", "nats"]


def entropy_of_spectrum(eigenvalues: Tensor, alpha: float = 1.01, unit: Unit = "bits") -> Tensor:
    """Return S_a = log(sum_i l_i^a) / (1 - a), l the eigenvalues brought to the sum 1; continuous through a = 1.

    Args:
        eigenvalues: ``(..., n)``; negative ones are rounding and count as 0.
        alpha: Order in (0, inf]; 1 is the von Neumann entropy, infinity minus the log of the largest eigenvalue.
        unit: ``"bits"`` or ``"nats"``.

    Returns:
        ``(...)``.

    Raises:
        InputError: ``alpha`` or ``unit`` is not one of these.

    Example:
        >>> import torch
        >>> round(float(entropy_of_spectrum(torch.tensor([0.5, 0.5]))), 3)
        1.0
    """
    check_order(alpha)
    return nats_of_spectrum(eigenvalues, alpha) * in_unit(unit)


def entropy(K: Tensor, alpha: float = 1.01, unit: Unit = "bits") -> Tensor:
    """Return S_a(K / tr K), the matrix-based Rényi entropy (Sanchez Giraldo et al., IEEE TIT 2015).

    a = 2, and small integers, take matrix products instead of eigenvalues. Both are computed in float64 whatever the
    precision of K.

    Args:
        K: ``(..., n, n)`` symmetric, positive semi-definite; unit diagonal unless you know why not.
        alpha: Order in (0, inf]; 1 is the von Neumann entropy.
        unit: ``"bits"`` or ``"nats"``.

    Returns:
        ``(...)`` float64 in [0, log n].

    Raises:
        InputError: ``K`` is not square, or ``alpha`` or ``unit`` is not one of these.

    Example:
        >>> import torch
        >>> from infoprune.entropy import gram
        >>> K = gram(torch.tensor([[[0.0], [0.0], [9.0], [9.0]]]), width=1.0)[0]
        >>> round(float(entropy(K)), 3)
        1.0
    """
    check_order(alpha)
    if K.ndim < 2 or K.shape[-1] != K.shape[-2] or K.shape[-1] == 0:
        raise InputError(f"the Gram matrix has the shape {tuple(K.shape)}: it must be (..., n, n)")
    flat = K.reshape(-1, *K.shape[-2:])
    nats = in_chunks(lambda part: nats_of_gram(flat[part], alpha), flat.shape, K.device)
    return nats.reshape(K.shape[:-2]) * in_unit(unit)


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

    Example:
        >>> import torch
        >>> from infoprune.entropy import gram
        >>> K = gram(torch.tensor([[[0.0], [0.0], [9.0], [9.0]]]), width=1.0)[0]
        >>> round(float(joint_entropy(K, K)), 3)
        1.0
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

    Example:
        >>> import torch
        >>> from infoprune.entropy import gram
        >>> K = gram(torch.tensor([[[0.0], [0.0], [9.0], [9.0]]]), width=1.0)[0]
        >>> round(float(mutual_information(K, K)), 3)
        1.0
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

    Example:
        >>> K = torch.eye(4, dtype=torch.float64)
        >>> everything = torch.ones(4, 4, dtype=torch.float64)  # a constant Z
        >>> round(conditional_mutual_information(K, K, everything).item(), 4)
        2.0
    """
    one_known = joint_entropy(K, given, alpha=alpha, unit=unit) + joint_entropy(L, given, alpha=alpha, unit=unit)
    return one_known - joint_entropy(K, L, given, alpha=alpha, unit=unit) - entropy(given, alpha, unit)


@full_precision()
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
        ``(C, C)`` float64, symmetric to the bit; copies of a map have the same row. The diagonal is
        I(X;X) = 2 S(X) - S(X,X), which is not S(X).

    Raises:
        InputError: As for :func:`~infoprune.entropy.gram`.

    Example:
        >>> maps = torch.rand(3, 16, 4, generator=torch.Generator().manual_seed(0))
        >>> pairwise_redundancy(maps).shape
        torch.Size([3, 3])
    """
    factor = in_unit(unit)
    squares = gram_of(maps, KernelRule(kernel, width, convention), torch.float32, power=2)
    check_variables(maps)
    n = maps.shape[1]
    first, of_first = distinct(maps)
    shape = (len(first), *maps.shape[1:])
    pairs = in_chunks(lambda part: upper_pairs(squares(first[part])), shape, maps.device)
    alone = torch.log1p(2 * pairs.sum(dim=1, dtype=torch.float64) / n)
    together = torch.log1p(2 * symmetric((pairs @ pairs.T).double()) / n)
    found = (math.log(n) + together - (alone[:, None] + alone[None, :])) * factor
    return found[of_first][:, of_first]


def in_unit(unit: Unit) -> float:
    """Return what one nat is worth in that unit.

    Raises:
        InputError: The unit is neither ``"bits"`` nor ``"nats"``.

    Example:
        >>> in_unit("nats")
        1.0
    """
    if unit not in {"bits", "nats"}:
        raise unknown("unit", str(unit), ["bits", "nats"])
    return 1 / math.log(2) if unit == "bits" else 1.0
