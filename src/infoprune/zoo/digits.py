"""A small network for the 8x8 digits that come with scikit-learn; trains in seconds."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from infoprune.data.preprocessing import Preprocessing
from infoprune.zoo.initialisation import he_normal
from infoprune.zoo.registry import NetworkInfo, register

# Filters of the convolutions before and after the one pooling.
STAGES = ((16, 32), (64, 64))


class DigitsNetwork(nn.Module):
    """Four 3x3 convolutions with batch norm and ReLU, a max-pool in the middle, the mean over space, ``classifier``.

    Images are ``(n, C, H, W)``, 8x8 for the digits; logits are ``(n, classes)``.

    Example:
        >>> import torch
        >>> DigitsNetwork(classes=10, in_channels=1).eval()(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(self, classes: int, in_channels: int) -> None:
        super().__init__()
        self.features = nn.Sequential(*_features(in_channels))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(STAGES[-1][-1], classes)
        he_normal(self)

    def forward(self, images: Tensor) -> Tensor:  # noqa: D102
        logits: Tensor = self.classifier(self.pool(self.features(images)).flatten(1))
        return logits


def _features(channels: int) -> Iterator[nn.Module]:
    for stage, widths in enumerate(STAGES):
        if stage > 0:
            yield nn.MaxPool2d(2)
        for filters in widths:
            yield nn.Conv2d(channels, filters, 3, padding=1, bias=False)
            yield nn.BatchNorm2d(filters)
            yield nn.ReLU()
            channels = filters


@register(
    NetworkInfo(
        name="digits",
        description="four convolutions with batch norm for scikit-learn's 8x8 digits",
        input_shape=(1, 8, 8),
        classes=10,
        # The grey values of 0 to 16 reach the network divided by 16 and nothing else.
        preprocessing=Preprocessing(mean=(0.0,), std=(1.0,)),
        dataset="digits",
    )
)
def digits(classes: int = 10, in_channels: int = 1) -> DigitsNetwork:
    """Return the network of the demonstration.

    Example:
        >>> digits().features[0].out_channels
        16
    """
    return DigitsNetwork(classes, in_channels)
