"""Feature maps of a few images, small enough to lie in a page."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infoprune.criteria.base import Tap
from infoprune.data.batches import Batches, parsed
from infoprune.data.preprocessing import Preprocessing
from infoprune.device import device_of
from infoprune.network.feature_maps import capture
from infoprune.report.run import Pictures

IMAGES = 3
# The largest side of a map that is kept; sides are halved until all maps of a network fit.
SIDE = 24
PIXELS = 2_500_000


def take_pictures(
    model: nn.Module,
    batches: Batches,
    layers: Sequence[str],
    *,
    tap: Tap = "activation",
    preprocessing: Preprocessing | None = None,
    count: int = IMAGES,
) -> Pictures:
    """Return the feature maps of the first images, of different classes where they are known.

    Args:
        model: The network before it was cut; left as it is.
        batches: Images, with or without labels.
        layers: Layers whose maps are wanted.
        tap: Where they are read.
        preprocessing: How the images were normalised, to undo it.
        count: Images at most.

    Raises:
        InputError: The images do not fit the network.

    Example:
        >>> import infoprune
        >>> net, batches = infoprune.zoo.build("digits").eval(), [(torch.rand(8, 1, 8, 8), torch.arange(8))]
        >>> take_pictures(net, batches, ["features.0"], count=3).maps["features.0"].shape
        torch.Size([3, 16, 8, 8])
    """
    images = _different(batches, count)
    found: dict[str, Tensor] = {}

    def consume(layer: str, maps: Tensor, labels: Tensor | None) -> None:
        found[layer] = maps.detach().float().cpu()

    capture(model, [images.to(device_of(model))], list(layers), tap, consume)
    side = SIDE
    while side > 4 and sum(_pixels(maps, side) for maps in found.values()) > PIXELS:
        side //= 2
    maps = {layer: as_bytes(_shrunk(found[layer], side)) for layer in layers if layer in found}
    return Pictures(_seen(images, preprocessing), maps)


def as_bytes(maps: Tensor) -> Tensor:
    """Return ``(images, C, h, w)`` maps as uint8, every filter from its least to its largest value; constant ones 0.

    Example:
        >>> as_bytes(torch.tensor([[[[0.0, 0.5, 1.0]]]])).tolist()
        [[[[0, 128, 255]]]]
    """
    low, high = maps.amin(dim=(0, 2, 3), keepdim=True), maps.amax(dim=(0, 2, 3), keepdim=True)
    span = torch.where(high > low, high - low, torch.ones_like(high))
    return ((maps - low) / span * 255).round().to(torch.uint8)


def _different(batches: Batches, count: int) -> Tensor:
    """Return the first image of each of the first classes; the first images where there are fewer, or no classes."""
    chosen: dict[int, Tensor] = {}
    more: list[Tensor] = []
    for batch in parsed(batches):
        labels = batch.known_classes()
        for image, label in zip(batch.images, [0] * len(batch) if labels is None else labels.tolist(), strict=True):
            if label not in chosen:
                chosen[label] = image
            elif len(more) < count:
                more.append(image)
        if len(chosen) >= count or (labels is None and len(more) >= count):
            break
    return torch.stack([*chosen.values(), *more][:count])


def _pixels(maps: Tensor, side: int) -> int:
    images, filters, height, width = maps.shape
    return images * filters * min(side, height) * min(side, width)


def _shrunk(maps: Tensor, side: int) -> Tensor:
    height, width = maps.shape[2:]
    return F.adaptive_avg_pool2d(maps, (min(side, height), min(side, width)))


def _seen(images: Tensor, preprocessing: Preprocessing | None) -> Tensor:
    images = images.detach().float().cpu()
    if preprocessing is not None:
        images = preprocessing.undo(images)
    images = F.adaptive_avg_pool2d(images, (min(96, images.shape[2]), min(96, images.shape[3])))
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)
