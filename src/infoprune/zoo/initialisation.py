"""Weights to start a training from."""

from __future__ import annotations

from torch import nn


def he_normal(network: nn.Module) -> None:
    """Draw convolution and linear weights by He et al. 2015 (arXiv 1502.01852), in place; biases start at zero.

    Example:
        >>> net = nn.Linear(4, 2)
        >>> he_normal(net)
        >>> net.bias.tolist()
        [0.0, 0.0]
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
