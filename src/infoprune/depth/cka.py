"""MPruner: blocks whose outputs are alike, by centred kernel alignment (Hu et al. 2024, arXiv 2408.13482).

With o the flattened maps of n images and K = o o^T without its diagonal, centred as the unbiased estimator of the
Hilbert-Schmidt independence criterion is (Nguyen, Raghu and Kornblith 2021)::

    m_j = sum_i K_ij / (n - 2),   m <- m - sum(m) / (2 (n - 1)),   K~_ij = K_ij - m_i - m_j off the diagonal
    HSIC(a, b) = sum over batches of <K~_a, K~_b>,   CKA = HSIC(a, b) / sqrt(HSIC(a, a) HSIC(b, b))

1 for maps that differ by an orthogonal map and a scale; it can be negative. Images are taken in batches of 64 whatever
batches they come in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from infoprune.data.batches import Batches, images_of
from infoprune.depth.blocks import Block
from infoprune.depth.scoring import BlockCriterionInfo, register
from infoprune.errors import InputError
from infoprune.network.equivalence import copied
from infoprune.progress import Progress, silent

BATCH = 64
# The estimator divides by n - 2 and by n - 3.
_FEWEST = 4


def centred(rows: Tensor) -> Tensor:
    """Return the ``(n, n)`` centred kernel of ``(n, d)`` rows, float64.

    Example:
        >>> centred(torch.tensor([[0.0], [1.0], [2.0], [3.0]])).sum(dim=1).abs().max().item() < 1e-12
        True
    """
    rows = rows.double()
    kernel = (rows @ rows.mT).fill_diagonal_(0)
    count = len(kernel)
    means = kernel.sum(dim=0) / (count - 2)
    means = means - means.sum() / (2 * (count - 1))
    return (kernel - means[:, None] - means).fill_diagonal_(0)


def cka(one: Tensor, other: Tensor) -> float:
    """Return the unbiased centred kernel alignment of ``(n, d)`` and ``(n, e)`` rows; 0 where either is constant.

    Raises:
        InputError: There are fewer than 4 rows, or different numbers of them.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
        >>> round(cka(x, 2 - 3 * x), 6), round(cka(x, x**2), 6)
        (1.0, 0.995317)
    """
    if len(one) != len(other) or len(one) < _FEWEST:
        raise InputError(f"alignment compares the same {_FEWEST} images or more, not {len(one)} and {len(other)}")
    a, b = centred(one.flatten(1)), centred(other.flatten(1))
    return _aligned(float((a * b).sum()), float((a * a).sum()), float((b * b).sum()))


def clusters(similarity: Tensor, threshold: float) -> list[list[int]]:
    """Return successive units in clusters: a unit joins while it is as similar to the first of the cluster.

    Args:
        similarity: ``(U, U)``.
        threshold: At least this.

    Example:
        >>> rows = torch.tensor([[100.0, 99, 97, 99], [99, 100, 0, 0], [97, 0, 100, 99], [99, 0, 99, 100]])
        >>> clusters(rows, 98.0)
        [[0, 1], [2, 3]]
    """
    found: list[list[int]] = []
    for unit in range(len(similarity)):
        if found and float(similarity[found[-1][0], unit]) >= threshold:
            found[-1].append(unit)
        else:
            found.append([unit])
    return found


def taken_from_clusters(groups: Sequence[Sequence[int]], step: int = 1) -> list[int]:
    """Return the units that are removed: of each cluster every ``step``-th one after the first.

    Example:
        >>> taken_from_clusters([[0, 1, 2, 3, 4]], step=2)
        [1, 3]
    """
    return [unit for group in groups for unit in group[1::step]]


def mpruner(
    model: nn.Module,
    blocks: Sequence[Block],
    batches: Batches,
    *,
    threshold: float = 0.98,
    step: int = 1,
    progress: Progress = silent,
) -> tuple[Block, ...]:
    """Return the blocks that MPruner removes in one round: all but the first of each run of alike outputs.

    Units are the outputs of the blocks, and what enters each block that does not follow another one of them. The paper
    trains after each round, and takes a larger step where the accuracy fell by more than 4 points.

    Args:
        model: The network; left as it is.
        blocks: What ``find_blocks`` found.
        batches: Images.
        threshold: Alignment from which outputs are alike; 0.95 to 0.99 as published.
        step: 1 removes all but the first of a cluster, 2 every second one, and so on.
        progress: Called after every batch.

    Raises:
        InputError: There are fewer than 4 images, or an option is out of range.

    Example:
        >>> import infoprune
        >>> from infoprune.depth import find_blocks
        >>> net, images = infoprune.zoo.build("resnet20").eval(), torch.rand(8, 3, 32, 32)
        >>> len(mpruner(net, find_blocks(net, images), [images], threshold=1.1))
        0
    """
    if isinstance(step, bool) or not isinstance(step, int) or step < 1:
        raise InputError(f"of a cluster every step-th block is removed, a step of 1 or more, not {step!r}")
    if not math.isfinite(threshold):
        raise InputError(f"the threshold is an alignment, usually 0.9 to 1, not {threshold}")
    found = _Alignment(model, blocks)
    units = found.units()
    similarity = found.matrix(batches, units, progress)
    taken = taken_from_clusters(clusters(similarity, threshold), step)
    names = {units[unit][0] for unit in taken if units[unit][1] == "out"}
    return tuple(block for block in blocks if block.name in names)


def by_alignment(
    model: nn.Module, blocks: Sequence[Block], batches: Batches, *, progress: Progress = silent
) -> dict[str, float]:
    """Return by block 1 - the alignment of its input and its output.

    Example:
        >>> import infoprune
        >>> from infoprune.depth import find_blocks
        >>> net, images = infoprune.zoo.build("resnet20").eval(), torch.rand(8, 3, 32, 32)
        >>> sorted(by_alignment(net, find_blocks(net, images)[:2], [images]))
        ['layer1.0', 'layer1.1']
    """
    found = _Alignment(model, blocks)
    units = [(block.name, side) for block in blocks for side in ("in", "out")]
    sums = found.sums(batches, units, [(2 * place, 2 * place + 1) for place in range(len(blocks))], progress)
    return {block.name: 1 - _aligned(*sums[2 * place, 2 * place + 1]) for place, block in enumerate(blocks)}


class _Alignment:
    """The maps before and after blocks, and how alike they are."""

    def __init__(self, model: nn.Module, blocks: Sequence[Block]) -> None:
        self.model = copied(model)
        self.blocks = blocks

    def units(self) -> list[tuple[str, str]]:
        """Return the outputs of the blocks, and what enters those that do not follow another one in one parent."""
        found: list[tuple[str, str]] = []
        before = ""
        for block in self.blocks:
            parent = block.name.rpartition(".")[0]
            if parent != before or not found:
                found.append((block.name, "in"))
            found.append((block.name, "out"))
            before = parent
        return found

    def matrix(self, batches: Batches, units: Sequence[tuple[str, str]], progress: Progress) -> Tensor:
        """Return the ``(U, U)`` alignments of all pairs."""
        pairs = [(i, j) for i in range(len(units)) for j in range(i + 1)]
        sums = self.sums(batches, units, pairs, progress)
        found = torch.eye(len(units), dtype=torch.float64)
        for (i, j), three in sums.items():
            found[i, j] = found[j, i] = _aligned(*three) if i != j else 1.0
        return found

    @torch.no_grad()
    def sums(
        self,
        batches: Batches,
        units: Sequence[tuple[str, str]],
        pairs: Sequence[tuple[int, int]],
        progress: Progress,
    ) -> dict[tuple[int, int], tuple[float, float, float]]:
        """Return by pair HSIC(a, b), HSIC(a, a) and HSIC(b, b), summed over batches."""
        cross = dict.fromkeys(pairs, 0.0)
        own = [0.0] * len(units)
        seen = 0
        for done, images in enumerate(_in_batches(images_of(batches, self.model)), 1):
            if len(images) < _FEWEST:
                continue
            seen += len(images)
            kernels = self._kernels(images, units)
            for unit, kernel in enumerate(kernels):
                own[unit] += float(kernel.square().sum())
            for i, j in pairs:
                cross[i, j] += float((kernels[i] * kernels[j]).sum())
            progress("alignment of blocks", done, done)
        if not seen:
            raise InputError(f"alignment compares {_FEWEST} images or more: give more images")
        return {(i, j): (value, own[i], own[j]) for (i, j), value in cross.items()}

    def _kernels(self, images: Tensor, units: Sequence[tuple[str, str]]) -> list[Tensor]:
        found: dict[tuple[str, str], Tensor] = {}
        wanted = set(units)

        def note(name: str) -> Any:
            def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
                for side, tensor in (("in", inputs[0]), ("out", output)):
                    if (name, side) in wanted:
                        found[name, side] = centred(tensor.flatten(1).cpu())

            return hook

        with ExitStack() as hooks:
            for name in dict.fromkeys(name for name, _ in units):
                hooks.callback(self.model.get_submodule(name).register_forward_hook(note(name)).remove)
            self.model(images)
        return [found[unit] for unit in units]


def _in_batches(images: Iterator[Tensor]) -> Iterator[Tensor]:
    """Yield the same images in batches of 64, the rest last; images of another size begin a batch."""
    waiting: list[Tensor] = []
    for some in images:
        if waiting and some.shape[1:] != waiting[0].shape[1:]:
            yield torch.cat(waiting)
            waiting = []
        waiting.append(some)
        while sum(map(len, waiting)) >= BATCH:
            joined = torch.cat(waiting)
            yield joined[:BATCH]
            waiting = [joined[BATCH:]] if len(joined) > BATCH else []
    if waiting:
        yield torch.cat(waiting)


def _aligned(cross: float, one: float, other: float) -> float:
    scale = math.sqrt(max(0.0, one) * max(0.0, other))
    return cross / scale if scale > 0 else 0.0


register(
    BlockCriterionInfo(
        "cka",
        by_alignment,
        "1 - centred kernel alignment of the block's input and output",
        paper="arXiv 2408.13482",
        cost="one forward pass per image; n x n kernels of 64 images",
    )
)
