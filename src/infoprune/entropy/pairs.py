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

from infoprune.entropy.joint import JointForm
from infoprune.entropy.kernels import GramOf, exp_
from infoprune.entropy.labels import ClassBlocks
from infoprune.entropy.threads import in_chunks

_TINY = 1e-37  # Just above the single-precision numbers that processors are slow with.
_NEGLIGIBLE = 1e-9  # Share of a sum that may be left out, well below the rounding of single precision.


@dataclass(frozen=True)
class PairIndex:
    """Which entries of an ``(n, n)`` matrix sorted by class are the pairs of samples, those of one class first.

    Args:
        flat: ``(M,)`` positions i n + j, i < j, M = n (n - 1) / 2.
        within: How many of them are of one class.
        blocks: The classes.

    Example:
        >>> from infoprune.entropy.labels import class_blocks
        >>> index = pair_index(class_blocks(torch.tensor([0, 0, 1])), torch.device("cpu"))
        >>> len(index.flat), index.within
        (3, 1)
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

    Example:
        >>> Running("product", torch.ones(3)).members
        0
    """

    form: JointForm
    weights: Tensor
    members: int = 0
    log_within: float = 0.0
    log_between: float = 0.0


@dataclass(frozen=True)
class Active:
    """The candidates that are left, over the pairs that still count.

    Args:
        ids: The candidates, ascending; some may have been taken since.
        rows: ``(len(ids), m)`` float32 packed pairs.
        columns: ``(m,)`` positions among all M pairs, those within a class first; None for all.
        within: How many of the columns are within a class.

    Example:
        >>> Active((0, 1), torch.ones(2, 3), None, within=1).ids
        (0, 1)
    """

    ids: tuple[int, ...]
    rows: Tensor
    columns: Tensor | None
    within: int


@dataclass(frozen=True)
class Scores:
    """What is left to know of the labels if a candidate joins, for each of B candidates: small is good.

    Args:
        between: ``(B,)`` float64 sums over between-class pairs, up to a common factor: the fewer pairs left alike, the
            more quadratic (Tsallis-2) information.
        left: ``(B,)`` float64, ranks as H_2(Y|S,c) does however small that is.
        nats: ``(B,)`` float64, H_2(Y|S,c) itself.
        quadratic: ``(B,)`` float64, the quadratic counterpart, 2 (1 - r^2) b / n^2.

    Example:
        >>> one = torch.ones(1)
        >>> Scores(between=one, left=one, nats=one, quadratic=one).left.item()
        1.0
    """

    between: Tensor
    left: Tensor
    nats: Tensor
    quadratic: Tensor


def pair_index(blocks: ClassBlocks, device: torch.device) -> PairIndex:
    """Return the pairs of samples sorted by class.

    Example:
        >>> from infoprune.entropy.labels import class_blocks
        >>> pair_index(class_blocks(torch.tensor([0, 1, 0, 1])), torch.device("cpu")).within
        2
    """
    n = blocks.samples
    of_class = blocks.members.argmax(dim=1).to(device)
    rows, columns = torch.triu_indices(n, n, 1, device=device)
    same = of_class[rows] == of_class[columns]
    flat = rows * n + columns
    return PairIndex(torch.cat([flat[same], flat[~same]]), int(same.sum()), blocks)


def packed(K: Tensor, index: PairIndex, form: JointForm) -> Tensor:
    """Return K_ij^2 over the pairs of ``(B, n, n)`` Gram matrices, ``(B, M)`` float32; for the mean, as logarithms.

    Example:
        >>> from infoprune.entropy.labels import class_blocks
        >>> index = pair_index(class_blocks(torch.tensor([0, 0, 1])), torch.device("cpu"))
        >>> packed(torch.full((1, 3, 3), 0.5).double(), index, "product").tolist()
        [[0.25, 0.25, 0.25]]
    """
    pairs = K.flatten(-2).index_select(-1, index.flat)
    if form == "mean":
        return (2 * pairs).float()
    return torch.threshold(pairs.square().float(), _TINY, 0.0)


def pack(grams: GramOf, shape: Sequence[int], index: PairIndex, form: JointForm) -> Tensor:
    """Return :func:`packed` of the ``(C, n, d)`` variables, ``(C, M)``; the full matrices exist only chunk by chunk.

    Example:
        >>> from infoprune.entropy.labels import class_blocks
        >>> index = pair_index(class_blocks(torch.tensor([0, 0, 1])), torch.device("cpu"))
        >>> pack(lambda some: torch.ones(2, 3, 3).double(), (2, 3, 4), index, "product").shape
        torch.Size([2, 3])
    """
    return in_chunks(lambda part: packed(grams(part), index, form), shape, index.flat.device)


def start(index: PairIndex, form: JointForm) -> Running:
    """Return the running joint of no variable.

    Example:
        >>> from infoprune.entropy.labels import class_blocks
        >>> index = pair_index(class_blocks(torch.tensor([0, 0, 1])), torch.device("cpu"))
        >>> start(index, "product").members
        0
    """
    neutral = torch.ones if form == "product" else torch.zeros
    return Running(form, neutral(len(index.flat), dtype=torch.float32, device=index.flat.device))


def join(running: Running, row: Tensor, index: PairIndex) -> Running:
    """Return the running joint with one more variable, ``(M,)`` packed pairs.

    Example:
        >>> from infoprune.entropy.labels import class_blocks
        >>> index = pair_index(class_blocks(torch.tensor([0, 0, 1])), torch.device("cpu"))
        >>> join(start(index, "product"), torch.full((3,), 0.25), index).members
        1
    """
    members = running.members + 1
    if running.form == "mean":
        return Running("mean", running.weights + row, members)
    weights = running.weights * row
    log_within = running.log_within + _rescale(weights[: index.within])
    log_between = running.log_between + _rescale(weights[index.within :])
    return Running("product", weights, members, log_within, log_between)


def everything(rows: Tensor, index: PairIndex) -> Active:
    """Return all candidates over all pairs.

    Example:
        >>> from infoprune.entropy.labels import class_blocks
        >>> index = pair_index(class_blocks(torch.tensor([0, 0, 1])), torch.device("cpu"))
        >>> everything(torch.ones(2, 3), index).ids
        (0, 1)
    """
    return Active(tuple(range(len(rows))), rows, None, index.within)


def score(running: Running, active: Active, index: PairIndex) -> Scores:
    """Return the scores of the candidates next to the running joint.

    Example:
        >>> from infoprune.entropy.labels import class_blocks
        >>> index = pair_index(class_blocks(torch.tensor([0, 0, 1])), torch.device("cpu"))
        >>> rows = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
        >>> found = score(start(index, "product"), everything(rows, index), index)
        >>> bool(found.left[0] < found.left[1])
        True
    """
    if running.form == "mean":
        within, between = _sums_of_means(running, active.rows, index)
    else:
        weights = running.weights if active.columns is None else running.weights[active.columns]
        within = (active.rows[:, : active.within] @ weights[: active.within]).double()
        between = (active.rows[:, active.within :] @ weights[active.within :]).double()
    return _scores(within, between, running, index)


def score_precisely(running: Running, active: Active, some: Tensor, index: PairIndex) -> Scores:
    """Return the scores of some of the candidates, positions ``(B,)`` in ``active``, summed in double precision.

    The products are the same single-precision numbers on every processor; only their sums are not.

    Example:
        >>> from infoprune.entropy.labels import class_blocks
        >>> index = pair_index(class_blocks(torch.tensor([0, 0, 1])), torch.device("cpu"))
        >>> rows = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
        >>> score_precisely(start(index, "product"), everything(rows, index), torch.tensor([1]), index).left.shape
        torch.Size([1])
    """
    weights = running.weights if active.columns is None else running.weights[active.columns]

    def sums(part: slice) -> Tensor:
        rows = active.rows[some[part]]
        terms = exp_((rows + weights) / (running.members + 1)) if running.form == "mean" else rows * weights
        split = [terms[:, : active.within], terms[:, active.within :]]
        return torch.stack([each.sum(dim=1, dtype=torch.float64) for each in split], dim=1)

    within, between = in_chunks(sums, (len(some), 1, len(weights)), some.device).unbind(dim=1)
    return _scores(within, between, running, index)


def score_of_itself(running: Running, index: PairIndex) -> float:
    """Return H_2(Y | the running joint) in nats.

    Example:
        >>> from infoprune.entropy.labels import class_blocks
        >>> index = pair_index(class_blocks(torch.tensor([0, 0, 1, 1])), torch.device("cpu"))
        >>> round(score_of_itself(start(index, "product"), index), 4)  # log 2: nothing is known yet
        0.6931
    """
    ones = torch.ones(1, len(running.weights), device=running.weights.device)
    if running.form == "mean":
        running = Running("mean", running.weights, running.members - 1)
        ones = torch.zeros_like(ones)
    return float(score(running, Active((0,), ones, None, index.within), index).nats)


def is_certified(running: Running, active: Active, least: float, index: PairIndex) -> bool:
    """Return whether the pairs left out cannot change a score by more than its rounding: no entry exceeds 1.

    Args:
        running: The joint so far.
        active: What was scored.
        least: The smallest sum ``between`` that was found.
        index: Which pairs there are.

    Example:
        >>> from infoprune.entropy.labels import class_blocks
        >>> index = pair_index(class_blocks(torch.tensor([0, 0, 1, 1])), torch.device("cpu"))
        >>> is_certified(start(index, "product"), everything(torch.ones(2, 6), index), 4.0, index)
        True
    """
    if active.columns is None:
        return True
    dropped = running.weights.double()
    dropped[active.columns] = 0.0
    within, between = float(dropped[: index.within].sum()), float(dropped[index.within :].sum())
    if between > _NEGLIGIBLE * least:
        return False
    return within * math.exp(running.log_within) <= _NEGLIGIBLE * index.blocks.samples / 2


def chosen(rows: Tensor, running: Running, remaining: Sequence[int], least: float, index: PairIndex) -> Active:
    """Return the remaining candidates over the pairs that count, none of them left out that could matter.

    Args:
        rows: ``(C, M)`` packed pairs of all candidates.
        running: The joint so far.
        remaining: The candidates not taken yet.
        least: No candidate's sum ``between`` is smaller than this.
        index: Which pairs there are.

    Example:
        >>> from infoprune.entropy.labels import class_blocks
        >>> index = pair_index(class_blocks(torch.tensor([0, 0, 1, 1])), torch.device("cpu"))
        >>> chosen(torch.ones(3, 6), start(index, "product"), [0, 2], 4.0, index).ids
        (0, 2)
    """
    if running.form == "mean":
        return Active(tuple(remaining), rows[list(remaining)], None, index.within)
    columns = _columns_that_count(running, least, index)
    kept = rows.index_select(1, columns)[list(remaining)]
    return Active(tuple(remaining), kept, columns, int((columns < index.within).sum()))


def halves(running: Running, active: Active, remaining: int, least: float, index: PairIndex) -> bool:
    """Return whether selecting the pairs and candidates again would halve the work of a step.

    Example:
        >>> from infoprune.entropy.labels import class_blocks
        >>> index = pair_index(class_blocks(torch.tensor([0, 0, 1, 1])), torch.device("cpu"))
        >>> halves(start(index, "product"), everything(torch.ones(3, 6), index), 3, 4.0, index)
        False
    """
    width = active.rows.shape[1]
    if running.form == "product":
        width = min(width, len(_columns_that_count(running, least, index)))
    return 2 * width * remaining <= active.rows.numel()


def _columns_that_count(running: Running, least: float, index: PairIndex) -> Tensor:
    count = max(len(running.weights), 1)
    within = _NEGLIGIBLE * index.blocks.samples / (2 * count) * math.exp(-max(running.log_within, -600.0))
    between = _NEGLIGIBLE * least / count
    counts = torch.cat([running.weights[: index.within] > within, running.weights[index.within :] > between])
    return counts.nonzero().flatten()


def _scores(within: Tensor, between: Tensor, running: Running, index: PairIndex) -> Scores:
    n, r2 = index.blocks.samples, index.blocks.outside**2
    scale = math.exp(running.log_between)
    left = between / (n + 2 * within * math.exp(running.log_within) + 2 * r2 * between * scale)
    return Scores(between, left, torch.log1p(2 * (1 - r2) * left * scale), 2 * (1 - r2) * between * scale / n**2)


def _sums_of_means(running: Running, rows: Tensor, index: PairIndex) -> tuple[Tensor, Tensor]:
    def sums(part: slice) -> Tensor:
        joint = exp_((rows[part] + running.weights) / (running.members + 1))
        return torch.stack([joint[:, : index.within].sum(dim=1), joint[:, index.within :].sum(dim=1)], dim=1)

    within, between = in_chunks(sums, (len(rows), 1, rows.shape[1]), rows.device).double().unbind(dim=1)
    return within, between


def _rescale(weights: Tensor) -> float:
    """Bring the largest entry to 1, in place, and return the log of what was divided out."""
    largest = float(weights.max()) if weights.numel() else 0.0
    if largest == 0.0:
        return 0.0
    weights /= largest
    torch.threshold_(weights, _TINY, 0.0)
    return math.log(largest)
