"""Memory format of feature maps: channels last is fastest for convolutions, where a network can run with it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from infoprune.network.deep_copy import deep_copy


@torch.no_grad()
def fastest_layout(images: Tensor, *networks: nn.Module) -> torch.memory_format:
    """Return channels last if all networks can run with it, else the contiguous format.

    A network that flattens its maps with ``view`` cannot. This is tested by a pass in train mode with weights in
    channels last. Random numbers may be drawn.

    Args:
        images: ``(n, C, H, W)``, two or more, on the device and under the autocast that the networks will run with; for
            tensors of any other rank the contiguous format is returned.
        networks: The networks; they are not changed.

    Example:
        >>> fastest_layout(torch.zeros(2, 3, 8, 8), nn.Conv2d(3, 4, 3))
        torch.channels_last
        >>> fastest_layout(torch.zeros(2, 3), nn.Linear(3, 4))
        torch.contiguous_format
    """
    if images.ndim != 4:
        return torch.contiguous_format
    images = images.contiguous(memory_format=torch.channels_last)
    for network in networks:
        tried = deep_copy(network).to(images.device)
        try:
            laid_out(tried, torch.channels_last).train()(images)
        except RuntimeError:
            return torch.contiguous_format
    return torch.channels_last


def laid_out(network: nn.Module, layout: torch.memory_format) -> nn.Module:
    """Return the same network, with its weights in a memory format.

    Example:
        >>> laid_out(nn.Conv2d(3, 4, 3), torch.channels_last).weight.is_contiguous(memory_format=torch.channels_last)
        True
    """
    moved: nn.Module = network.to(memory_format=layout)  # type: ignore[call-overload]
    return moved
