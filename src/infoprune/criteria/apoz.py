"""APoZ: the average percentage of zeros in a filter's map after the ReLU (Hu et al. 2016, arXiv 1607.03250).

    apoz_f = #{(n, h, w): o_nfhw <= 0} / (N H W),    s_f = 1 - apoz_f

Counts are summed, so the score is exact for any split into batches. The paper removes the filters whose apoz is above
the layer's mean plus one standard deviation, then trains, in several rounds.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from infoprune.criteria.base import CriterionInfo, Filters, Importance, register
from infoprune.criteria.dead import Extremes, dead_last
from infoprune.entropy.ties import default_bound


class PositiveShare:
    """The share of a filter's map that is above zero, over images and positions; dead filters have 0.

    Args:
        filters: The group.
        seed: Not used.

    Example:
        >>> criterion = PositiveShare(Filters((), name="conv1"))
        >>> criterion.update(torch.tensor([[[[0.0, 1.0], [0.0, 2.0]]]]), torch.tensor([0]))
        >>> criterion.compute().scores.tolist()
        [0.5]
    """

    def __init__(self, filters: Filters, *, seed: int = 0) -> None:
        self.name = filters.name
        self.extremes = Extremes(filters.name)
        self.places = 0
        self.positive = torch.zeros(0, dtype=torch.int64)

    def update(self, maps: Tensor, labels: Tensor) -> None:
        """Take in ``(n, C, H, W)`` maps."""
        self.extremes.note(maps)
        self._join(maps[:, 0].numel(), (maps > 0).sum(dim=(0, 2, 3)).cpu())

    def merge(self, other: PositiveShare) -> None:
        """Take in what another instance has seen."""
        self.extremes.merge(other.extremes)
        if other.places:
            self._join(other.places, other.positive)

    def _join(self, places: int, positive: Tensor) -> None:
        self.positive = self.positive + positive if self.places else positive
        self.places += places

    def compute(self) -> Importance:
        """Return the ``(C,)`` shares, in [0, 1]; the evidence holds ``apoz``.

        Raises:
            InputError: There were no maps.
        """
        dead = self.extremes.dead()
        if not dead.all() and bool((self.positive[~dead] == self.places).all()):
            warnings.warn(
                f"no map of layer '{self.name}' has a zero: 'apoz' cannot rank its filters, choose another criterion",
                stacklevel=2,
            )
        share = self.positive.double() / self.places
        return dead_last(share, dead, default_bound(share), apoz=1 - share)


INFO = register(
    CriterionInfo(
        "apoz",
        PositiveShare,
        "share of the feature map that is not zero",
        paper="arXiv 1607.03250",
        cost="one forward pass per image",
    )
)
