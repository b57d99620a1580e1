"""MobileNetV2 in its CIFAR and ImageNet forms (Sandler et al. 2018, arXiv 1801.04381)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor, nn

from infoprune.data.preprocessing import Preprocessing
from infoprune.zoo.initialisation import he_normal
from infoprune.zoo.registry import NetworkInfo, register


@dataclass(frozen=True)
class Stage:
    """Blocks in a row, a line of the paper's table 2: expansion t, filters c, repetitions n, stride s of the first.

    Example:
        >>> Stage(expansion=6, filters=24, blocks=2, stride=2).filters
        24
    """

    expansion: int
    filters: int
    blocks: int
    stride: int


STEM = 32
LAST = 1280
IMAGENET_STAGES = (
    Stage(1, 16, 1, 1),
    Stage(6, 24, 2, 2),
    Stage(6, 32, 3, 2),
    Stage(6, 64, 4, 2),
    Stage(6, 96, 3, 1),
    Stage(6, 160, 3, 2),
    Stage(6, 320, 1, 1),
)
# Images of 32 pixels are halved three times instead of five times: not in the stem, not in the second stage.
CIFAR_STAGES = tuple(replace(stage, stride=1) if stage.filters == 24 else stage for stage in IMAGENET_STAGES)


@dataclass(frozen=True)
class Style:
    """How the layers are made.

    Args:
        norm: Whether batch norm follows each convolution; without it the convolution has a bias.
        same: Whether images are padded as TensorFlow's ``SAME`` does: at stride 2 and even sizes, after the image only.

    Example:
        >>> Style(norm=True, same=False).norm
        True
    """

    norm: bool
    same: bool


class SamePadding(nn.Module):
    """Zeros around ``(n, C, H, W)`` so that a convolution with a stride returns ``ceil(H / stride)`` rows.

    An odd number of zeros has the larger half below and to the right, as in TensorFlow.

    Example:
        >>> import torch
        >>> SamePadding(kernel=3, stride=2)(torch.ones(1, 1, 4, 4)).shape
        torch.Size([1, 1, 5, 5])
    """

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, maps: Tensor) -> Tensor:  # noqa: D102
        above, below = self._split(maps.shape[-2])
        left, right = self._split(maps.shape[-1])
        return F.pad(maps, (left, right, above, below))

    def _split(self, size: int) -> tuple[int, int]:
        total = max((-(-size // self.stride) - 1) * self.stride + self.kernel - size, 0)
        return total // 2, total - total // 2


class ConvolutionUnit(nn.Module):
    """A convolution, its batch norm where there is one, and ReLU6 where ``active``.

    Example:
        >>> import torch
        >>> unit = ConvolutionUnit(3, 8, 3, Style(norm=True, same=False), stride=2)
        >>> unit(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 8, 4, 4])
    """

    def __init__(
        self,
        in_channels: int,
        filters: int,
        kernel: int,
        style: Style,
        *,
        stride: int = 1,
        depthwise: bool = False,
        active: bool = True,
    ) -> None:
        super().__init__()
        pads_itself = style.same and stride > 1
        self.padding = SamePadding(kernel, stride) if pads_itself else nn.Identity()
        self.conv = nn.Conv2d(
            in_channels,
            filters,
            kernel,
            stride,
            padding=0 if pads_itself else kernel // 2,
            groups=in_channels if depthwise else 1,
            bias=not style.norm,
        )
        self.norm = nn.BatchNorm2d(filters) if style.norm else nn.Identity()
        self.activation = nn.ReLU6() if active else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:  # noqa: D102
        out: Tensor = self.activation(self.norm(self.conv(self.padding(maps))))
        return out


class InvertedResidual(nn.Module):
    """Expand, depthwise, project without activation; added to the input where the shapes are equal.

    Example:
        >>> import torch
        >>> block = InvertedResidual(8, 16, stride=2, expansion=6, style=Style(norm=True, same=False))
        >>> block(torch.rand(2, 8, 8, 8)).shape
        torch.Size([2, 16, 4, 4])
    """

    def __init__(self, in_channels: int, filters: int, stride: int, expansion: int, style: Style) -> None:
        super().__init__()
        hidden = in_channels * expansion
        units = [] if expansion == 1 else [ConvolutionUnit(in_channels, hidden, 1, style)]
        units.append(ConvolutionUnit(hidden, hidden, 3, style, stride=stride, depthwise=True))
        units.append(ConvolutionUnit(hidden, filters, 1, style, active=False))
        self.conv = nn.Sequential(*units)
        self.residual = stride == 1 and in_channels == filters

    def forward(self, maps: Tensor) -> Tensor:  # noqa: D102
        out: Tensor = self.conv(maps)
        return maps + out if self.residual else out


class MobileNetV2(nn.Module):
    """A 3x3 convolution, seventeen inverted residuals, a 1x1 convolution, the mean over space, ``classifier``.

    Images are ``(n, C, H, W)``; logits are ``(n, classes)``.

    Example:
        >>> import torch
        >>> stages = (Stage(1, 8, 1, 1), Stage(6, 16, 2, 2))
        >>> net = MobileNetV2(stages, 1, Style(norm=True, same=False), classes=10, in_channels=3).eval()
        >>> net(torch.rand(2, 3, 16, 16)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self, stages: tuple[Stage, ...], stem_stride: int, style: Style, classes: int, in_channels: int
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(
            ConvolutionUnit(in_channels, STEM, 3, style, stride=stem_stride),
            *_blocks(stages, style),
            ConvolutionUnit(stages[-1].filters, LAST, 1, style),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(LAST, classes)
        he_normal(self)

    def forward(self, images: Tensor) -> Tensor:  # noqa: D102
        logits: Tensor = self.classifier(self.pool(self.features(images)).flatten(1))
        return logits


def _blocks(stages: tuple[Stage, ...], style: Style) -> Iterator[InvertedResidual]:
    channels = STEM
    for stage in stages:
        for block in range(stage.blocks):
            stride = stage.stride if block == 0 else 1
            yield InvertedResidual(channels, stage.filters, stride, stage.expansion, style)
            channels = stage.filters


@register(
    NetworkInfo(
        name="mobilenet_v2",
        description="MobileNetV2 for CIFAR, strides 1 in the stem and in the second stage",
        input_shape=(3, 32, 32),
        classes=10,
        preprocessing=Preprocessing(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010)),
        source="arXiv 1801.04381",
        dataset="cifar10",
    )
)
def mobilenet_v2(classes: int = 10, in_channels: int = 3) -> MobileNetV2:
    """Return MobileNetV2 for CIFAR: 2,236,682 parameters at 10 classes, 87,976,448 multiply-adds at 32x32.

    The 94.54 M of the literature are these multiply-adds and four operations for each output of a batch norm.

    Example:
        >>> sum(parameter.numel() for parameter in mobilenet_v2().parameters())
        2236682
    """
    return MobileNetV2(CIFAR_STAGES, 1, Style(norm=True, same=False), classes, in_channels)


@register(
    NetworkInfo(
        name="mobilenet_v2_imagenet",
        description="MobileNetV2 1.0 for ImageNet with TensorFlow's padding and the batch norms folded into biases",
        input_shape=(3, 224, 224),
        classes=1000,
        preprocessing=Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), resize=224, crop=224),
        source="arXiv 1801.04381",
        dataset="folder",
    )
)
def mobilenet_v2_imagenet(classes: int = 1000, in_channels: int = 3, batch_norm: bool = False) -> MobileNetV2:
    """Return MobileNetV2 for ImageNet with TensorFlow's padding, without batch norm unless ``batch_norm``.

    Example:
        >>> mobilenet_v2_imagenet(classes=1001).classifier.out_features
        1001
    """
    return MobileNetV2(IMAGENET_STAGES, 2, Style(norm=batch_norm, same=True), classes, in_channels)
