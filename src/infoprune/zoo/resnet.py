"""ResNets for CIFAR, 6n + 2 layers in three stages (He et al. 2015, section 4.2, arXiv 1512.03385)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from torch import Tensor, nn

from infoprune.data.preprocessing import Preprocessing
from infoprune.zoo.initialisation import he_normal
from infoprune.zoo.registry import NetworkInfo, register
from infoprune.zoo.shortcut import ZeroPadShortcut

DEPTHS = (20, 32, 44, 56, 110)
WIDTHS = (16, 32, 64)

# Option A of the paper: no parameters, missing channels are zero. Option B: a 1x1 convolution and batch norm.
Option = Literal["A", "B"]

_OPTION_A = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_OPTION_B = Preprocessing(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, added to a shortcut: ``(n, C, H, W)`` to ``(n, filters, H/s, W/s)``.

    Example:
        >>> import torch
        >>> BasicBlock(16, 32, stride=2, option="A").eval()(torch.rand(2, 16, 8, 8)).shape
        torch.Size([2, 32, 4, 4])
    """

    def __init__(self, in_channels: int, filters: int, stride: int, option: Option) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, filters, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(filters, filters, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.shortcut = _shortcut(in_channels, filters, stride, option)
        self.relu2 = nn.ReLU()

    def forward(self, maps: Tensor) -> Tensor:  # noqa: D102
        inner = self.relu1(self.bn1(self.conv1(maps)))
        added: Tensor = self.relu2(self.bn2(self.conv2(inner)) + self.shortcut(maps))
        return added


class ResNet(nn.Module):
    """A 3x3 convolution, three stages of ``blocks`` blocks at 16, 32 and 64 filters, the mean over space, ``linear``.

    Images are ``(n, C, H, W)``, 32x32 in CIFAR; logits are ``(n, classes)``.

    Example:
        >>> import torch
        >>> ResNet(blocks=1, option="B", classes=10, in_channels=3).eval()(torch.rand(2, 3, 16, 16)).shape
        torch.Size([2, 10])
    """

    def __init__(self, blocks: int, option: Option, classes: int, in_channels: int) -> None:
        super().__init__()
        first, second, third = WIDTHS
        self.conv1 = nn.Conv2d(in_channels, first, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.relu = nn.ReLU()
        self.layer1 = nn.Sequential(*_stage(first, first, 1, blocks, option))
        self.layer2 = nn.Sequential(*_stage(first, second, 2, blocks, option))
        self.layer3 = nn.Sequential(*_stage(second, third, 2, blocks, option))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(third, classes)
        he_normal(self)

    def forward(self, images: Tensor) -> Tensor:  # noqa: D102
        maps = self.relu(self.bn1(self.conv1(images)))
        maps = self.layer3(self.layer2(self.layer1(maps)))
        logits: Tensor = self.linear(self.pool(maps).flatten(1))
        return logits


def _shortcut(in_channels: int, filters: int, stride: int, option: Option) -> nn.Module:
    if stride == 1 and in_channels == filters:
        return nn.Identity()
    if option == "A":
        return ZeroPadShortcut(in_channels, filters, stride)
    return nn.Sequential(nn.Conv2d(in_channels, filters, 1, stride, bias=False), nn.BatchNorm2d(filters))


def _stage(in_channels: int, filters: int, stride: int, blocks: int, option: Option) -> Iterator[BasicBlock]:
    yield BasicBlock(in_channels, filters, stride, option)
    for _ in range(blocks - 1):
        yield BasicBlock(filters, filters, 1, option)


def _register(depth: int, option: Option) -> None:
    shortcut, suffix = ("zero-padded", "") if option == "A" else ("1x1 convolution", "_b")

    @register(
        NetworkInfo(
            name=f"resnet{depth}{suffix}",
            description=f"ResNet-{depth} for CIFAR, option-{option} ({shortcut}) shortcuts",
            input_shape=(3, 32, 32),
            classes=10,
            preprocessing=_OPTION_A if option == "A" else _OPTION_B,
            taps={"hrel": "convolution"},
            source="arXiv 1512.03385",
            dataset="cifar10",
        )
    )
    def resnet(classes: int = 10, in_channels: int = 3) -> ResNet:
        return ResNet((depth - 2) // 6, option, classes, in_channels)


for _depth in DEPTHS:
    _register(_depth, "A")
    _register(_depth, "B")
