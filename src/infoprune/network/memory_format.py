"""How maps lie in memory: channels last where a network can be run so, which convolutions are fastest with."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


@torch.no_grad()
def fastest_layout(images: Tensor, *networks: nn.Module) -> torch.memory_format:
    """Return channels last where all networks can read these images so, else the usual layout.

    A network that lays its maps flat by ``view`` cannot; only a pass in training mode, with weights laid out so too,
    shows it. Random numbers may be drawn.

    Args:
        images: ``(n, C, H, W)``, two or more, on the device and under the autocast that the networks will run with; for
            tensors of any other rank the usual layout is the only one.
        networks: Left as they are.
    """
    if images.ndim != 4:
        return torch.contiguous_format
    images = images.contiguous(memory_format=torch.channels_last)
    for network in networks:
        tried = copy.deepcopy(network).to(images.device)
        try:
            laid_out(tried, torch.channels_last).train()(images)
        except RuntimeError:
            return torch.contiguous_format
    return torch.channels_last


def laid_out(network: nn.Module, layout: torch.memory_format) -> nn.Module:
    """Return the same network, its weights in a layout."""
    moved: nn.Module = network.to(memory_format=layout)  # type: ignore[call-overload]
    return moved
