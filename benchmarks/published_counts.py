"""How many filters papers keep of each layer of ResNet-56 and VGG-16, as their repositories write it down."""

from __future__ import annotations

from collections.abc import Sequence

BLOCKS = 9
WIDTHS = (16, 32, 64)
CONVOLUTIONS = (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40)
VGG_WIDTHS = (64, 64, 128, 128, *[256] * 3, *[512] * 6)


def resnet56(streams: Sequence[float], inner: Sequence[float]) -> dict[str, int]:
    """Return the counts for shares removed from the residual streams of the stages, and inside the blocks.

    Repositories leave the first convolution whole, and let the shortcut of the first block drop channels.
    Here the first convolution keeps what its stream keeps, as in every ordinary network, so that a little more goes.
    """
    kept = {"conv1": _left(WIDTHS[0], streams[0])}
    for stage, width in enumerate(WIDTHS):
        for block in range(BLOCKS):
            name = f"layer{stage + 1}.{block}"
            kept[f"{name}.conv1"] = _left(width, inner[stage])
            kept[f"{name}.conv2"] = _left(width, streams[stage])
    return kept


def vgg16(shares: Sequence[float]) -> dict[str, int]:
    """Return the counts for the shares removed from the convolutions; those that are not named stay whole."""
    return {
        f"features.{layer}": _left(width, share)
        for layer, width, share in zip(CONVOLUTIONS, VGG_WIDTHS, shares, strict=False)
    }


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
