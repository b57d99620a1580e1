"""Scores of blocks: the larger, the better the reason to keep the block."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from infoprune.data.batches import Batches, images_of
from infoprune.declarations.option_values import check_keywords
from infoprune.depth.blocks import Block, stand_in
from infoprune.measure.divergence import Answers, divergence_between
from infoprune.network.equivalence import copied
from infoprune.network.stand_ins import replace_module
from infoprune.progress import Progress, silent
from infoprune.registry import enter, in_order, look_up

Function = Callable[..., dict[str, float]]


@dataclass(frozen=True)
class BlockCriterionInfo:
    """What is declared of a criterion of blocks.

    Args:
        name: The word that selects it.
        function: ``function(model, blocks, batches, *, progress, **options)`` returns the score by block; its other
            keyword-only arguments are the options.
        description: One line.
        paper: Where it was published.
        needs_labels: Whether batches are ``(images, labels)`` pairs.
        cost: In words.

    Example:
        >>> info = BlockCriterionInfo("first", lambda model, blocks, batches, *, progress: {}, "nothing is scored")
        >>> info.needs_labels
        False
    """

    name: str
    function: Function
    description: str
    paper: str = ""
    needs_labels: bool = False
    cost: str = ""


_REGISTRY: dict[str, BlockCriterionInfo] = {}


def register(info: BlockCriterionInfo) -> BlockCriterionInfo:
    """Make a criterion of blocks selectable by name.

    Raises:
        InputError: The name is taken.

    Example:
        >>> info = BlockCriterionInfo("first", lambda model, blocks, batches, *, progress: {}, "nothing is scored")
        >>> register(info).name
        'first'
        >>> del _REGISTRY["first"]
    """
    return enter(_REGISTRY, "criterion of blocks", info)


def all_block_criteria() -> tuple[BlockCriterionInfo, ...]:
    """Return every criterion of blocks, by name.

    Example:
        >>> {"cka", "divergence"} <= {info.name for info in all_block_criteria()}
        True
    """
    return in_order(_REGISTRY)


def score_blocks(
    model: nn.Module,
    blocks: Sequence[Block],
    batches: Batches,
    criterion: str = "divergence",
    options: Mapping[str, Any] | None = None,
    *,
    progress: Progress = silent,
) -> dict[str, float]:
    """Return the score of every block.

    Args:
        model: The network; left as it is.
        blocks: What ``find_blocks`` found.
        batches: Images, with labels where the criterion needs them, iterable more than once.
        criterion: A name of ``all_block_criteria``.
        options: Of the criterion.
        progress: Receives the progress.

    Raises:
        InputError: The criterion or an option is unknown, or the criterion refuses the images.

    Example:
        >>> import torch, infoprune
        >>> from infoprune.depth import find_blocks
        >>> net, images = infoprune.zoo.build("resnet20").eval(), torch.rand(8, 3, 32, 32)
        >>> sorted(score_blocks(net, find_blocks(net, images)[:2], [images], "cka"))
        ['layer1.0', 'layer1.1']
    """
    info = look_up(_REGISTRY, "criterion of blocks", criterion)
    check_keywords(info.function, options or {}, f"the criterion of blocks '{criterion}'", but=("progress",))
    return info.function(model, blocks, batches, progress=progress, **(options or {}))


def by_divergence(
    model: nn.Module, blocks: Sequence[Block], batches: Batches, *, progress: Progress = silent
) -> dict[str, float]:
    """Return by block how far the network's answers are from its own without the block alone.

    Example:
        >>> import torch, infoprune
        >>> from infoprune.depth import find_blocks
        >>> net, images = infoprune.zoo.build("resnet20").eval(), torch.rand(8, 3, 32, 32)
        >>> min(by_divergence(net, find_blocks(net, images)[:2], [images]).values()) >= 0
        True
    """
    twin = copied(model)
    found, original = {}, Answers(twin)
    for done, block in enumerate(blocks, 1):
        without = copied(twin)
        replace_module(without, block.name, stand_in(block))
        found[block.name] = divergence_between(original, without, images_of(batches, twin)).value
        progress("blocks removed one at a time", done, len(blocks))
    return found


register(
    BlockCriterionInfo(
        "divergence",
        by_divergence,
        "how far the network's answers are from its own without the block",
        cost="two forward passes per image and block",
    )
)
