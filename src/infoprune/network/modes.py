"""Train and eval mode by the modules' flags alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


def set_training(model: nn.Module, training: bool) -> None:
    """Set the flag of every module, and nothing else: ``train()`` may be overridden, to fold weights for instance.

    Args:
        model: The network whose flags are set, in place.
        training: What they are set to.
    """
    for module in model.modules():
        module.training = training


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Run a network in eval mode for a while; afterwards the flag of every module is what it was.

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
