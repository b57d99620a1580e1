"""The greedy order of feature maps by their information about the labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from infoprune.entropy import pairs
from infoprune.entropy.copies import distinct
from infoprune.entropy.distances import check_variables
from infoprune.entropy.greedy import Layer, Prefix, by_entropy, by_pairs, left_along
from infoprune.entropy.joint import JointForm, add, empty_joint, matrix, with_each
from infoprune.entropy.kernels import GramOf, Kernel, KernelRule, gram_of
from infoprune.entropy.labels import ClassBlocks, Convention, LabelKernel, class_blocks
from infoprune.entropy.relevance import check_samples, equivocation, label_entropy
from infoprune.entropy.renyi import Unit, in_unit
from infoprune.entropy.spectrum import check_order
from infoprune.entropy.threads import in_chunks, one_blas_thread
from infoprune.entropy.ties import ranking, rounding
from infoprune.entropy.widths import Width
from infoprune.errors import InputError, unknown

Method: TypeAlias = Literal["hybrid", "exact", "pairs", "quadratic"]
Tail: TypeAlias = Literal["pairs", "quadratic", "relevance", "index"]

# Gram matrices of a layer are kept rather than computed again where they take no more bytes than this.
_KEPT_BYTES = 1 << 30


@dataclass(frozen=True)
class GreedyOrder:
    """An order of feature maps, and the information of its first 1, 2, ... maps about the labels.

    Args:
        order: All C maps, the most informative one first.
        information: ``C`` values: I(Y; given, the maps up to here), at the order alpha, whatever the method.
        cmi: ``C`` values: I(Y; the rest | given, the maps up to here), by the chain rule; the last is 0.
        total: I(Y; given, all maps).
        given: I(Y; given), 0 where nothing is given.
        label_entropy: H(Y), which the information reaches where the joint saturates.
        saturated_at: Number of first maps of ``order`` that are resolved: each is better than the next best by more
            than ``resolution``. What the method ranked after them means no more than ``tail`` does. It is C where the
            order is resolved to the end, and ``max_steps`` where that came first.
        tail: What the maps after ``saturated_at`` are ranked by.
        method: How the resolved ones were found.
        evaluations: Candidates whose entropies were computed from eigenvalues to find the order.
        unit: ``"bits"`` or ``"nats"``, of all that is information here.

    Example:
        >>> from infoprune.entropy import greedy_order, variables
        >>> _ = torch.manual_seed(0)
        >>> found = greedy_order(torch.rand(3, 16, 4), torch.arange(16) % 2)
        >>> sorted(found.order), len(found.cmi)
        ([0, 1, 2], 3)
    """

    order: tuple[int, ...]
    information: tuple[float, ...]
    cmi: tuple[float, ...]
    total: float
    given: float
    label_entropy: float
    saturated_at: int
    tail: Tail
    method: Method
    evaluations: int
    unit: Unit


def greedy_order(
    maps: Tensor,
    labels: Tensor,
    given: Tensor | Sequence[Tensor] | None = None,
    alpha: float = 1.01,
    method: Method = "hybrid",
    width: Width = "median",
    *,
    kernel: Kernel = "gaussian",
    convention: Convention = "2s2",
    label_kernel: LabelKernel = "indicator",
    joint: JointForm = "product",
    tail: Tail = "pairs",
    max_steps: int | None = None,
    resolution: float = 1e-12,
    screen: int = 32,
    switch: float = 2e-3,
    unit: Unit = "bits",
) -> GreedyOrder:
    """Order feature maps so that I(Y; the rest | given, the first ones) falls as fast as possible (arXiv 2411.18578).

    Each step takes the map c with the largest I(Y; given, selected, c). Ties go to the lowest index: maps that are the
    same to the bit, and those whose values differ by no more than their rounding, see :mod:`infoprune.entropy.ties`.

    Args:
        maps: ``(C, n, d)``; feature maps ``(n, C, H, W)`` become this by :func:`~infoprune.entropy.variables`.
        labels: ``(n,)`` class indices.
        given: What the layer is conditioned on: ``(G, n, d')`` maps of another layer, or several such of any d'.
        alpha: Order in (0, inf] of the entropies.
        method: ``"exact"``: eigenvalues of every candidate at every step, the oracle. ``"hybrid"``: eigenvalues of
            all candidates at the first step, of the leaders of a screen by order 2 later, and of those that order 2
            cannot tell apart once less than ``switch`` is left to know. ``"pairs"``: order 2 throughout, no
            eigenvalues. ``"quadratic"``: the quadratic (Tsallis-2) information, monotone and submodular.
        width: As for :func:`~infoprune.entropy.gram`.
        kernel: As for :func:`~infoprune.entropy.gram`.
        convention: As for :func:`~infoprune.entropy.gram`; also of the label kernel.
        label_kernel: ``"indicator"``, ``"silverman"`` or a width on one-hot labels.
        joint: ``"product"``: the Hadamard product, as published. ``"mean"``: the geometric mean of the Gram matrices
            (Gaussian kernel only), which does not saturate.
        tail: What ranks the maps after saturation: ``"pairs"``, ``"quadratic"``, ``"relevance"`` (each map alone, at
            the order alpha) or ``"index"``.
        max_steps: Stop selecting after this number of maps; the others are ranked by ``tail``.
        resolution: Two candidates closer than this, in ``unit``, count as equal.
        screen: Leaders that ``"hybrid"`` takes from each of its three rankings; doubled while the best is at the edge.
        switch: What is left to know of the labels, in ``unit``, below which ``"hybrid"`` trusts order 2 within the
            error bound of the expansion that it rests on.
        unit: ``"bits"`` or ``"nats"``.

    Returns:
        The order, its curve, and ``saturated_at``, after which the order means no more than ``tail`` does.

    Raises:
        InputError: Shapes do not fit, values are not finite, or a name or number is not one of these.

    Example:
        >>> import torch
        >>> maps = torch.tensor([[[0.0], [1.0], [0.0], [1.0]], [[0.0], [0.0], [9.0], [9.0]]])
        >>> greedy_order(maps, torch.tensor([0, 0, 1, 1])).order
        (1, 0)
    """
    _check(alpha, method, tail, max_steps, screen)
    check_samples(maps, labels)
    check_variables(maps)
    labels = labels.to(maps.device)
    blocks = class_blocks(labels, label_kernel, convention)
    settings = _Settings(KernelRule(kernel, width, convention, labels), blocks, joint, alpha)
    nats = in_unit(unit)
    # Steps are many and small: threads would wait for each other, and their number would show in the rounding.
    with one_blas_thread():
        layer = _layer(maps, _checked(given, labels), settings, method)
        steps = layer.count if max_steps is None else min(max_steps, layer.count)
        prefix = _resolved_prefix(layer, method, steps, resolution / nats, screen, switch / nats)
        order = _with_tail(layer, prefix, tail)
        left = left_along(layer, order, prefix.left) * nats
        given_alone = matrix(layer.given).clone()[None]
        before = float(equivocation(given_alone, blocks, alpha)) * nats if layer.given.members else None
    entropy = label_entropy(blocks, alpha) * nats
    return GreedyOrder(
        order=order,
        information=tuple((entropy - left).tolist()),
        cmi=tuple((left - left[-1]).tolist()),
        total=float(entropy - left[-1]),
        given=0.0 if before is None else entropy - before,
        label_entropy=entropy,
        saturated_at=len(prefix.picks),
        tail=tail,
        method=method,
        evaluations=prefix.evaluations,
        unit=unit,
    )


@dataclass(frozen=True)
class _Settings:
    rule: KernelRule
    blocks: ClassBlocks
    form: JointForm
    alpha: float

    def grams(self, maps: Tensor) -> GramOf:
        return gram_of(maps, self.rule, torch.float64, order=self.blocks.order, logarithm=self.form == "mean")


def _layer(maps: Tensor, given: list[Tensor], settings: _Settings, method: Method) -> Layer:
    n = maps.shape[1]
    index = pairs.pair_index(settings.blocks, maps.device)
    joint = empty_joint(settings.form, n, maps.device)
    running = pairs.start(index, settings.form)
    for others in given:
        grams = settings.grams(others)
        for each in range(len(others)):
            K = grams(slice(each, each + 1))[0]
            joint = add(joint, K)
            running = pairs.join(running, pairs.packed(K, index, settings.form), index)
    first, of_first = distinct(maps)
    leaders = first[of_first]
    grams = settings.grams(maps)
    if len(first) < len(maps):
        grams = _of_leaders(grams, leaders)
    if method in ("exact", "hybrid") and len(maps) * n * n * 8 <= _KEPT_BYTES:
        kept = in_chunks(grams, maps.shape, maps.device)
        grams = kept.__getitem__
    if len(first) < len(maps):
        # Packed once: a copy has the same rows to the bit, wherever in a chunk it lies.
        shape = (len(first), *maps.shape[1:])
        rows = pairs.pack(lambda part: grams(first[part]), shape, index, settings.form)[of_first]
    else:
        rows = pairs.pack(grams, maps.shape, index, settings.form)
    return Layer(grams, tuple(leaders.tolist()), rows, index, joint, running, settings.alpha)


def _of_leaders(grams: GramOf, leaders: Tensor) -> GramOf:
    return lambda part: grams(leaders[part])


def _checked(given: Tensor | Sequence[Tensor] | None, labels: Tensor) -> list[Tensor]:
    if given is None:
        return []
    several = [given] if isinstance(given, Tensor) else list(given)
    for maps in several:
        check_samples(maps, labels)
    return several


def _resolved_prefix(layer: Layer, method: Method, steps: int, resolution: float, screen: int, switch: float) -> Prefix:
    if method == "exact":
        return by_entropy(layer, steps, resolution, None, 0.0)
    if method == "hybrid":
        return by_entropy(layer, steps, resolution, screen, switch)
    return by_pairs(layer, Prefix(), steps, resolution, by=method)


def _with_tail(layer: Layer, prefix: Prefix, tail: Tail) -> tuple[int, ...]:
    if tail == "pairs" or tail == "quadratic":
        return by_pairs(layer, prefix, layer.count, None, by=tail).picks
    taken = set(prefix.picks)
    rest = [c for c in range(layer.count) if c not in taken]
    if tail == "relevance" and rest:
        rest = _by_relevance(layer, rest)
    return prefix.picks + tuple(rest)


def _by_relevance(layer: Layer, candidates: list[int]) -> list[int]:
    ids, nothing = torch.tensor(candidates), empty_joint(layer.given.form, layer.blocks.samples, layer.rows.device)

    def left(part: slice) -> Tensor:
        return equivocation(with_each(nothing, layer.grams(ids[part])), layer.blocks, layer.alpha)

    alone = in_chunks(left, (len(candidates), *nothing.state.shape), layer.rows.device)
    bound = rounding(alone.dtype, layer.blocks.samples) * math.log(layer.blocks.samples)
    return [candidates[i] for i in ranking(alone, bound, descending=False)]


def _check(alpha: float, method: str, tail: str, max_steps: int | None, screen: int) -> None:
    check_order(alpha)
    if method not in get_args(Method):
        raise unknown("method of ordering", str(method), get_args(Method))
    if tail not in get_args(Tail):
        raise unknown("rule for the tail", str(tail), get_args(Tail))
    if max_steps is not None and max_steps < 1:
        raise InputError(f"max_steps is {max_steps}: at least one map must be chosen")
    if screen < 1:
        raise InputError(f"screen is {screen}: at least one leader must be taken from each score")
