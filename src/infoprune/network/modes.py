"""Train and eval mode, set by the flags of the modules only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


def set_training(model: nn.Module, training: bool) -> None:
    """Set the flags of all modules directly: ``train()`` may be overridden, for example to fold weights.

    Args:
        model: The network whose flags are set, in place.
        training: The new value.

    Example:
        >>> network = nn.Sequential(nn.Dropout())
        >>> set_training(network, False)
        >>> network[0].training
        False
    """
    for module in model.modules():
        module.training = training


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Run a network in eval mode for the length of a ``with`` block; the flags are restored afterwards.

    Example:
        >>> network = nn.Sequential(nn.Dropout()).train()
        >>> with eval_mode(network):
        ...     print(network[0].training)
        False
        >>> network[0].training
        True
    """
    modes = [(module, module.training) for module in model.modules()]
    set_training(model, False)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
