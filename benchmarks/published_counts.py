"""How many filters papers keep of each layer of ResNet-56 and VGG-16, as their repositories write it down."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from infoprune import zoo


def widths(network: str) -> dict[str, int]:
    """Return the number of filters of every convolution of a network of the zoo."""
    with torch.device("meta"):
        modules = zoo.build(network).named_modules()
    return {name: module.out_channels for name, module in modules if isinstance(module, nn.Conv2d)}


def resnet56(streams: Sequence[float], inner: Sequence[float]) -> dict[str, int]:
    """Return the counts for shares removed from the residual streams of the stages, and inside the blocks.

    Repositories leave the first convolution whole, and let the shortcut of the first block drop channels.
    Here the first convolution keeps what its stream keeps, as in every ordinary network, so that a little more goes.
    """
    found = {}
    for name, width in widths("resnet56").items():
        stage = 0 if name == "conv1" else int(name.removeprefix("layer")[0]) - 1
        shares = inner if name.endswith(".conv1") else streams
        found[name] = _left(width, shares[stage])
    return found


def vgg16(shares: Sequence[float]) -> dict[str, int]:
    """Return the counts for the shares removed from the convolutions; those that are not named stay whole."""
    return {name: _left(width, share) for (name, width), share in zip(widths("vgg16").items(), shares, strict=False)}


def _left(width: int, share: float) -> int:
    return int(width * (1 - share))


COUNTS = {
    # Li et al. 2017 (arXiv 1608.08710), table 2: half of the first and of the last six convolutions.
    "li-2017": vgg16([0.5, *[0.0] * 6, *[0.5] * 6]),
    # HRankPlus, CHIP and CORING share these: 28 / 22, 47.4 / 42.8, 72.3 / 71.8 % of MACs and parameters gone.
    "resnet56-28": resnet56([0.18, 0.18, 0], [0.18] * 3),
    "resnet56-47": resnet56([0.15, 0.15, 0], [0.4] * 3),
    "resnet56-72": resnet56([0.4, 0.4, 0], [0.5, 0.6, 0.7]),
    # FPGM: 40 % of every layer.
    "resnet56-fpgm": resnet56([0.4] * 3, [0.4] * 3),
    # The same three: 58.1 / 81.6, 66.6 / 83.3 and 78.6 / 87.3 %.
    "vgg16-58": vgg16([0.21] * 7 + [0.75] * 5),
    "vgg16-67": vgg16([0.3] * 7 + [0.75] * 5),
    "vgg16-79": vgg16([0.45] * 7 + [0.78] * 5),
}
