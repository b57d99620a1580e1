"""Attention transfer: a network that looks where its teacher looks.

Zagoruyko and Komodakis 2017 (arXiv 1612.03928). The attention map of a layer is the sum over its channels of the
squared maps, scaled to a norm of 1 for each image, so that a pruned layer has the same form as the original one:

    loss = cross entropy + weight * mean over layers and images of the squared distance of two attention maps

The paper takes the last layer of every stage; here every activation function counts, since both networks have the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from infoprune.errors import InputError


def attention(maps: Tensor) -> Tensor:
    """Return the ``(n, positions)`` attention map of every image, each with a norm of 1.

    Args:
        maps: ``(n, C, ...)``.

    Example:
        >>> attention(torch.tensor([[[3.0, 0.0], [0.0, 1.0]]])).numpy().round(3).tolist()
        [[0.9940000176429749, 0.10999999940395355]]
    """
    with torch.autocast(maps.device.type, enabled=False):
        return F.normalize(maps.float().square().mean(dim=1).flatten(1))


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
    if not found or [one.shape for one in found] != [one.shape for one in wanted]:
        raise InputError(
            "attention compares the maps of every activation function with those of a teacher of the same form: this "
            "one has others; leave attention at 0"
        )
    return torch.stack([(one - other).square().sum(1).mean() for one, other in zip(found, wanted, strict=True)]).mean()
