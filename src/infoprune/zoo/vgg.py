"""VGG-16 with batch norm in its CIFAR form (Simonyan & Zisserman, arXiv 1409.1556)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from infoprune.data.preprocessing import Preprocessing
from infoprune.zoo.initialisation import he_normal
from infoprune.zoo.registry import NetworkInfo, register

# Filters of the convolutions of each stage; a pooling follows each stage.
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))

_CIFAR10 = Preprocessing(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))


class VGG(nn.Module):
    """Convolution, batch norm and ReLU thirteen times, four max-pools and ``last_pool``, then ``classifier``.

    Images are ``(n, C, H, W)`` with H and W of 16 pixels or more; logits are ``(n, classes)``.

    Example:
        >>> import torch
        >>> VGG(nn.AdaptiveAvgPool2d(1), nn.Linear(512, 10), in_channels=3).eval()(torch.rand(1, 3, 16, 16)).shape
        torch.Size([1, 10])
    """

    def __init__(self, last_pool: nn.Module, classifier: nn.Module, in_channels: int) -> None:
        super().__init__()
        self.features = nn.Sequential(*_features(in_channels), last_pool)
        self.classifier = classifier
        he_normal(self)

    def forward(self, images: Tensor) -> Tensor:  # noqa: D102
        logits: Tensor = self.classifier(self.features(images).flatten(1))
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
        name="vgg16",
        description="VGG-16 with batch norm for CIFAR, one linear layer 512-10 as head",
        input_shape=(3, 32, 32),
        classes=10,
        preprocessing=_CIFAR10,
        taps={"hrel": "activation"},
        source="arXiv 1409.1556",
        dataset="cifar10",
    )
)
def vgg16(classes: int = 10, in_channels: int = 3) -> VGG:
    """Return VGG-16 with batch norm and the head 512-``classes``: 14,724,042 parameters at 10 classes.

    Example:
        >>> sum(isinstance(one, nn.Conv2d) for one in vgg16().modules())
        13
    """
    # At 32 pixels the last pool sees 2x2 either way; taking all there is lets smaller and larger images through.
    return VGG(nn.AdaptiveMaxPool2d(1), nn.Linear(STAGES[-1][-1], classes), in_channels)


@register(
    NetworkInfo(
        name="vgg16_hrel",
        description="VGG-16 with batch norm for CIFAR, head 512-512-BN-10 as in HRel",
        input_shape=(3, 32, 32),
        classes=10,
        preprocessing=_CIFAR10,
        taps={"hrel": "activation"},
        source="arXiv 1409.1556; head: arXiv 2202.10716",
        dataset="cifar10",
    )
)
def vgg16_hrel(classes: int = 10, in_channels: int = 3) -> VGG:
    """Return VGG-16 with batch norm and the last pooling (a mean) and the head of HRel, 512-512-BN-``classes``.

    Example:
        >>> len([layer for layer in vgg16_hrel().modules() if isinstance(layer, nn.Conv2d)])
        13
    """
    width = STAGES[-1][-1]
    head = nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, classes))
    return VGG(nn.AdaptiveAvgPool2d(1), head, in_channels)
