"""What the maps of every activation function say, collected while a network runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_ACTIVATIONS: frozenset[Callable[..., Any]] = frozenset(
    (F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.relu6, F.hardtanh, F.hardswish,
     F.leaky_relu, F.elu, F.gelu, F.silu)
)  # fmt: skip


class ActivationMaps(TorchFunctionMode):
    """Measures, while a network runs inside it, the maps of every activation function.

    Maps of a single position are left out. What is measured is differentiable.

    Args:
        measure: A function of ``(n, C, ...)`` maps.

    Example:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2), nn.ReLU())
        >>> with ActivationMaps(Tensor.mean) as found:
        ...     _ = net(torch.rand(8, 1, 8, 8))
        >>> len(found), found[0].requires_grad
        (1, True)
    """

    def __init__(self, measure: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.measure = measure
        self.layers: list[Tensor] = []

    def __enter__(self) -> list[Tensor]:  # type: ignore[override]
        """Begin, and return the list that what is measured is added to, in the order in which the functions run."""
        super().__enter__()  # type: ignore[no-untyped-call]
        return self.layers

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function, and measure its result where it is an activation function."""
        result = func(*args, **(kwargs or {}))
        if func in _ACTIVATIONS and isinstance(result, Tensor) and result.dim() > 2 and result[0, 0].numel() > 1:
            self.layers.append(self.measure(result))
        return result
