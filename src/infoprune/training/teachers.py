"""Several networks as one teacher."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from infoprune.data.preprocessing import Preprocessing
from infoprune.errors import InputError


class Teachers(nn.Module):
    """Networks that answer together: the mean of their logits.

    Such a mean is usually right more often than each of them, and a student learns more from it (Hinton et al. 2015,
    section 3). Each network reads the images normalised in its own way; sizes are left as they are.

    Args:
        networks: Return ``(n, classes)`` logits each.
        normalised: How the images that come are normalised, ``(mean, std)`` with a value for each channel in it.
        each: How each network wants them normalised; by default as they come.

    Raises:
        InputError: There is no network, or ``each`` has another length.

    Example:
        >>> one, two = nn.Linear(2, 3), nn.Linear(2, 3)
        >>> found = Teachers([one, two])(torch.ones(4, 2))
        >>> bool((found - (one(torch.ones(4, 2)) + two(torch.ones(4, 2))) / 2).abs().max() < 1e-6)
        True
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        normalised: Preprocessing | None = None,
        each: Sequence[Preprocessing] | None = None,
    ) -> None:
        super().__init__()
        if not networks or (each is not None and len(each) != len(networks)):
            raise InputError("a teacher is at least one network; pass the preprocessing of each of them, or of none")
        self.networks = nn.ModuleList(networks)
        self._changes = [None if each is None or normalised is None else _change(normalised, one) for one in each or ()]

    def forward(self, images: Tensor) -> Tensor:
        """Return the mean of the ``(n, classes)`` logits, in float32."""
        total = torch.zeros((), device=images.device)
        for number, network in enumerate(self.networks):
            change = self._changes[number] if self._changes else None
            total = total + network(images if change is None else _changed(images, *change)).float()
        return total / len(self.networks)


def _change(given: Preprocessing, wanted: Preprocessing) -> tuple[Tensor, Tensor] | None:
    """Return factor and summand of every channel; ``None`` where nothing changes."""
    if (given.mean, given.std) == (wanted.mean, wanted.std):
        return None
    mean, std, new_mean, new_std = map(torch.tensor, (given.mean, given.std, wanted.mean, wanted.std))
    return std / new_std, (mean - new_mean) / new_std


def _changed(images: Tensor, factor: Tensor, summand: Tensor) -> Tensor:
    factor, summand = (one.to(images)[:, None, None] for one in (factor, summand))
    return images * factor + summand
