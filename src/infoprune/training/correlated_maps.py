"""CCM loss: training that rewards feature maps that correlate, so that more filters can go afterwards.

Wang et al. 2023 (arXiv 2310.06344). With M the maps of an activation function, averaged over the images of a batch, as
C rows, the reward of a layer is the mean over all C^2 pairs of the modulus of the Pearson correlation of two rows, and

    loss = cross entropy - weight * sum over layers of the reward

Filters are then chosen by ``chip`` with the cut-off ``cumulative``, as in the published code.
"""

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
# What is added to the product of two norms, so that constant maps correlate with nothing.
_LEAST = 1e-8


class CorrelatedMaps(TorchFunctionMode):
    """Collects, while a network runs inside it, how much the maps of every activation function correlate.

    Maps of a single position are left out. The sum is differentiable.

    Example:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2), nn.ReLU())
        >>> with CorrelatedMaps() as found:
        ...     _ = net(torch.rand(8, 1, 8, 8))
        >>> len(found.layers), found.total().requires_grad
        (1, True)
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers: list[Tensor] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function, and measure its result where it is an activation function."""
        result = func(*args, **(kwargs or {}))
        if func in _ACTIVATIONS and isinstance(result, Tensor) and result.dim() > 2 and result[0, 0].numel() > 1:
            self.layers.append(correlation(result))
        return result

    def total(self) -> Tensor:
        """Return the sum over all layers, from 0 to their number; 0 where there are none."""
        return torch.stack(self.layers).sum() if self.layers else torch.zeros(())


def correlation(maps: Tensor) -> Tensor:
    """Return the mean modulus of the correlation of two of the maps, averaged over the images; from 1 / C to 1.

    Args:
        maps: ``(n, C, ...)``.

    Example:
        >>> round(correlation(torch.tensor([[[0.0, 1.0, 2.0], [0.0, 2.0, 4.0], [2.0, 1.0, 0.0]]])).item(), 4)
        1.0
        >>> round(correlation(torch.tensor([[[1.0, -1.0, 1.0, -1.0], [1.0, 1.0, -1.0, -1.0]]])).item(), 4)
        0.5
    """
    with torch.autocast(maps.device.type, enabled=False):
        rows = maps.float().mean(dim=0).flatten(1)
        away = rows - rows.mean(dim=1, keepdim=True)
        norms = torch.linalg.vector_norm(away, dim=1)
        pairs: Tensor = (away @ away.T).abs() / (norms[:, None] * norms + _LEAST)
        return pairs.mean()
