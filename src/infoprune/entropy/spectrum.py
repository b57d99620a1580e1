"""From a Gram matrix to its entropy: by its eigenvalues, or without them where the order is a whole number."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from infoprune.entropy.threads import in_chunks
from infoprune.errors import InputError

# Whole orders up to this one take matrix products, at most three of them, instead of eigenvalues.
_LARGEST_POWER = 8
# Copies of one sample are taken together where they are at least this share of the samples: 1 / this number.
_FEWEST_COPIES = 8
# Gram matrices of about as many copies that are solved in one go.
_SOLVED_TOGETHER = 8


def check_order(alpha: float) -> None:
    """Refuse an order outside (0, inf].

    Raises:
        InputError: It lies outside.

    Example:
        >>> check_order(0.0)
        Traceback (most recent call last):
            ...
        infoprune.errors.InputError: the order alpha lies in (0, inf], not 0.0
    """
    if not alpha > 0:
        raise InputError(f"the order alpha is {alpha}: it must lie in (0, inf]")


def nats_of_gram(K: Tensor, alpha: float) -> Tensor:
    """Return S_a(K / tr K) in nats of symmetric ``(B, n, n)`` matrices, as ``(B,)`` float64.

    Example:
        >>> round(nats_of_gram(torch.eye(4).double()[None], 2.0).item(), 4)  # log 4
        1.3863
    """
    K = K.double()
    if is_power(alpha):
        trace = K.diagonal(dim1=-2, dim2=-1).sum(dim=-1)
        return nats_of_power(trace_of_power(K, int(alpha)), trace, alpha)
    return nats_of_spectrum(eigenvalues(K), alpha)


def is_power(alpha: float) -> bool:
    """Whether the order is a whole number small enough to be had by matrix products.

    Example:
        >>> is_power(2.0), is_power(1.01)
        (True, False)
    """
    return alpha in range(2, _LARGEST_POWER + 1)


def trace_of_power(K: Tensor, alpha: int) -> Tensor:
    """Return tr K^a of symmetric ``(..., n, n)`` matrices, as the inner product of two smaller powers.

    Example:
        >>> trace_of_power(2 * torch.eye(3).double(), 3).item()
        24.0
    """
    powers = [K]
    while len(powers) < (alpha + 1) // 2:
        powers.append(powers[-1] @ K)
    trace: Tensor = (powers[alpha // 2 - 1] * powers[alpha - alpha // 2 - 1]).sum(dim=(-2, -1))
    return trace


def nats_of_power(trace_of_power: Tensor, trace: Tensor, alpha: float) -> Tensor:
    """Return S_a in nats from tr K^a and tr K.

    Example:
        >>> four = torch.tensor(4.0).double()  # the trace of the 4x4 identity, and of its square
        >>> round(nats_of_power(four, four, 2.0).item(), 4)
        1.3863
    """
    return (alpha * trace.log() - trace_of_power.log()) / (alpha - 1)


def nats_of_spectrum(spectrum: Tensor, alpha: float) -> Tensor:
    """Return log(sum_i l_i^a) / (1 - a), l the eigenvalues brought to the sum 1.

    Negative eigenvalues are rounding and count as 0. Near a = 1 the sum is taken as 1 + sum l expm1((a-1) ln l), so
    that no digit is lost to the division by 1 - a.

    Args:
        spectrum: ``(..., n)``.
        alpha: Order in (0, inf].

    Example:
        >>> round(nats_of_spectrum(torch.tensor([0.5, 0.5]).double(), 1.0).item(), 4)
        0.6931
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


def eigenvalues(K: Tensor, *, overwrite: bool = False) -> Tensor:
    """Return the eigenvalues ``(..., n)`` of symmetric, positive semi-definite ``(..., n, n)`` matrices, ascending.

    They are float64 whatever the precision of the matrices: in single precision the solver of some processors loses a
    digit more than that of others, and may not converge. They are computed on a CPU whatever the device, by as many
    workers as the caller had threads: on CUDA torch solves matrices of more than 32 rows one after another, each slower
    than a core does.

    Args:
        K: The matrices.
        overwrite: They are not needed any more; their diagonals may be written over.

    Example:
        >>> eigenvalues(torch.diag(torch.tensor([3.0, 1.0]))).tolist()
        [1.0, 3.0]
    """
    return _on_cpu(lambda matrices: _solved(matrices, overwrite=overwrite), K)


def _on_cpu(solved: Callable[[Tensor], Tensor], K: Tensor) -> Tensor:
    if K.device.type == "cpu":
        return solved(K)
    matrices = K.cpu().reshape(-1, *K.shape[-2:])
    found = in_chunks(lambda part: solved(matrices[part]), matrices.shape, matrices.device)
    return found.reshape(K.shape[:-1]).to(K.device)


def _solved(K: Tensor, *, overwrite: bool) -> Tensor:
    matrices = K.double()
    if matrices is K and (K.requires_grad or not overwrite):
        matrices = K.clone()
    # The solver iterates until what it neglects is small beside the eigenvalue it is at, and those near zero take the
    # longest. Their mean, which is no larger than the largest, adds little rounding to what the solver has anyway.
    diagonal = matrices.diagonal(dim1=-2, dim2=-1)
    shift = diagonal.detach().mean(dim=-1, keepdim=True)
    diagonal += shift
    # Transposed, its rows are the columns that the solver wants.
    spectrum: Tensor = torch.linalg.eigvalsh(matrices.mT, UPLO="U") - shift
    return spectrum


def eigenvalues_of_copies(K: Tensor, *, overwrite: bool = False) -> Tensor:
    """Return :func:`eigenvalues` of unit-diagonal ``(B, n, n)`` Gram matrices; copies of one sample count as one.

    Where a ReLU leaves m samples all zero, their rows are the same, and the spectrum is that of the matrix with one
    of them, its row and column scaled by sqrt(m), and m - 1 zeros. Only some samples are looked at: enough to find
    copies that are many.

    Example:
        >>> [round(value, 6) for value in eigenvalues_of_copies(torch.ones(1, 3, 3).double())[0].tolist()]
        [0.0, 0.0, 3.0]
    """
    return _on_cpu(lambda matrices: _solved_with_copies(matrices, overwrite=overwrite), K)


def _solved_with_copies(K: Tensor, *, overwrite: bool) -> Tensor:
    n = K.shape[-1]
    fewest = max(2, n // _FEWEST_COPIES)
    looked_at = K[:, :: max(1, fewest // 2)] == 1
    sizes, leaders = looked_at.sum(dim=-1, dtype=torch.int32).max(dim=-1)
    several = int((sizes >= fewest).sum())
    if K.requires_grad or several <= len(K) // 4:
        return _solved(K, overwrite=overwrite)
    by_size = sizes.argsort(descending=True, stable=True)
    others = by_size[several:]
    spectra = K.new_empty(K.shape[:-1], dtype=torch.float64)
    spectra[others] = _solved(K[others], overwrite=True)
    # Those that are alike come last, and with them the sample that stands for them.
    alike = looked_at[torch.arange(len(K)), leaders]
    kept = alike.sort(dim=-1, stable=True).indices
    for start in range(0, several, _SOLVED_TOGETHER):
        some = by_size[start : min(start + _SOLVED_TOGETHER, several)]
        spectra[some] = _of_one_with_copies(K, some, kept[some], int(sizes[some[-1]]))
    return spectra


def _of_one_with_copies(K: Tensor, some: Tensor, kept: Tensor, copies: int) -> Tensor:
    """The eigenvalues of ``some`` of the matrices, whose last samples among ``kept`` are copies of one."""
    n = K.shape[-1]
    kept = kept[:, : n - copies + 1]
    entries = kept.unsqueeze(-1) * n + (kept + some.unsqueeze(-1) * (n * n)).unsqueeze(-2)
    reduced = K.flatten().index_select(0, entries.flatten()).view(entries.shape)
    reduced[:, -1] *= math.sqrt(copies)
    reduced[:, :, -1] *= math.sqrt(copies)
    return torch.nn.functional.pad(_solved(reduced, overwrite=True), (copies - 1, 0))
