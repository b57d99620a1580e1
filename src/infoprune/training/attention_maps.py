"""Attention transfer: a network that looks where its teacher looks.

Zagoruyko and Komodakis 2017 (arXiv 1612.03928). The attention map of a layer is the sum over its channels of the
squared maps, scaled to a norm of 1 for each image, so that a pruned layer has the same form as the original one:

    loss = cross entropy + weight * mean over layers and images of the squared distance of two attention maps

The paper takes the last layer of every stage; here every activation function counts, since both networks have the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infoprune.device import device_of
from infoprune.errors import InputError
from infoprune.network.deep_copy import deep_copy
from infoprune.network.modes import eval_mode
from infoprune.training.activation_maps import ActivationMaps


def attention(maps: Tensor) -> Tensor:
    """Return the ``(n, positions)`` attention map of every image, each with a norm of 1.

    Args:
        maps: ``(n, C, ...)``.

    Example:
        >>> attention(torch.tensor([[[3.0, 0.0], [0.0, 1.0]]])).numpy().round(3).tolist()
        [[0.9940000176429749, 0.10999999940395355]]
    """
    with torch.autocast(maps.device.type, enabled=False):
        # Added up in float32 without a copy of the maps, which would be kept for the backward pass.
        return F.normalize(maps.square().mean(dim=1, dtype=torch.float32).flatten(1))


def distance(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Return the mean squared distance between the attention maps of two networks, from 0 to 2.

    Args:
        found: Of every layer of the network, see ``attention``.
        wanted: Of every layer of the teacher; of several teachers the first one counts.

    Raises:
        InputError: The networks do not have the same layers.

    Example:
        >>> distance([torch.tensor([[1.0, 0.0]])], [torch.tensor([[0.0, 1.0]])]).item()
        2.0
    """
    wanted = wanted[: len(found)]
    if not _are_alike(found, wanted):
        raise InputError(
            "attention compares the maps of every activation function with those of a teacher of the same form: this "
            "one has others; leave attention at 0"
        )
    return torch.stack([(one - other).square().sum(1).mean() for one, other in zip(found, wanted, strict=True)]).mean()


def is_of_one_form(model: nn.Module, teacher: nn.Module, images: Tensor) -> bool:
    """Return whether a network can learn the attention maps of a teacher.

    It cannot where the teacher has other maps, or where a later function of the network writes over its maps.

    Args:
        model: The network; left as it is.
        teacher: Its teacher.
        images: ``(n, C, H, W)``, a few.

    Example:
        >>> one, other = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()), nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU())
        >>> is_of_one_form(one, other, torch.rand(2, 1, 8, 8)), is_of_one_form(one, one[:1], torch.rand(2, 1, 8, 8))
        (True, False)
    """
    # Batch norm in training needs more than one value.
    images = torch.cat([images, images])[:2]
    copied = deep_copy(model).train()
    with torch.random.fork_rng([]), ActivationMaps(attention) as found:
        copied(images.to(device_of(model)))
    with torch.no_grad(), eval_mode(teacher), ActivationMaps(attention) as wanted:
        teacher(images.to(device_of(teacher)))
    if not _are_alike(found, wanted[: len(found)]):
        return False
    try:
        torch.autograd.backward(torch.stack([one.sum() for one in found]).sum())
    except RuntimeError:  # what it would have to read was written over
        return False
    return True


def _are_alike(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> bool:
    return bool(found) and [one.shape for one in found] == [one.shape for one in wanted]
