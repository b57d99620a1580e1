"""The steps of a greedy order: by the entropies while they separate the candidates, by order 2 after that."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from infoprune.entropy import pairs
from infoprune.entropy.joint import Joint, add, matrix, with_each
from infoprune.entropy.kernels import GramOf
from infoprune.entropy.labels import ClassBlocks
from infoprune.entropy.relevance import equivocation
from infoprune.entropy.threads import in_chunks
from infoprune.entropy.ties import first_least, rounding

Score: TypeAlias = Literal["pairs", "quadratic"]

# The order ends where this many steps in a row do not separate the best two candidates; one may be a coincidence.
_UNRESOLVED_RUN = 3
# What a sum of single-precision products may be wrong by, as a share of it.
_SINGLE_PRECISION = 1e-6
# How many candidates that are equal at order 2 are evaluated first.
_NEAR_TIES = 16
# How often to look for pairs that no longer count.
_LOOK_EVERY = 4
# Joint Gram matrices whose entropies are computed in one go.
_PENDING = 16


@dataclass(frozen=True)
class Layer:
    """The candidates of one layer, samples sorted by class.

    Args:
        grams: From some of the candidates to their ``(B, n, n)`` float64 Gram matrices.
        leaders: By candidate, the lowest index of those with the same maps; copies have the same ``rows`` to the bit.
        rows: ``(C, M)`` their packed pairs, float32.
        index: Which pairs those are.
        given: Joint of what the layer is conditioned on.
        given_rows: The same, over the pairs.
        alpha: Order of the entropies.

    Example:
        >>> from infoprune.entropy.kernels import KernelRule, gram_of
        >>> from infoprune.entropy.labels import class_blocks
        >>> from infoprune.entropy.joint import empty_joint
        >>> _ = torch.manual_seed(0)
        >>> maps, blocks = torch.rand(3, 8, 4), class_blocks(torch.arange(8) % 2)
        >>> index = pairs.pair_index(blocks, maps.device)
        >>> grams = gram_of(maps, KernelRule(), order=blocks.order)
        >>> rows = pairs.pack(grams, maps.shape, index, "product")
        >>> nothing = empty_joint("product", 8, maps.device)
        >>> layer = Layer(grams, (0, 1, 2), rows, index, nothing, pairs.start(index, "product"), alpha=2.0)
        >>> layer.count, layer.gram(0).shape
        (3, torch.Size([8, 8]))
    """

    grams: GramOf
    leaders: tuple[int, ...]
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

    def gram(self, candidate: int) -> Tensor:
        """Return the ``(n, n)`` Gram matrix of one candidate."""
        return self.grams(slice(candidate, candidate + 1))[0]


@dataclass(frozen=True)
class Prefix:
    """The first maps of an order.

    Args:
        picks: The maps chosen.
        left: H(Y | given, the picks up to each) in nats, None where the choice did not need it.
        evaluations: Candidates whose entropies were computed for the choice.

    Example:
        >>> Prefix(picks=(3, 1), left=(0.7, None), evaluations=8).picks
        (3, 1)
    """

    picks: tuple[int, ...] = ()
    left: tuple[float | None, ...] = ()
    evaluations: int = 0


def by_entropy(layer: Layer, steps: int, resolution: float, screen: int | None, switch: float) -> Prefix:
    """Choose by the entropies of all candidates, or of those that can be the best, while the steps are resolved.

    Args:
        layer: The candidates.
        steps: Largest number of steps.
        resolution: In nats: candidates closer than this count as equal.
        screen: None for the entropies of all candidates at every step. Otherwise, after the first step, of that many
            leaders of each of three rankings: the two order-2 scores, and how near the best each came when last seen.
        switch: In nats: when less is left to know of the labels, the entropies only of those that order 2 cannot tell
            from its best.

    Returns:
        The resolved picks.

    Example:
        >>> from infoprune.entropy.kernels import KernelRule, gram_of
        >>> from infoprune.entropy.labels import class_blocks
        >>> from infoprune.entropy.joint import empty_joint
        >>> _ = torch.manual_seed(0)
        >>> maps, blocks = torch.rand(3, 8, 4), class_blocks(torch.arange(8) % 2)
        >>> index = pairs.pair_index(blocks, maps.device)
        >>> grams = gram_of(maps, KernelRule(), order=blocks.order)
        >>> rows = pairs.pack(grams, maps.shape, index, "product")
        >>> nothing = empty_joint("product", 8, maps.device)
        >>> layer = Layer(grams, (0, 1, 2), rows, index, nothing, pairs.start(index, "product"), alpha=2.0)
        >>> len(by_entropy(layer, 2, resolution=1e-6, screen=None, switch=0.0).picks)
        2
    """
    joint, running = layer.given, layer.given_rows
    active = pairs.everything(layer.rows, layer.index)
    picks: list[int] = []
    left: list[float | None] = []
    still = math.inf
    last: dict[int, tuple[float, int]] = {}
    unresolved = evaluations = 0
    while len(picks) < min(steps, layer.count) and unresolved < _UNRESOLVED_RUN:
        if screen is None or not picks:
            exact = values = _left_with(layer, joint, _others(layer, picks))
        else:
            active, scores = _certified(layer, running, active, picks)
            ranked = _by_score(layer, active, scores, picks)
            if still >= switch:
                # A candidate without a last value is a copy of the map just chosen, which was the best.
                by_last = sorted(ranked.nats, key=lambda candidate: last.get(candidate, (0.0, candidate)))
                exact, screen = _of_leaders(layer, joint, (ranked.by_pairs, ranked.by_quadratic, by_last), screen)
            else:
                exact = _of_near_ties(layer, joint, ranked, resolution)
            values = exact or {c: layer.alpha / 2 * nats for c, nats in ranked.nats.items()}
        evaluations += len(exact)
        if exact:
            best = _best(layer, values)
        else:
            best = active.ids[_least_by_pairs(layer, running, active, scores, _free(layer, active, picks), "pairs")]
        unresolved = 0 if _told_apart(layer, values, best, resolution) else unresolved + 1
        last |= {c: (exact[c] - values[best], c) for c in exact}
        picks.append(best)
        left.append(exact.get(best))
        still = values[best]
        joint = add(joint, layer.gram(best))
        running = pairs.join(running, layer.rows[best], layer.index)
    resolved = len(picks) - unresolved
    return Prefix(tuple(picks[:resolved]), tuple(left[:resolved]), evaluations)


def by_pairs(layer: Layer, before: Prefix, steps: int, resolution: float | None, by: Score = "pairs") -> Prefix:
    """Go on by order 2 (or by the quadratic information), one matrix-vector product a step.

    Args:
        layer: The candidates.
        before: What is chosen already.
        steps: Largest number of steps in all.
        resolution: In nats: stop where candidates are closer than this. None goes on whatever they are.
        by: Which of the two scores chooses.

    Returns:
        ``before`` and what follows it; with a ``resolution``, the resolved picks only.

    Example:
        >>> from infoprune.entropy.kernels import KernelRule, gram_of
        >>> from infoprune.entropy.labels import class_blocks
        >>> from infoprune.entropy.joint import empty_joint
        >>> _ = torch.manual_seed(0)
        >>> maps, blocks = torch.rand(3, 8, 4), class_blocks(torch.arange(8) % 2)
        >>> index = pairs.pair_index(blocks, maps.device)
        >>> grams = gram_of(maps, KernelRule(), order=blocks.order)
        >>> rows = pairs.pack(grams, maps.shape, index, "product")
        >>> nothing = empty_joint("product", 8, maps.device)
        >>> layer = Layer(grams, (0, 1, 2), rows, index, nothing, pairs.start(index, "product"), alpha=2.0)
        >>> len(by_pairs(layer, Prefix(), 2, resolution=None).picks)
        2
    """
    running = layer.given_rows
    for pick in before.picks:
        running = pairs.join(running, layer.rows[pick], layer.index)
    active = pairs.everything(layer.rows, layer.index)
    picks = list(before.picks)
    unresolved = 0
    while len(picks) < min(steps, layer.count) and unresolved < _UNRESOLVED_RUN:
        active, scores = _certified(layer, running, active, picks)
        free = _free(layer, active, picks)
        best = _least_by_pairs(layer, running, active, scores, free, by)
        if resolution is not None:
            values = scores.quadratic if by == "quadratic" else scores.nats
            apart = _copies(active.rows[free & (values - values[best] <= resolution)], active.rows[best])
            unresolved = 0 if apart else unresolved + 1
        picks.append(active.ids[best])
        running = pairs.join(running, layer.rows[picks[-1]], layer.index)
    return Prefix(tuple(picks[: len(picks) - unresolved]), before.left, before.evaluations)


def left_along(layer: Layer, order: tuple[int, ...], known: tuple[float | None, ...]) -> Tensor:
    """Return H(Y | given, the first t of ``order``) in nats for t = 1, 2, ...; what is ``known`` is not done again.

    Once the joint is all but the identity I, its entropies are expanded around it: with K = I + E,
    S_a = log n - a |E|^2 / (2 n) + O(|E|^3), so that H_a(Y|X) is a / 2 times the order-2 value, which pairs give.

    Example:
        >>> from infoprune.entropy.kernels import KernelRule, gram_of
        >>> from infoprune.entropy.labels import class_blocks
        >>> from infoprune.entropy.joint import empty_joint
        >>> _ = torch.manual_seed(0)
        >>> maps, blocks = torch.rand(3, 8, 4), class_blocks(torch.arange(8) % 2)
        >>> index = pairs.pair_index(blocks, maps.device)
        >>> grams = gram_of(maps, KernelRule(), order=blocks.order)
        >>> rows = pairs.pack(grams, maps.shape, index, "product")
        >>> nothing = empty_joint("product", 8, maps.device)
        >>> layer = Layer(grams, (0, 1, 2), rows, index, nothing, pairs.start(index, "product"), alpha=2.0)
        >>> left_along(layer, (0, 1, 2), (None, None, None)).shape
        torch.Size([3])
    """
    joint, running = layer.given, layer.given_rows
    left = [*known, *[None] * (len(order) - len(known))]
    pending: dict[int, Tensor] = {}
    expanded = False
    for step, pick in enumerate(order):
        running = pairs.join(running, layer.rows[pick], layer.index)
        if not expanded:
            joint = add(joint, layer.gram(pick))
            expanded = _is_near_identity(matrix(joint), layer)
        if left[step] is None and expanded:
            left[step] = layer.alpha / 2 * pairs.score_of_itself(running, layer.index)
        elif left[step] is None:
            pending[step] = matrix(joint)
        if len(pending) == _PENDING or (pending and step == len(order) - 1):
            for at, value in zip(pending, _left_of(layer, list(pending.values())), strict=True):
                left[at] = value
            pending = {}
    return torch.tensor(left, dtype=torch.float64)


@dataclass(frozen=True)
class _Ranked:
    """The candidates left, by each of the two scores, and the order-2 value of each in nats."""

    by_pairs: list[int]
    by_quadratic: list[int]
    nats: dict[int, float]


def _by_score(layer: Layer, active: pairs.Active, scores: pairs.Scores, picks: list[int]) -> _Ranked:
    free = set(_others(layer, picks))

    def ranking(score: Tensor) -> list[int]:
        ordered = (active.ids[position] for position in torch.argsort(score, stable=True).tolist())
        return [c for c in ordered if c in free]

    nats = {c: value for c, value in zip(active.ids, scores.nats.tolist(), strict=True) if c in free}
    return _Ranked(ranking(scores.left), ranking(scores.between), nats)


def _of_leaders(
    layer: Layer, joint: Joint, rankings: tuple[list[int], ...], screen: int
) -> tuple[dict[int, float], int]:
    values: dict[int, float] = {}
    while True:
        leaders = {c for ranking in rankings for c in ranking[:screen]}
        values |= _left_with(layer, joint, sorted(leaders - values.keys()))
        best = min(values, key=lambda candidate: (values[candidate], candidate))
        # A winner at the edge of every list says that the screen was too narrow.
        if min(ranking.index(best) for ranking in rankings) < screen / 2 or screen >= len(rankings[0]):
            return values, screen
        screen *= 2


def _of_near_ties(layer: Layer, joint: Joint, ranked: _Ranked, resolution: float) -> dict[int, float]:
    """The values of those that order 2 cannot tell from its best, or of all by order 2 where it can.

    With K = I + E the joint before the step and m_k = tr (E o K_c)^k / n, S_a = log n - a m_2 / 2
    - a (a - 2) m_3 / 6 - ..., and no eigenvalue of E o K_c exceeds the largest of E. So a / 2 times the order-2 value
    is right up to a share of |a - 2| / 3 of that eigenvalue, of which the row sums are a bound. The two sides of a
    comparison, and the terms beyond, make it |a - 2|.

    Most of that share is common to all candidates: how far it differs among those evaluated says how far down the
    list the best can be.
    """
    largest = float(matrix(joint).abs().sum(dim=-1).max()) - 1
    margin = abs(layer.alpha - 2) * largest + _SINGLE_PRECISION
    values = {c: layer.alpha / 2 * nats for c, nats in ranked.nats.items()}
    least = values[ranked.by_pairs[0]]
    close = [c for c in ranked.by_pairs if values[c] <= least * (1 + margin)]
    exact: dict[int, float] = {}
    if len(close) == 1 or least * margin <= resolution / 10:
        return exact
    size = _NEAR_TIES
    while True:
        exact |= _left_with(layer, joint, close[len(exact) : size])
        shares = [exact[c] / values[c] for c in exact]
        spread = max(shares) - min(shares)
        best = min(exact.values())
        if (
            size >= len(close)
            or best * spread <= resolution / 10
            or values[close[size]] * (min(shares) - 2 * spread) > best
        ):
            return exact
        size *= 2


def _others(layer: Layer, picks: list[int]) -> list[int]:
    """The candidates not chosen yet, ascending; of copies the first one only, the next once it is chosen."""
    taken, seen = set(picks), set()
    others = []
    for candidate in range(layer.count):
        if candidate not in taken and layer.leaders[candidate] not in seen:
            seen.add(layer.leaders[candidate])
            others.append(candidate)
    return others


def _best(layer: Layer, values: dict[int, float]) -> int:
    """The candidate of the least value; of near-ties the lowest index.

    Those that differ by the rounding of the entropies tie, and so do those that differ by the rounding of single
    precision and have the same Gram matrix within it.
    """
    candidates = sorted(values)
    found = torch.tensor([values[c] for c in candidates], dtype=torch.float64)
    least = float(found.min())
    n = layer.blocks.samples
    bound = rounding(torch.float64, n) * math.log(n)
    best = candidates[first_least(found, bound)]
    in_single = max(bound, rounding(torch.float32, layer.rows.shape[1]) * abs(least))
    near = [c for c in candidates if c < best and values[c] - least <= in_single]
    return next((c for c in near if _copies(layer.rows[[c]], layer.rows[best])), best)


def _left_with(layer: Layer, joint: Joint, candidates: list[int]) -> dict[int, float]:
    if not candidates:
        return {}
    ids = torch.tensor(candidates)

    def left(part: slice) -> Tensor:
        return equivocation(with_each(joint, layer.grams(ids[part])), layer.blocks, layer.alpha)

    values = in_chunks(left, (len(ids), *joint.state.shape), joint.state.device)
    return dict(zip(candidates, values.tolist(), strict=True))


def _left_of(layer: Layer, joints: list[Tensor]) -> list[float]:
    def left(part: slice) -> Tensor:
        return equivocation(torch.stack(joints[part]), layer.blocks, layer.alpha)

    return [float(value) for value in in_chunks(left, (len(joints), *joints[0].shape), joints[0].device).tolist()]


def _told_apart(layer: Layer, values: dict[int, float], best: int, resolution: float) -> bool:
    close = [c for c in values if values[c] - values[best] <= resolution]
    return _copies(layer.rows[close], layer.rows[best])


def _copies(rows: Tensor, row: Tensor) -> bool:
    """Whether candidates are copies of one another, between which there is nothing to tell apart."""
    return torch.allclose(rows, row.expand_as(rows), rtol=1e-5, atol=1e-6)


def _certified(
    layer: Layer, running: pairs.Running, active: pairs.Active, picks: list[int]
) -> tuple[pairs.Active, pairs.Scores]:
    """Scores that leave nothing out that matters, and what to go on with."""
    index = layer.index
    scores = pairs.score(running, active, index)
    least = float(scores.between.min())
    certain = pairs.is_certified(running, active, least, index)
    taken = set(picks)
    remaining = [candidate for candidate in range(layer.count) if candidate not in taken]
    looking = len(picks) % _LOOK_EVERY == 0
    if certain and not (looking and pairs.halves(running, active, len(remaining), least, index)):
        return active, scores
    fewer = pairs.chosen(layer.rows, running, remaining, least, index)
    return fewer, pairs.score(running, fewer, index)


def _free(layer: Layer, active: pairs.Active, picks: list[int]) -> Tensor:
    free = set(_others(layer, picks))
    return torch.tensor([c in free for c in active.ids], device=active.rows.device)


def _least_by_pairs(
    layer: Layer, running: pairs.Running, active: pairs.Active, scores: pairs.Scores, free: Tensor, by: Score
) -> int:
    """The position among the active candidates of the one of least value; of near-ties the lowest index.

    Sums that are equal in single precision are computed again in double precision. What then differs by its rounding
    ties, and so do candidates whose rows are the same within single precision.
    """

    def chosen(of: pairs.Scores) -> Tensor:
        return of.between if by == "quadratic" else of.left

    values = chosen(scores).masked_fill(~free, torch.inf)
    pairs_summed = active.rows.shape[1]
    near = (values <= values.min() * (1 + rounding(torch.float32, pairs_summed))).nonzero().flatten()
    if len(near) == 1:
        return int(near[0])
    again = chosen(pairs.score_precisely(running, active, near, layer.index))
    best = first_least(again, rounding(torch.float64, pairs_summed) * float(again.min().abs()))
    alike = torch.isclose(active.rows[near[:best]], active.rows[near[best]], rtol=1e-5, atol=1e-6).all(dim=-1)
    before = alike.nonzero().flatten()
    return int(near[before[0]] if len(before) else near[best])


def _is_near_identity(K: Tensor, layer: Layer) -> bool:
    squares = K.flatten()[layer.index.flat].square()
    size = math.sqrt(2 * float(squares.sum()))
    left = layer.alpha * float(squares[layer.index.within :].sum()) / layer.blocks.samples
    return layer.alpha * size < 1e-2 and (1 + layer.alpha) * size * left < 1e-14
