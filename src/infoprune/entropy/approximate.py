"""Entropies of one large Gram matrix without all of its eigenvalues, each with what it may be wrong by.

They pay where n is thousands. Below n = 1000 the eigenvalues are as quick and exact, and the differences between
feature maps are smaller than these errors: see the documentation for figures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from infoprune.entropy.renyi import Unit, in_unit
from infoprune.entropy.spectrum import check_order
from infoprune.errors import InputError


@dataclass(frozen=True)
class Estimate:
    """An entropy and what it may be wrong by.

    Args:
        value: The estimate.
        low: The entropy is not below this: a bound for the low rank, two standard errors for the random trace.
        high: Nor above this.

    Example:
        >>> Estimate(1.0, 0.9, 1.1).value
        1.0
    """

    value: float
    low: float
    high: float


def low_rank_entropy(
    K: Tensor, alpha: float = 1.01, rank: int = 64, *, unit: Unit = "bits", iterations: int = 2, seed: int = 0
) -> Estimate:
    """Return S_a(K / tr K) from the largest eigenvalues, the rest of the trace spread evenly (arXiv 2211.16784).

    The bounds take the largest eigenvalues for exact (subspace iteration never overestimates them): the entropy is
    largest with the rest spread evenly, and smallest with the rest gathered in eigenvalues as large as the last found.

    Args:
        K: ``(n, n)`` symmetric, positive semi-definite.
        alpha: Order in (0, inf).
        rank: How many eigenvalues to find.
        unit: ``"bits"`` or ``"nats"``.
        iterations: Products with K, each followed by an orthogonalisation, that sharpen the subspace.
        seed: Of the first subspace.

    Raises:
        InputError: ``K`` is not square, ``rank`` is not in 1 ... n, or ``alpha`` is infinite or not positive.

    Example:
        >>> import torch
        >>> from infoprune.entropy import gram
        >>> K = gram(torch.tensor([[[0.0], [0.0], [9.0], [9.0]]]), width=1.0)[0]
        >>> round(low_rank_entropy(K, rank=2).value, 3)
        1.0
    """
    A = _normalised(K, alpha)
    n = len(A)
    _check_rank(rank, n)
    found, _ = _largest(A, rank, iterations, seed)
    rest = max(1.0 - float(found.sum()), 0.0)
    if rank == n or rest == 0.0:
        exact = _nats(float(_term(found, alpha).sum()), alpha) * in_unit(unit)
        return Estimate(exact, exact, exact)
    even = float(_term(torch.tensor(rest / (n - rank), dtype=torch.float64), alpha)) * (n - rank)
    largest = min(float(found[-1]), rest)
    gathered = float(_term(torch.tensor(largest, dtype=torch.float64), alpha)) * rest / largest
    head = float(_term(found, alpha).sum())
    low, high = sorted(_nats(head + tail, alpha) * in_unit(unit) for tail in (even, gathered))
    return Estimate(_nats(head + even, alpha) * in_unit(unit), low, high)


def random_trace_entropy(
    K: Tensor,
    alpha: float = 1.01,
    rank: int = 32,
    probes: int = 32,
    *,
    steps: int = 24,
    unit: Unit = "bits",
    seed: int = 0,
) -> Estimate:
    """Return S_a(K / tr K) from random quadratic forms (arXiv 2112.13720, 2205.07426).

    The ``rank`` largest eigenvalues are found by subspace iteration, as in Hutch++; the trace over their complement is
    estimated by Lanczos quadrature from random signs. The first two moments of the complement are known exactly (the
    trace and the Frobenius norm), and what the forms get wrong of them is taken out by regression, without which
    1 / (1 - a) makes noise of the estimate.

    Args:
        K: ``(n, n)`` symmetric, positive semi-definite.
        alpha: Order in (0, inf).
        rank: How many eigenvalues to find; 0 for none.
        probes: Random vectors, at least 4.
        steps: Lanczos steps per vector.
        unit: ``"bits"`` or ``"nats"``.
        seed: Of all that is random.

    Raises:
        InputError: ``K`` is not square, ``rank``, ``probes`` or ``steps`` is too small or large, or ``alpha`` is
            infinite or not positive.

    Example:
        >>> K = torch.eye(8, dtype=torch.float64)
        >>> round(random_trace_entropy(K, alpha=2.0, rank=4).value, 3)
        3.0
    """
    A = _normalised(K, alpha)
    n = len(A)
    if rank:
        _check_rank(rank, n - 1)
    if probes < 4 or steps < 2:
        raise InputError(f"{probes} probes of {steps} steps are too few to estimate the error: take at least 4 of 2")
    found, basis = _largest(A, rank, 4, seed) if rank else (A.new_zeros(0), A.new_zeros(n, 0))
    generator = torch.Generator(device="cpu").manual_seed(seed + 1)
    signs = torch.randint(0, 2, (n, probes), generator=generator).to(A) * 2 - 1
    nodes, weights, sizes = _lanczos(A, basis, signs, min(steps, n - rank))
    forms = torch.stack([(weights * f(nodes)).sum(dim=0) * sizes for f in (lambda x: _term(x, alpha), _one, _square)])
    # The second moment off the basis, whose vectors are eigenvectors only nearly: |A|^2 - 2 |A Q|^2 + |Q' A Q|^2.
    second = A.square().sum() - 2 * (A @ basis).square().sum() + found.square().sum()
    known = torch.stack([1 - found.sum(), second])
    rest, error = _regressed(forms, known)
    head = float(_term(found, alpha).sum())
    values = [_nats(max(head + rest + sign * 2 * error, 1e-300), alpha) * in_unit(unit) for sign in (-1, 0, 1)]
    return Estimate(values[1], min(values), max(values))


def _normalised(K: Tensor, alpha: float) -> Tensor:
    check_order(alpha)
    if math.isinf(alpha):
        raise InputError("the order infinity needs the largest eigenvalue only: use entropy()")
    if K.ndim != 2 or K.shape[0] != K.shape[1]:
        raise InputError(f"the Gram matrix has the shape {tuple(K.shape)}: it must be (n, n)")
    return K.double() / K.double().diagonal().sum()


def _check_rank(rank: int, largest: int) -> None:
    if not 1 <= rank <= largest:
        raise InputError(f"the rank is {rank}: it must be between 1 and {largest}")


def _term(eigenvalues: Tensor, alpha: float) -> Tensor:
    """What each eigenvalue adds to the sum whose logarithm (or, at order 1, which itself) is the entropy."""
    eigenvalues = eigenvalues.clamp(min=0)
    return torch.special.entr(eigenvalues) if alpha == 1 else eigenvalues.pow(alpha)


def _nats(total: float, alpha: float) -> float:
    return total if alpha == 1 else math.log(total) / (1 - alpha)


def _one(eigenvalues: Tensor) -> Tensor:
    return eigenvalues


def _square(eigenvalues: Tensor) -> Tensor:
    return eigenvalues.square()


def _largest(A: Tensor, rank: int, iterations: int, seed: int) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues, largest first, and their vectors, by subspace iteration with a little oversampling."""
    n = len(A)
    generator = torch.Generator(device="cpu").manual_seed(seed)
    basis = torch.randn(n, min(n, rank + 16), generator=generator, dtype=torch.float64).to(A.device)
    for _ in range(iterations + 1):
        basis = torch.linalg.qr(A @ basis).Q
    values, vectors = torch.linalg.eigh(basis.mT @ A @ basis)
    return values.flip(0)[:rank].clamp(min=0), (basis @ vectors).flip(1)[:, :rank]


def _lanczos(A: Tensor, basis: Tensor, probes: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes and weights ``(steps, probes)`` of the quadrature of each probe off the basis, and its squared length."""

    def off_basis(vectors: Tensor) -> Tensor:
        return vectors - basis @ (basis.mT @ vectors)

    start = off_basis(probes)
    sizes = start.square().sum(dim=0)
    current, previous = start / sizes.sqrt(), torch.zeros_like(start)
    diagonal, beside = [], []
    beta = torch.zeros_like(sizes)
    taken = [current]
    for _ in range(steps):
        following = off_basis(A @ current) - beta * previous
        diagonal.append((following * current).sum(dim=0))
        following = following - diagonal[-1] * current
        for vector in taken:  # Lanczos vectors lose their orthogonality, and with it the nodes their meaning.
            following = following - (following * vector).sum(dim=0) * vector
        beta = following.norm(dim=0)
        beside.append(beta)
        previous, current = current, following / beta.clamp(min=1e-300)
        current = torch.where(beta > 1e-14, current, 0.0)
        taken.append(current)
    T = torch.diag_embed(torch.stack(diagonal, dim=-1))
    off = torch.diag_embed(torch.stack(beside[:-1], dim=-1), offset=1)
    nodes, vectors = torch.linalg.eigh(T + off + off.mT)
    return nodes.mT, vectors[:, 0, :].square().mT, sizes


def _regressed(forms: Tensor, known: Tensor) -> tuple[float, float]:
    """The mean of the first form, freed of what the others miss of their known means, and its standard error."""
    forms, known = forms.cpu(), known.cpu()  # This solver of least squares is not on CUDA.
    wrong = (forms[1:] - known[:, None]).mT
    target = forms[0] - forms[0].mean()
    slopes = torch.linalg.lstsq(wrong - wrong.mean(dim=0), target[:, None], driver="gelsd").solution
    residual = target - ((wrong - wrong.mean(dim=0)) @ slopes).squeeze(-1)
    mean = float(forms[0].mean() - (wrong.mean(dim=0) @ slopes))
    probes = len(target)
    return mean, float(residual.square().sum().div(max(probes - 3, 1) * probes).sqrt())
