"""LeNet-5 in the two forms of the literature: Caffe's example network and the one of HRel."""

from __future__ import annotations

from torch import Tensor, nn

from infoprune.data.preprocessing import Preprocessing
from infoprune.zoo.initialisation import he_normal
from infoprune.zoo.registry import NetworkInfo, register

# Pixels of 0 to 255 divided by 256, as Caffe's example does it.
_MNIST = Preprocessing(mean=(0.0,), std=(256 / 255,))

# 28 pixels, 5x5, halved, 5x5, halved.
_SIDE = 4


class CaffeLeNet(nn.Module):
    """Caffe's LeNet: 20 and 50 filters of 5x5, each pooled and without ReLU, then 500 and ``classes``.

    Images are ``(n, C, 28, 28)``; logits are ``(n, classes)``.

    Example:
        >>> import torch
        >>> CaffeLeNet(classes=10, in_channels=1)(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(self, classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 20, 5)
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.pool2 = nn.MaxPool2d(2)
        self.ip1 = nn.Linear(50 * _SIDE**2, 500)
        self.relu1 = nn.ReLU()
        self.ip2 = nn.Linear(500, classes)
        he_normal(self)

    def forward(self, images: Tensor) -> Tensor:  # noqa: D102
        maps = self.pool2(self.conv2(self.pool1(self.conv1(images))))
        logits: Tensor = self.ip2(self.relu1(self.ip1(maps.flatten(1))))
        return logits


class HRelLeNet(nn.Module):
    """HRel's LeNet-5: 20 and 50 filters of 5x5 with ReLU, each pooled, then 800, 500 and ``classes``.

    Images are ``(n, C, 28, 28)``; logits are ``(n, classes)``.

    Example:
        >>> import torch
        >>> HRelLeNet(classes=10, in_channels=1)(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(self, classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 20, 5)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(50 * _SIDE**2, 800)
        self.relu3 = nn.ReLU()
        self.fc2 = nn.Linear(800, 500)
        self.relu4 = nn.ReLU()
        self.fc3 = nn.Linear(500, classes)
        he_normal(self)

    def forward(self, images: Tensor) -> Tensor:  # noqa: D102
        maps = self.pool1(self.relu1(self.conv1(images)))
        maps = self.pool2(self.relu2(self.conv2(maps)))
        hidden = self.relu3(self.fc1(maps.flatten(1)))
        logits: Tensor = self.fc3(self.relu4(self.fc2(hidden)))
        return logits


@register(
    NetworkInfo(
        name="lenet5",
        description="LeNet-5 for MNIST as in Caffe, 20-50-500-10, no ReLU after the convolutions",
        input_shape=(1, 28, 28),
        classes=10,
        preprocessing=_MNIST,
        taps={"hrel": "convolution"},
        source="the LeNet example of Caffe",
        dataset="mnist",
    )
)
def lenet5(classes: int = 10, in_channels: int = 1) -> CaffeLeNet:
    """Return Caffe's LeNet-5: 431,080 parameters at 10 classes.

    Example:
        >>> sum(isinstance(one, nn.Conv2d) for one in lenet5().modules())
        2
    """
    return CaffeLeNet(classes, in_channels)


@register(
    NetworkInfo(
        name="lenet5_hrel",
        description="LeNet-5 for MNIST as in HRel, 20-50 filters with ReLU, head 800-800-500-10",
        input_shape=(1, 28, 28),
        classes=10,
        preprocessing=_MNIST,
        taps={"hrel": "convolution"},
        source="arXiv 2202.10716",
        dataset="mnist",
    )
)
def lenet5_hrel(classes: int = 10, in_channels: int = 1) -> HRelLeNet:
    """Return HRel's LeNet-5: 288,000 and 1,600,000 multiply-adds in its convolutions.

    Example:
        >>> type(lenet5_hrel()).__name__
        'HRelLeNet'
    """
    return HRelLeNet(classes, in_channels)
