"""Several networks as one teacher."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from infoprune.data.preprocessing import Preprocessing
from infoprune.errors import InputError


class Teachers(nn.Module):
    """Networks that answer together: the mean of their logits, brought to the scale of the first network's.

    Such a mean is usually right more often than each of them, and a student learns more from it (Hinton et al. 2015,
    section 3). Logits of networks that were trained otherwise, with label smoothing for example, are several times
    smaller or larger: a plain mean would be that of the largest alone, and a student would have to learn the scale
    first. So the logits of every further network are given the mean and the spread over the classes that the first
    network's have for the same image (Sun et al., CVPR 2024, arXiv 2403.01693, standardise them likewise); the first
    network is best the one that the student was cut from. Each network reads the images normalised in its own way;
    sizes are left as they are.

    Args:
        networks: Return ``(n, classes)`` logits each.
        normalised: How the images that come are normalised, ``(mean, std)`` with a value for each channel in it.
        each: How each network wants them normalised; by default as they come.

    Raises:
        InputError: There is no network, or ``each`` has another length.

    Example:
        >>> one, two = nn.Linear(2, 3), nn.Linear(2, 3)
        >>> two.load_state_dict({name: 5 * values for name, values in one.state_dict().items()})
        <All keys matched successfully>
        >>> bool((Teachers([one, two])(torch.ones(4, 2)) - one(torch.ones(4, 2))).abs().max() < 1e-6)
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
        self._normalised = normalised
        self._each = [None] * len(networks) if normalised is None or each is None else list(each)

    def forward(self, images: Tensor) -> Tensor:
        """Return the mean of the ``(n, classes)`` logits, in float32."""
        first, *others = (network(self._as_wanted(images, wanted)).float()
                          for network, wanted in zip(self.networks, self._each, strict=True))  # fmt: skip
        return torch.stack([first, *(_scaled(one, first) for one in others)]).mean(dim=0)

    def _as_wanted(self, images: Tensor, wanted: Preprocessing | None) -> Tensor:
        given = self._normalised
        if given is None or wanted is None or (given.mean, given.std) == (wanted.mean, wanted.std):
            return images
        return wanted.normalise(given.undo(images))


def _scaled(logits: Tensor, like: Tensor) -> Tensor:
    """Return ``(n, classes)`` logits with the mean and the spread that others have in each row."""
    spread, wanted = (one.std(dim=1, correction=0, keepdim=True) for one in (logits, like))
    even = (logits - logits.mean(dim=1, keepdim=True)) / spread.clamp_min(torch.finfo(logits.dtype).tiny)
    return even * wanted + like.mean(dim=1, keepdim=True)
