"""The steps of a greedy order: by the entropies themselves while they tell candidates apart, by order 2 beyond."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from infoprune.entropy import pairs
from infoprune.entropy.distances import chunks
from infoprune.entropy.joint import Joint, add, matrix, with_each
from infoprune.entropy.kernels import GramOf
from infoprune.entropy.labels import ClassBlocks
from infoprune.entropy.renyi import equivocation
from infoprune.entropy.threads import over_chunks

Score: TypeAlias = Literal["pairs", "quadratic"]

# The order ends where this many steps in a row cannot tell the best two candidates apart; one may be a coincidence.
_UNRESOLVED_RUN = 3


@dataclass(frozen=True)
class Layer:
    """The candidates of one layer, samples sorted by class.

    Args:
        grams: From indices of candidates to their ``(B, n, n)`` float64 Gram matrices.
        rows: ``(C, M)`` their packed pairs, float32.
        index: Which pairs those are.
        given: Joint of what the layer is conditioned on.
        given_rows: The same, over the pairs.
        alpha: Order of the entropies.
    """

    grams: GramOf
    rows: Tensor
    index: pairs.PairIndex
    given: Joint
    given_rows: pairs.Running
    alpha: float

    @property
    def count(self) -> int:
        """Number of candidates C."""
        return len(self.rows)

    @property
    def blocks(self) -> ClassBlocks:
        """The classes of the samples."""
        return self.index.blocks


@dataclass(frozen=True)
class Prefix:
    """The first maps of an order.

    Args:
        picks: The maps chosen.
        left: H(Y | given, the picks up to here) in nats where it came with the choice; may be shorter than ``picks``.
        resolved: How many of the picks are resolved.
        finished: Whether the order ends here, saturated or complete; otherwise another method may go on.
        evaluations: Candidates whose eigenvalues were computed.
    """

    picks: tuple[int, ...] = ()
    left: tuple[float, ...] = ()
    resolved: int = 0
    finished: bool = False
    evaluations: int = 0


def by_entropy(layer: Layer, steps: int, resolution: float, screen: int | None, switch: float) -> Prefix:
    """Choose by eigenvalues, of all candidates or of the leaders of a screen, until the steps are not resolved.

    Args:
        layer: The candidates.
        steps: Choose no more than so many.
        resolution: In nats: candidates closer than this are not told apart.
        screen: Leaders taken from each score, or None for all candidates at every step.
        switch: In nats: stop, unfinished, when less is left to know of the labels.
    """
    joint, running = layer.given, layer.given_rows
    remaining = list(range(layer.count))
    picks: list[int] = []
    left: list[float] = []
    unresolved = evaluations = 0
    while remaining and len(picks) < steps:
        values, screen = _evaluated(layer, joint, running, remaining, screen if picks else None)
        evaluations += len(values)
        best = min(values, key=lambda c: (values[c], c))
        unresolved = 0 if _told_apart(layer, values, best, resolution) else unresolved + 1
        picks.append(best)
        left.append(values[best])
        if unresolved == _UNRESOLVED_RUN:
            break
        remaining.remove(best)
        joint = add(joint, layer.grams(torch.tensor([best]))[0])
        running = pairs.join(running, layer.rows[best], layer.index)
        if values[best] < switch:
            return Prefix(tuple(picks), tuple(left), len(picks) - unresolved, not remaining, evaluations)
    resolved = len(picks) - unresolved
    return Prefix(tuple(picks[:resolved]), tuple(left[:resolved]), resolved, True, evaluations)


def by_pairs(layer: Layer, before: Prefix, steps: int, resolution: float, by: Score = "pairs") -> Prefix:
    """Go on by order 2 (or by the quadratic information) to the end.

    Args:
        layer: The candidates.
        before: What is chosen already.
        steps: Choose no more than so many in all.
        resolution: In nats: candidates closer than this are not told apart.
        by: Which of the two scores chooses.

    Returns:
        All the picks; ``resolved`` of them are resolved, unless ``before`` was finished.
    """
    running = layer.given_rows
    for pick in before.picks:
        running = pairs.join(running, layer.rows[pick], layer.index)
    ids = [c for c in range(layer.count) if c not in set(before.picks)]
    rows = layer.rows[ids]
    picks = list(before.picks)
    resolved = before.resolved
    unresolved = len(picks) - resolved
    while ids and len(picks) < steps:
        scores = pairs.score(running, rows[: len(ids)], layer.index)
        position = pairs.first_of(scores.between if by == "quadratic" else scores.left, ids)
        if unresolved < _UNRESOLVED_RUN and not before.finished:
            apart = _apart_by_pairs(scores.nats, rows, position, 2 * resolution / min(layer.alpha, 2))
            unresolved = 0 if apart else unresolved + 1
            resolved = len(picks) + 1 if apart else resolved
        picks.append(ids[position])
        running = pairs.join(running, rows[position].clone(), layer.index)
        # The last candidate takes the free place, so that the matrix stays whole and shrinks.
        rows[position] = rows[len(ids) - 1]
        ids[position] = ids[-1]
        ids.pop()
    return Prefix(tuple(picks), before.left, resolved, True, before.evaluations)


def left_along(layer: Layer, order: tuple[int, ...], known: tuple[float, ...]) -> Tensor:
    """Return H(Y | given, the first t of ``order``) in nats for t = 1, 2, ...; the ``known`` first ones are not redone.

    Once the joint is all but the identity I, its entropies are expanded around it: with K = I + E,
    S_a = log n - a |E|^2 / (2 n) + O(|E|^3), so that H(Y|X) = a (1 - r^2) b / n, b the between-class pairs of E^2.
    """
    joint = layer.given
    left = list(known)
    pending: list[Tensor] = []
    for step, pick in enumerate(order):
        joint = add(joint, layer.grams(torch.tensor([pick]))[0])
        if step < len(known):
            continue
        K = matrix(joint)
        expanded = _near_identity(K, layer)
        if expanded is None:
            pending.append(K)
        if pending and (expanded is not None or len(pending) == _pending_limit(K) or step == len(order) - 1):
            left += _left(layer, torch.stack(pending), lambda K: K)
            pending = []
        if expanded is not None:
            left.append(expanded)
    return torch.tensor(left, dtype=torch.float64)


def _evaluated(
    layer: Layer, joint: Joint, running: pairs.Running, remaining: list[int], screen: int | None
) -> tuple[dict[int, float], int | None]:
    if screen is None:
        return _left_with(layer, joint, remaining), None
    scores = pairs.score(running, layer.rows[remaining], layer.index)
    ranked = [[remaining[i] for i in torch.argsort(s, stable=True).tolist()] for s in (scores.left, scores.between)]
    values: dict[int, float] = {}
    while True:
        leaders = sorted({c for ranking in ranked for c in ranking[:screen]} - values.keys())
        values |= _left_with(layer, joint, leaders)
        best = min(values, key=lambda c: (values[c], c))
        # A winner at the edge of both lists says that the screen was too narrow.
        if min(ranking.index(best) for ranking in ranked) < screen / 2 or screen >= len(remaining):
            return values, screen
        screen *= 2


def _left_with(layer: Layer, joint: Joint, candidates: list[int]) -> dict[int, float]:
    ids = torch.tensor(candidates)
    left = _left(layer, ids, lambda some: with_each(joint, layer.grams(some)))
    return dict(zip(candidates, left, strict=True))


def _left(layer: Layer, items: Tensor, joints: Callable[[Tensor], Tensor]) -> list[float]:
    parts = over_chunks(
        lambda part: equivocation(joints(items[part]), layer.blocks, layer.alpha),
        chunks(len(items), layer.blocks.samples),
    )
    return [float(value) for value in torch.cat(parts).tolist()]


def _told_apart(layer: Layer, values: dict[int, float], best: int, resolution: float) -> bool:
    close = [c for c in values if c != best and values[c] - values[best] <= resolution]
    return _copies(layer.rows[close], layer.rows[best])


def _apart_by_pairs(values: Tensor, rows: Tensor, best: int, resolution: float) -> bool:
    close = (values - values[best]) <= resolution
    close[best] = False
    return not bool(close.any()) or _copies(rows[: len(values)][close], rows[best])


def _copies(rows: Tensor, row: Tensor) -> bool:
    """Whether the candidates are copies of one another, between which there is nothing to tell apart."""
    return torch.allclose(rows, row.expand_as(rows), rtol=1e-5, atol=1e-6)


def _near_identity(K: Tensor, layer: Layer) -> float | None:
    squares = K.flatten()[layer.index.flat].square()
    within, between = float(squares[: layer.index.within].sum()), float(squares[layer.index.within :].sum())
    size = math.sqrt(2 * (within + between))
    left = layer.alpha * (1 - layer.blocks.outside**2) * between / layer.blocks.samples
    if layer.alpha * size > 1e-2 or (1 + layer.alpha) * size * left > 1e-15:
        return None
    return left


def _pending_limit(K: Tensor) -> int:
    return max(2, (1 << 22) // K.numel())
