"""CCM loss: training that rewards feature maps that correlate, so that more filters can go afterwards.

Wang et al. 2023 (arXiv 2310.06344). With M the maps of an activation function, averaged over the images of a batch, as
C rows, the reward of a layer is the mean over all C^2 pairs of the modulus of the Pearson correlation of two rows, and

    loss = cross entropy - weight * sum over layers of the reward

Filters are then chosen by ``chip`` with the cut-off ``cumulative``, as in the published code.
"""

from __future__ import annotations

import torch
from torch import Tensor

# What is added to the product of two norms, so that constant maps correlate with nothing.
_LEAST = 1e-8


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
