"""Permutation test of a map: whether it reduces the label entropy more than shuffled maps do, for a stopping rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from infoprune.entropy.joint import Joint, JointForm, add, empty_joint, matrix
from infoprune.entropy.kernels import GramOf, Kernel, KernelRule, gram_of
from infoprune.entropy.labels import ClassBlocks, Convention, LabelKernel, class_blocks
from infoprune.entropy.relevance import check_samples, equivocation
from infoprune.entropy.spectrum import check_order
from infoprune.entropy.threads import in_chunks
from infoprune.entropy.ties import rounding
from infoprune.entropy.widths import Width
from infoprune.errors import InputError


def permutation_test(
    maps: Tensor,
    labels: Tensor,
    order: Sequence[int],
    given: Sequence[Tensor] = (),
    *,
    alpha: float = 1.01,
    width: Width = "median",
    kernel: Kernel = "gaussian",
    convention: Convention = "2s2",
    label_kernel: LabelKernel = "indicator",
    joint: JointForm = "product",
    permutations: int = 100,
    seed: int = 0,
) -> Callable[[int], float]:
    """Return the function from m to the p value of the m-th map of an order (Yu & Príncipe 2019).

    With S the first m - 1 maps and what is given, f the m-th map and R the maps after it, the statistic is what f
    leaves, I(Y; R | S, f). Under the null hypothesis f says nothing, and shuffling it over the samples leaves as much:
    p is the share of shuffles that leave no more than f itself. A useful map leaves less than nearly all of them.

    Args:
        maps: ``(C, n, d)``.
        labels: ``(n,)`` class indices.
        order: All C maps.
        given: What the layer is conditioned on, ``(G, n, d')`` each.
        alpha: Order of the entropies; 2 takes no eigenvalues and is some ten times as quick.
        width: As for :func:`~infoprune.entropy.greedy_order`.
        kernel: Likewise.
        convention: Likewise.
        label_kernel: Likewise.
        joint: Likewise.
        permutations: Number of shuffles, the same ones for every m.
        seed: Of the shuffles.

    Raises:
        InputError: As for :func:`~infoprune.entropy.greedy_order`, or ``permutations`` is less than 1. The function
            raises it for an m that is not 1 ... C.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> labels = torch.arange(32) % 2
        >>> maps = torch.rand(3, 32, 4)
        >>> maps[1] += 3 * labels[:, None]
        >>> permutation_test(maps, labels, (1, 0, 2), permutations=19)(1) < 0.1
        True
    """
    check_order(alpha)
    check_samples(maps, labels)
    if permutations < 1:
        raise InputError(f"a permutation test takes at least one permutation, not {permutations}")
    labels = labels.to(maps.device)
    blocks = class_blocks(labels, label_kernel, convention)
    rule = KernelRule(kernel, width, convention, labels)

    def grams_of(variables: Tensor) -> GramOf:
        return gram_of(variables, rule, order=blocks.order, logarithm=joint == "mean")

    def joint_of(grams: GramOf, which: Sequence[int], start: Joint) -> Joint:
        for each in which:
            start = add(start, grams(slice(each, each + 1))[0])
        return start

    nothing = empty_joint(joint, maps.shape[1], maps.device)
    before = nothing
    for others in given:
        check_samples(others, labels)
        before = joint_of(grams_of(others), range(len(others)), before)
    grams = grams_of(maps)
    generator = torch.Generator().manual_seed(seed)
    shuffles = torch.stack([torch.randperm(maps.shape[1], generator=generator) for _ in range(permutations)])
    shuffles = torch.cat([torch.arange(maps.shape[1])[None], shuffles]).to(maps.device)

    def p_value(m: int) -> float:
        if not 1 <= m <= len(order):
            raise InputError(f"there is no map {m} in an order of {len(order)}")
        selected = joint_of(grams, order[: m - 1], before)
        rest = joint_of(grams, order[m:], nothing)
        tested = joint_of(grams, order[m - 1 : m], nothing)
        left = _left(selected, tested, shuffles, blocks, alpha)
        left -= _left(_together(selected, rest), tested, shuffles, blocks, alpha)
        # A shuffle that changes nothing leaves as much as the map itself, whatever the rounding.
        bound = rounding(left.dtype, maps.shape[1]) * math.log(maps.shape[1])
        return float((left[1:] <= left[0] + bound).double().mean())

    return p_value


def _together(one: Joint, other: Joint) -> Joint:
    state = one.state * other.state if one.form == "product" else one.state + other.state
    return Joint(one.form, state, one.members + other.members)


def _left(fixed: Joint, tested: Joint, shuffles: Tensor, blocks: ClassBlocks, alpha: float) -> Tensor:
    """Return H(Y | fixed, tested) in nats, for each order into which the samples of ``tested`` are brought."""

    def left(part: slice) -> Tensor:
        states = torch.stack([tested.state[shuffle][:, shuffle] for shuffle in shuffles[part]])
        joints = [matrix(_together(fixed, Joint(tested.form, state, 1))) for state in states]
        return equivocation(torch.stack(joints), blocks, alpha)

    return in_chunks(left, (len(shuffles), *fixed.state.shape), fixed.state.device)
