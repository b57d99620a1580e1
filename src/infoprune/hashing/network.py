"""A network whose convolutions merge channels while they run, and what that saves."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from infoprune.data.batches import Batches, images_of
from infoprune.errors import InputError
from infoprune.hashing.convolution import HashedConv2d
from infoprune.network.cost import macs_by_layer
from infoprune.network.equivalence import duplicate
from infoprune.network.modes import eval_mode


def hash_convolutions(
    model: nn.Module,
    *,
    planes: int = 14,
    patch: int = 8,
    one_by_one: bool = False,
    layers: Sequence[str] = ("*",),
    skip: Sequence[str] = (),
    seed: int = 0,
    merge: bool = False,
) -> nn.Module:
    """Return a copy of a network whose convolutions merge alike channels while they run.

    Grouped convolutions and the first one, which reads the image, stay as they are; so do those of a subclass of
    ``nn.Conv2d``, which may compute something else.

    Args:
        model: The network; left as it is.
        planes: Hyperplanes of a code: more of them merge less, with a smaller error.
        patch: Side of a patch of the output; 8 for images of 32 x 32 pixels, 16 for larger ones.
        one_by_one: Whether 1 x 1 convolutions merge channels too.
        layers: Patterns of convolutions that do.
        skip: Patterns of those that do not.
        seed: For the hyperplanes; every layer has its own.
        merge: As for :class:`HashedConv2d`.

    Raises:
        InputError: No convolution fits, or an option is out of range.

    Example:
        >>> import infoprune
        >>> net = infoprune.zoo.build("resnet20")
        >>> hashed = hash_convolutions(net, planes=10)
        >>> type(hashed.conv1).__name__, type(hashed.layer1[0].conv1).__name__
        ('Conv2d', 'HashedConv2d')
    """
    found = duplicate(model)
    plain = [(name, module) for name, module in found.named_modules() if type(module) is nn.Conv2d]
    chosen = [
        (name, module)
        for name, module in plain[1:]
        if module.groups == 1
        and (one_by_one or max(module.kernel_size) > 1)
        and any(fnmatch.fnmatchcase(name, pattern) for pattern in layers)
        and not any(fnmatch.fnmatchcase(name, pattern) for pattern in skip)
    ]
    if not chosen:
        raise InputError(
            "no convolution merges channels: of one group, larger than 1 x 1, and not the first of the network"
        )
    for number, (name, module) in enumerate(chosen):
        parent, _, last = name.rpartition(".")
        hashed = HashedConv2d(module, planes=planes, patch=patch, seed=seed + number, merge=merge)
        found.get_submodule(parent)._modules[last] = hashed
    return found


@dataclass(frozen=True)
class Merged:
    """What merging saved in one layer, or in all.

    Args:
        channels: Share of the channels that were merged away, 1 - buckets / channels.
        macs: Share of the multiply-adds of the convolution, or of the whole network, that were saved.
        overhead: Additions of hashing and merging, as a share of these multiply-adds.

    Example:
        >>> Merged(channels=0.4, macs=0.4, overhead=0.1).macs
        0.4
    """

    channels: float
    macs: float
    overhead: float


@torch.no_grad()
def merged_channels(model: nn.Module, batches: Batches) -> tuple[Merged, dict[str, Merged]]:
    """Run a network of ``hash_convolutions`` over images and return what it saved, in all and by layer.

    Hashing a patch of C channels of p values takes C L p / 3 additions, merging C p, and C O k^2 for the weights.

    Args:
        model: What ``hash_convolutions`` returned.
        batches: Images.

    Raises:
        InputError: It has no such layers, or there are no images.

    Example:
        >>> import infoprune
        >>> hashed = hash_convolutions(infoprune.zoo.build("resnet20").eval(), planes=4)
        >>> whole, layers = merged_channels(hashed, [torch.rand(2, 3, 32, 32)])
        >>> 0 < whole.macs < 1, len(layers)
        (True, 18)
    """
    hashed = {name: module for name, module in model.named_modules() if isinstance(module, HashedConv2d)}
    if not hashed:
        raise InputError("the network has no layers that merge channels: make one by hash_convolutions")
    for layer in hashed.values():
        layer.reset()
    images = 0
    example = None
    with eval_mode(model):
        for some in images_of(batches, model):
            example = some[:1] if example is None else example
            images += len(some)
            model(some)
    if example is None:
        raise InputError("there are no images: the loader is empty, give at least one batch")
    counts = {name: (layer.buckets, layer.channels, layer.patches) for name, layer in hashed.items()}
    macs = macs_by_layer(model, example)
    found, saved, added = {}, 0.0, 0.0
    for name, layer in hashed.items():
        buckets, channels, patches = counts[name]
        values = layer.normals.shape[0]
        taps = layer.kernel_size[0] * layer.kernel_size[1]
        additions = channels * values * (layer.planes / 3 + 1) + patches * layer.out_channels * layer.in_channels * taps
        share = 1 - buckets / channels
        overhead = additions / images / macs[name]
        found[name] = Merged(share, share, overhead)
        saved, added = saved + share * macs[name], added + overhead * macs[name]
    every = 1 - sum(one for one, _, _ in counts.values()) / sum(one for _, one, _ in counts.values())
    total = sum(macs.values())
    return Merged(every, saved / total, added / total), found
