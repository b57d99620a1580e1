"""The network without some blocks, compared with the network whose blocks are silent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from infoprune.data.batches import Batches, example_of
from infoprune.depth.blocks import Block, find_blocks, silenced, stand_in
from infoprune.depth.scoring import score_blocks
from infoprune.entropy.ties import bound_of_maps, ranking
from infoprune.errors import InputError
from infoprune.network import cost, equivalence
from infoprune.network.coupled_groups import Examples
from infoprune.network.origin import note_blocks
from infoprune.network.stand_ins import replace_module
from infoprune.network.verify import VerificationError
from infoprune.progress import Progress, silent


@dataclass(frozen=True)
class Shallower:
    """A network without some of its blocks.

    Args:
        model: The network, an ordinary module.
        removed: Names of the removed blocks, in the order in which they were chosen.
        scores: By block, the larger the better the reason to keep it.
        macs: Share of the multiply-adds that is left.
        parameters: Share of the parameters that is left.

    Example:
        >>> Shallower(nn.Identity(), ("layer1.1",), {}, macs=0.9, parameters=0.95).removed
        ('layer1.1',)
    """

    model: nn.Module
    removed: tuple[str, ...]
    scores: Mapping[str, float] = field(default_factory=dict)
    macs: float = 1.0
    parameters: float = 1.0


def remove_blocks(model: nn.Module, blocks: Sequence[Block], example: Examples) -> nn.Module:
    """Return the network without some blocks, an ordinary module.

    It computes exactly what the network computes with the branches of these blocks at zero, which is checked on the
    example. It is noted on the network, so that a checkpoint of it can be loaded again.

    Args:
        model: The network; left as it is.
        blocks: What ``find_blocks`` found in it; those to remove.
        example: ``(n, ...)`` one batch of its inputs.

    Raises:
        VerificationError: The result is not the network with silent blocks.
        InputError: The network has no such block, or cannot be copied.

    Example:
        >>> import torch, infoprune
        >>> net, images = infoprune.zoo.build("resnet20").eval(), torch.rand(2, 3, 32, 32)
        >>> blocks = find_blocks(net, images)
        >>> small = remove_blocks(net, blocks[1:2], images)
        >>> type(small.get_submodule("layer1.1")).__name__
        'Identity'
    """
    small = equivalence.duplicate(model)
    for block in blocks:
        try:
            there = type(small.get_submodule(block.name)).__name__ == block.kind
        except AttributeError:
            there = False
        if not there:
            raise InputError(f"the network has no block '{block.name}' of class {block.kind}: find its blocks again")
        replace_module(small, block.name, stand_in(block))
    _verify(model, small, blocks, example)
    return note_blocks(small, model, {block.name: block.activation for block in blocks})


def prune_blocks(
    model: nn.Module,
    batches: Batches,
    *,
    count: int | None = None,
    macs: float | None = None,
    criterion: str = "divergence",
    options: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> Shallower:
    """Remove the blocks of the least scores.

    Args:
        model: The network; left as it is.
        batches: Images, with labels where the criterion needs them, iterable more than once.
        count: How many blocks are removed, or
        macs: Down to which share of the multiply-adds; as few blocks as it takes.
        criterion: A name of ``all_block_criteria``.
        options: Of the criterion.
        progress: Receives the progress of scoring.

    Raises:
        InputError: Neither or both of ``count`` and ``macs`` are given, or the network has too few such blocks.

    Example:
        >>> import torch, infoprune
        >>> net = infoprune.zoo.build("resnet20").eval()
        >>> found = prune_blocks(net, [torch.rand(8, 3, 32, 32)], macs=0.8)
        >>> len(found.removed), round(found.macs, 2)
        (2, 0.77)
    """
    if (count is None) == (macs is None):
        raise InputError("say how many blocks are removed by one of count and macs")
    example = example_of(batches, model)
    blocks = find_blocks(model, example)
    whole = cost.count(model, example)
    wanted = _enough(whole.macs, blocks, count, macs)
    scores = score_blocks(model, blocks, batches, criterion, options, progress=progress)
    values = torch.tensor([scores[block.name] for block in blocks], dtype=torch.float64)
    # The least score first; of equal ones, or equal but for rounding, the last block.
    ordered = [blocks[place] for place in reversed(ranking(values, bound_of_maps(values)))]
    chosen = ordered[: wanted(ordered)]
    small = remove_blocks(model, chosen, example)
    left = cost.count(small, example)
    return Shallower(
        small,
        tuple(block.name for block in chosen),
        scores,
        left.macs / max(1, whole.macs),
        left.parameters / max(1, whole.parameters),
    )


def _enough(
    whole: int, blocks: Sequence[Block], number: int | None, macs: float | None
) -> Callable[[Sequence[Block]], int]:
    """Return a function from ordered blocks to how many of them are removed."""
    if number is not None:
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= len(blocks):
            raise InputError(f"the network has {len(blocks)} blocks that can be removed, not {number!r}")
        return lambda ordered: number
    assert macs is not None
    least = 1 - sum(block.macs for block in blocks) / max(1, whole)
    if not 0 < macs <= 1 or least > macs:
        raise InputError(
            f"macs is the share of the multiply-adds that is left, from {least:.3f}, without any block that can be "
            f"removed, to 1, not {macs}"
        )

    def needed(ordered: Sequence[Block]) -> int:
        left = whole
        for number, block in enumerate(ordered):
            if left <= macs * whole:
                return number
            left -= block.macs
        return len(ordered)

    return needed


def _verify(model: nn.Module, small: nn.Module, blocks: Sequence[Block], example: Examples) -> None:
    whole, cut = equivalence.copied(model), equivalence.copied(small)
    images = equivalence.placed(equivalence.batches_of(example)[0], whole)[:2]
    with ExitStack() as held:
        for block in blocks:
            held.enter_context(silenced(whole.get_submodule(block.name)))
        wanted = equivalence.outputs(whole, images)
    difference, scale = equivalence.compare(wanted, equivalence.outputs(cut, images))
    if difference:
        names = ", ".join(block.name for block in blocks)
        raise VerificationError(
            f"the network without {names} differs from the one with these blocks at zero by {difference:.3g}, where "
            f"the largest output is {scale:.3g}"
        )
