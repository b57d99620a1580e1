"""Order 2 without eigenvalues: sums over pairs of samples, one matrix-vector product for all candidates at once.

With a the sum of K_ij^2 over the pairs i < j of one class and b over those of two classes,

    S_2(X,Y) - S_2(X) = log(1 + 2 (1 - r^2) b / (n + 2 a + 2 r^2 b)),    r the label kernel outside a class.

Nothing cancels in it, so single precision orders the candidates as double precision does, however little is left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from infoprune.entropy.distances import chunks
from infoprune.entropy.joint import JointForm
from infoprune.entropy.kernels import GramOf
from infoprune.entropy.labels import ClassBlocks
from infoprune.entropy.threads import over_chunks

_TINY = 1e-37  # Just above the single-precision numbers that processors are slow with.


@dataclass(frozen=True)
class PairIndex:
    """Which entries of an ``(n, n)`` matrix sorted by class are the pairs of samples, those of one class first.

    Args:
        flat: ``(M,)`` positions i n + j, i < j, M = n (n - 1) / 2.
        within: How many of them are of one class.
        blocks: The classes.
    """

    flat: Tensor
    within: int
    blocks: ClassBlocks


@dataclass(frozen=True)
class Running:
    """The squared joint so far over the pairs.

    Args:
        form: As in :class:`~infoprune.entropy.joint.Joint`.
        weights: ``(M,)`` float32: under ``"product"`` the squared product, its largest entry brought to 1 within and
            between the classes so that neither vanishes; under ``"mean"`` the sum of the logarithms.
        members: Number of maps in it.
        log_within: Log of the factor that was divided out within the classes.
        log_between: The same between the classes.
    """

    form: JointForm
    weights: Tensor
    members: int = 0
    log_within: float = 0.0
    log_between: float = 0.0


@dataclass(frozen=True)
class Scores:
    """What is left to know of the labels if a candidate joins, for each of B candidates: small is good.

    Args:
        between: ``(B,)`` float64 sums over between-class pairs, up to a common factor: the fewer pairs left alike, the
            more quadratic (Tsallis-2) information.
        left: ``(B,)`` float64, ranks as H_2(Y|S,c) does however small that is.
        nats: ``(B,)`` float64, H_2(Y|S,c) itself.
    """

    between: Tensor
    left: Tensor
    nats: Tensor


def pair_index(blocks: ClassBlocks, device: torch.device) -> PairIndex:
    """Return the pairs of samples sorted by class."""
    n = blocks.samples
    classes = torch.repeat_interleave(torch.arange(len(blocks.counts)), torch.tensor(blocks.counts))
    rows, columns = torch.triu_indices(n, n, 1)
    same = classes[rows] == classes[columns]
    flat = rows * n + columns
    return PairIndex(torch.cat([flat[same], flat[~same]]).to(device), int(same.sum()), blocks)


def packed(K: Tensor, index: PairIndex, form: JointForm) -> Tensor:
    """Return K_ij^2 (its logarithm for the mean) over the pairs of ``(B, n, n)`` Gram matrices, ``(B, M)`` float32."""
    squares = K.flatten(-2)[..., index.flat].square()
    if form == "mean":
        return squares.log().float()
    return _without_tiny(squares.float())


def pack(grams: GramOf, count: int, index: PairIndex, form: JointForm) -> Tensor:
    """Return :func:`packed` of all variables, ``(C, M)``; the full matrices exist only chunk by chunk."""
    samples = index.blocks.samples
    return torch.cat(over_chunks(lambda part: packed(grams(part), index, form), chunks(count, samples)))


def start(index: PairIndex, form: JointForm) -> Running:
    """Return the running joint of no variable."""
    neutral = torch.ones if form == "product" else torch.zeros
    return Running(form, neutral(len(index.flat), dtype=torch.float32, device=index.flat.device))


def join(running: Running, row: Tensor, index: PairIndex) -> Running:
    """Return the running joint with one more variable, ``(M,)`` packed pairs."""
    members = running.members + 1
    if running.form == "mean":
        return Running("mean", running.weights + row, members)
    weights = running.weights * row
    inside, log_inside = _rescaled(weights[: index.within])
    outside, log_outside = _rescaled(weights[index.within :])
    return Running(
        "product",
        torch.cat([inside, outside]),
        members,
        running.log_within + log_inside,
        running.log_between + log_outside,
    )


def score(running: Running, rows: Tensor, index: PairIndex) -> Scores:
    """Return the scores of ``(B, M)`` packed candidates next to the running joint."""
    if running.form == "mean":
        within, between = _sums_of_means(running, rows, index)
    else:
        within = (rows[:, : index.within] @ running.weights[: index.within]).double()
        between = (rows[:, index.within :] @ running.weights[index.within :]).double()
    r2 = index.blocks.outside**2
    scale = math.exp(running.log_between)
    total = index.blocks.samples + 2 * within * math.exp(running.log_within) + 2 * r2 * between * scale
    left = between / total
    return Scores(between, left, torch.log1p(2 * (1 - r2) * left * scale))


def first_of(values: Tensor, ids: Sequence[int]) -> int:
    """Return the position of the smallest value, of equal ones the position of the lowest id."""
    ties = (values == values.min()).nonzero().flatten().tolist()
    return int(min(ties, key=lambda position: ids[position]))


def _sums_of_means(running: Running, rows: Tensor, index: PairIndex) -> tuple[Tensor, Tensor]:
    def sums(part: slice) -> Tensor:
        joint = torch.exp((rows[part] + running.weights) / (running.members + 1))
        return torch.stack([joint[:, : index.within].sum(dim=1), joint[:, index.within :].sum(dim=1)])

    within, between = torch.cat(over_chunks(sums, chunks(len(rows), index.blocks.samples)), dim=1).double()
    return within, between


def _rescaled(weights: Tensor) -> tuple[Tensor, float]:
    largest = float(weights.max()) if weights.numel() else 0.0
    if largest == 0.0:
        return weights, 0.0
    return _without_tiny(weights / largest), math.log(largest)


def _without_tiny(values: Tensor) -> Tensor:
    return torch.where(values < _TINY, 0.0, values)
