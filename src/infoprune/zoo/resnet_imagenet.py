"""ResNet-50 for ImageNet (He et al. 2015, arXiv 1512.03385), its stride in the 3x3 convolution as torchvision has it.

The names of its parameters are torchvision's, so that those weights load.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from infoprune.data.preprocessing import Preprocessing
from infoprune.zoo.initialisation import he_normal
from infoprune.zoo.registry import NetworkInfo, register

# Blocks and inner filters of the four stages; a block outputs four times its inner filters.
BLOCKS = (3, 4, 6, 3)
WIDTHS = (64, 128, 256, 512)
EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with batch norm, added to a shortcut: to ``(n, 4 * filters, H/s, W/s)``.

    Example:
        >>> import torch
        >>> Bottleneck(16, 8, stride=2).eval()(torch.rand(2, 16, 8, 8)).shape
        torch.Size([2, 32, 4, 4])
    """

    def __init__(self, in_channels: int, filters: int, stride: int) -> None:
        super().__init__()
        out = EXPANSION * filters
        self.conv1 = nn.Conv2d(in_channels, filters, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(filters, filters, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(filters, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out:
            self.downsample = nn.Sequential(nn.Conv2d(in_channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        self.relu3 = nn.ReLU()

    def forward(self, maps: Tensor) -> Tensor:  # noqa: D102
        inner = self.relu1(self.bn1(self.conv1(maps)))
        inner = self.bn3(self.conv3(self.relu2(self.bn2(self.conv2(inner)))))
        added: Tensor = self.relu3(inner + self.downsample(maps))
        return added


class ImageNetResNet(nn.Module):
    """A 7x7 convolution and a max-pool, four stages of bottlenecks, the mean over space, ``fc``.

    Images are ``(n, C, H, W)``, 224x224 in ImageNet; logits are ``(n, classes)``.

    Example:
        >>> import torch
        >>> ImageNetResNet((1, 1, 1, 1), classes=5, in_channels=3).eval()(torch.rand(1, 3, 32, 32)).shape
        torch.Size([1, 5])
    """

    def __init__(self, blocks: tuple[int, ...], classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        first, second, third, fourth = WIDTHS
        self.layer1 = nn.Sequential(*_stage(64, first, 1, blocks[0]))
        self.layer2 = nn.Sequential(*_stage(EXPANSION * first, second, 2, blocks[1]))
        self.layer3 = nn.Sequential(*_stage(EXPANSION * second, third, 2, blocks[2]))
        self.layer4 = nn.Sequential(*_stage(EXPANSION * third, fourth, 2, blocks[3]))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(EXPANSION * fourth, classes)
        he_normal(self)

    def forward(self, images: Tensor) -> Tensor:  # noqa: D102
        maps = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        maps = self.layer4(self.layer3(self.layer2(self.layer1(maps))))
        logits: Tensor = self.fc(self.avgpool(maps).flatten(1))
        return logits


def _stage(in_channels: int, filters: int, stride: int, blocks: int) -> Iterator[Bottleneck]:
    yield Bottleneck(in_channels, filters, stride)
    for _ in range(blocks - 1):
        yield Bottleneck(EXPANSION * filters, filters, 1)


@register(
    NetworkInfo(
        name="resnet50",
        description="ResNet-50 for ImageNet, parameters named as in torchvision",
        input_shape=(3, 224, 224),
        classes=1000,
        preprocessing=Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), resize=256, crop=224),
        taps={"hrel": "convolution"},
        source="arXiv 1512.03385",
        dataset="folder",
    )
)
def resnet50(classes: int = 1000, in_channels: int = 3) -> ImageNetResNet:
    """Return ResNet-50: 25,557,032 parameters at 1000 classes, 4.089 G multiply-adds at 224x224.

    Example:
        >>> sum(parameter.numel() for parameter in resnet50().parameters())
        25557032
    """
    return ImageNetResNet(BLOCKS, classes, in_channels)
