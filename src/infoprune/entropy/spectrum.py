"""From a Gram matrix to its entropy: by its eigenvalues, or without them where the order is a whole number."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from infoprune.errors import InputError

# Whole orders up to this one take matrix products, at most three of them, instead of eigenvalues.
_LARGEST_POWER = 8


def check_order(alpha: float) -> None:
    """Refuse an order outside (0, inf].

    Raises:
        InputError: It lies outside.
    """
    if not alpha > 0:
        raise InputError(f"the order alpha is {alpha}: it must lie in (0, inf]")


def nats_of_gram(K: Tensor, alpha: float) -> Tensor:
    """Return S_a(K / tr K) in nats of symmetric ``(B, n, n)`` matrices, as ``(B,)``."""
    if is_power(alpha):
        trace = K.diagonal(dim1=-2, dim2=-1).sum(dim=-1)
        return nats_of_power(trace_of_power(K, int(alpha)), trace, alpha)
    return nats_of_spectrum(eigenvalues(K), alpha)


def is_power(alpha: float) -> bool:
    """Whether the order is a whole number small enough to be had by matrix products."""
    return alpha in range(2, _LARGEST_POWER + 1)


def trace_of_power(K: Tensor, alpha: int) -> Tensor:
    """Return tr K^a of symmetric ``(..., n, n)`` matrices, as the inner product of two smaller powers."""
    powers = [K]
    while len(powers) < (alpha + 1) // 2:
        powers.append(powers[-1] @ K)
    trace: Tensor = (powers[alpha // 2 - 1] * powers[alpha - alpha // 2 - 1]).sum(dim=(-2, -1))
    return trace


def nats_of_power(trace_of_power: Tensor, trace: Tensor, alpha: float) -> Tensor:
    """Return S_a in nats from tr K^a and tr K."""
    return (alpha * trace.log() - trace_of_power.log()) / (alpha - 1)


def nats_of_spectrum(spectrum: Tensor, alpha: float) -> Tensor:
    """Return log(sum_i l_i^a) / (1 - a), l the eigenvalues brought to the sum 1.

    Negative eigenvalues are rounding and count as 0. Near a = 1 the sum is taken as 1 + sum l expm1((a-1) ln l), so
    that no digit is lost to the division by 1 - a.

    Args:
        spectrum: ``(..., n)``.
        alpha: Order in (0, inf].
    """
    shares = spectrum.clamp(min=0)
    shares = shares / shares.sum(dim=-1, keepdim=True)
    if alpha == 1:
        nats: Tensor = torch.special.entr(shares).sum(dim=-1)
        return nats
    if math.isinf(alpha):
        return -shares.amax(dim=-1).log()
    if alpha < 1:
        # The power a < 1 blows rounding up: what lies below it is no eigenvalue.
        rounding = shares.shape[-1] * torch.finfo(shares.dtype).eps * shares.amax(dim=-1, keepdim=True)
        shares = torch.where(shares > rounding, shares, 0.0)
    present = shares > 0
    logs = torch.where(present, shares, 1.0).log()
    if abs(alpha - 1) < 0.5:
        return torch.log1p((shares * torch.expm1((alpha - 1) * logs)).sum(dim=-1)) / (1 - alpha)
    power_sum: Tensor = torch.logsumexp(torch.where(present, alpha * logs, -torch.inf), dim=-1)
    return power_sum / (1 - alpha)


def eigenvalues(K: Tensor) -> Tensor:
    """Return the eigenvalues ``(B, n)`` of symmetric ``(B, n, n)`` matrices, smallest first.

    They are computed on a CPU whatever the device: on CUDA torch solves matrices of more than 32 rows one after
    another, each slower than a core does.
    """
    spectrum: Tensor = torch.linalg.eigvalsh(K.cpu())
    return spectrum.to(K.device)


def eigenvalues_of_copies(K: Tensor) -> Tensor:
    """Return :func:`eigenvalues` of unit-diagonal Gram matrices; samples that are copies of one another count as one.

    Where a ReLU leaves m samples all zero, their rows are the same, and the spectrum is that of the matrix with one
    of them, its row and column scaled by sqrt(m), and m - 1 zeros.
    """
    n = K.shape[-1]
    alike = K == 1
    sizes, leaders = alike.sum(dim=-1).max(dim=-1)
    if K.requires_grad or int(sizes.max()) <= n // 8:
        return eigenvalues(K)
    each = zip(K.cpu(), alike.cpu(), leaders.tolist(), sizes.tolist(), strict=True)
    return torch.stack([_of_one_with_copies(*one) for one in each]).to(K.device)


def _of_one_with_copies(K: Tensor, alike: Tensor, leader: int, size: int) -> Tensor:
    n = len(K)
    if size <= n // 8:
        spectrum: Tensor = torch.linalg.eigvalsh(K)
        return spectrum
    others = (~alike[leader]).nonzero().flatten()
    kept = torch.cat([others, torch.tensor([leader])])
    reduced = K[kept][:, kept]
    reduced[-1] *= math.sqrt(size)
    reduced[:, -1] *= math.sqrt(size)
    return torch.cat([K.new_zeros(size - 1), torch.linalg.eigvalsh(reduced)])
