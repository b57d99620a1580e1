"""HRel: the information a feature map carries about the labels (Sarvani et al. 2022, arXiv 2202.10716)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from infoprune.criteria.base import CriterionInfo, Filters, Importance, register
from infoprune.criteria.dead import dead_last
from infoprune.entropy import alignment_width, relevance, variables
from infoprune.entropy.copies import Copies
from infoprune.entropy.distances import Distances
from infoprune.entropy.ties import rounding, snapped
from infoprune.errors import InputError, unknown

WIDTHS = {
    "average": "the mean of the best aligned widths of the first batches: what the moving average settles to",
    "moving": "the moving average, 0.9 of the past and 0.1 of the present, in the order of the batches",
    "batch": "every batch its own best aligned width",
}
WIDTHS_OF = ("layer", "filter")
WidthRule: TypeAlias = Literal["average", "moving", "batch"] | float

# Batches whose widths are averaged, and which are held until then.
HELD = 10
BATCH = 100
# C variables of one batch, or the distances between its images, and their labels.
Piece: TypeAlias = tuple[Tensor | Distances, Tensor]
# Of a distance.
_BYTES = 8
# Spearman correlation between the mean over n and over 2 n batches from which a ranking is stable.
STABLE = 0.99


class Relevance:
    """Scores every filter by the mean over batches of I(T_f; Y) = S(K_f) + S(K_Y) - S(K_f o K_Y), in bits.

    One kernel width serves all filters of the layer: the one whose Gram matrix of the whole layer output is best
    aligned with the labels. The images are taken in batches of ``batch`` whatever batches they came in; the remainder
    over counts only where there is no whole batch. No more than ``HELD`` batches are held, as maps or, where these are
    smaller, as the distances between their images.

    Args:
        filters: The group.
        seed: Not used.
        batch: Images at a time, since the estimate depends on their number; 100 as published.
        width: A rule of ``WIDTHS``, or the width s of exp(-d^2 / s^2).
        width_of: Whether the width is found for the whole ``"layer"``, as published, or for each ``"filter"`` alone.
        alpha: Order of the entropy, 1 as published (von Neumann).
        stable: No more batches are read once the scores over half of them rank the filters like those over all, by
            a Spearman correlation of at least this, looked at after 4, 8, 16, ... batches; ``None`` reads all there
            are, as published.

    Raises:
        InputError: The batch is too small, a rule is unknown, or ``stable`` is no correlation.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> labels = torch.arange(40) % 2
        >>> maps = torch.rand(40, 3, 2, 2)
        >>> maps[:, 1] += 3 * labels[:, None, None]
        >>> relevance = Relevance(Filters((torch.rand(3, 1, 3, 3),)), batch=40)
        >>> relevance.update(maps, labels)
        >>> relevance.compute().order[0]
        1
    """

    def __init__(
        self,
        filters: Filters,
        *,
        seed: int = 0,
        batch: int = BATCH,
        width: WidthRule = "average",
        width_of: Literal["layer", "filter"] = "layer",
        alpha: float = 1.0,
        stable: float | None = STABLE,
    ) -> None:
        if batch < 2:
            raise InputError(f"the relevance needs batches of at least 2 images, not {batch}")
        if isinstance(width, str) and width not in WIDTHS:
            raise unknown("width rule of the criterion 'hrel'", width, WIDTHS)
        if width_of not in WIDTHS_OF:
            raise unknown("width_of of the criterion 'hrel'", str(width_of), WIDTHS_OF)
        if stable is not None and not 0 < stable <= 1:
            raise InputError(f"a ranking is stable from a correlation above 0 and at most 1, not {stable}")
        self.name = filters.name
        self.batch, self.rule, self.width_of, self.alpha, self.stable = batch, width, width_of, alpha, stable
        self.waiting: list[tuple[Tensor, Tensor]] = []
        self.held: list[Piece] = []
        self.size: torch.Size | None = None
        self.found: list[Tensor] = []
        self.used: list[Tensor] = []
        self.scores: list[Tensor] = []
        self.copies = Copies()
        self.dtype = torch.float32
        self.extremes: tuple[Tensor, Tensor] | None = None
        self.classes: set[int] = set()
        self.settled = False

    def update(self, maps: Tensor, labels: Tensor) -> None:
        """Take in ``(n, C, H, W)`` maps and ``(n,)`` labels."""
        self._note_extremes(maps.amin(dim=(0, 2, 3)), maps.amax(dim=(0, 2, 3)))
        self.copies.update(variables(maps))
        self.dtype = maps.dtype
        self.classes |= set(labels.tolist())
        self._check_size(maps.shape[1:])
        self.waiting.append((maps, labels))
        if sum(len(some) for _, some in self.waiting) >= self.batch:
            self._hold_whole_batches()
            if not self._holds or len(self.held) >= HELD:
                self._score_held()

    def merge(self, other: Relevance) -> None:
        """Take in what another instance has seen."""
        if other.extremes is not None and other.size is not None:
            self._check_size(other.size)
            self._note_extremes(*other.extremes)
            self.copies.merge(other.copies)
            self.dtype = other.dtype
        self.classes |= other.classes
        for name in ("waiting", "held", "found", "used", "scores"):
            getattr(self, name).extend(getattr(other, name))
        self._settle()

    def compute(self) -> Importance:
        """Return the importance; its evidence holds ``widths`` as used, one a batch, and ``relevance`` in bits.

        Widths are ``(batches,)`` or, one for each filter, ``(batches, C)``; relevances are ``(batches, C)``.

        Raises:
            InputError: There were no maps, or all images are of one class.
        """
        if self.extremes is None:
            raise InputError(f"layer '{self.name}' cannot be scored: there are no feature maps")
        if len(self.classes) < 2:
            raise InputError(
                f"all calibration images are of class {next(iter(self.classes))}: the criterion 'hrel' needs images of "
                "at least two classes"
            )
        self._hold_whole_batches()
        self._score_held()
        if not self.scores:
            maps, labels = self._joined()
            self._score([(variables(maps), labels)])
        low, high = self.extremes
        scores = torch.stack(self.scores)
        found = self._mean(scores)
        return dead_last(found, low == high, self._out_by(found), widths=torch.stack(self.used), relevance=scores)

    def _mean(self, scores: Tensor) -> Tensor:
        """The mean of ``(batches, C)`` relevances over batches, that of copies taken once."""
        return scores.mean(dim=0)[self.copies.leaders]

    def _out_by(self, scores: Tensor) -> Tensor:
        """What each mean may be out by: the rounding of the maps and of the eigenvalues, as a share of the largest."""
        share = rounding(self.dtype, 1) + rounding(torch.float64, self.batch**2)
        return torch.full_like(scores, share * float(scores.abs().max()))

    @property
    def _holds(self) -> bool:
        return self.rule == "average" and not self.used

    def _note_extremes(self, low: Tensor, high: Tensor) -> None:
        if self.extremes is not None:
            low, high = torch.minimum(low, self.extremes[0]), torch.maximum(high, self.extremes[1])
        self.extremes = low, high

    def _check_size(self, size: torch.Size) -> None:
        self.size = self.size or size
        if size != self.size:
            raise InputError(
                f"layer '{self.name}' has maps of several sizes, because the images have, and hrel compares maps of "
                "one size: give images of one size, or choose 'l1', 'l2', 'bn-scale' or 'variance'"
            )

    def _joined(self) -> tuple[Tensor, Tensor]:
        if len(self.waiting) == 1:
            return self.waiting[0]
        return torch.cat([maps for maps, _ in self.waiting]), torch.cat([labels for _, labels in self.waiting])

    def _hold_whole_batches(self) -> None:
        if not self.waiting:
            return
        maps, labels = self._joined()
        whole = len(maps) // self.batch * self.batch
        self.waiting = [(maps[whole:], labels[whole:])] if whole < len(maps) else []
        for start in range(0, whole, self.batch):
            x, of = variables(maps[start : start + self.batch]), labels[start : start + self.batch]
            smaller = self._holds and _BYTES * self.batch < x.shape[2] * x.element_size()
            self.held.append((Distances.of(x) if smaller else x, of))

    def _score_held(self) -> None:
        pieces, self.held = self.held, []
        if pieces:
            self._score(pieces)

    def _score(self, pieces: list[Piece]) -> None:
        for (x, labels), width in zip(pieces, self._widths(pieces), strict=True):
            if self.settled:
                return
            each = width.to(x.device) if width.ndim else float(width)
            information = relevance(x, labels, alpha=self.alpha, width=each, convention="s2", label_kernel="indicator")
            self.used.append(width)
            self.scores.append(information.cpu())
            self._settle()

    def _settle(self) -> None:
        done = len(self.scores)
        if self.stable is not None and done >= 4 and done & (done - 1) == 0:
            scores = torch.stack(self.scores)
            # A correlation that is the asked-for one but for rounding is enough.
            half, whole = (self._mean(some) for some in (scores[: done // 2], scores))
            half, whole = (snapped(each, self._out_by(each)) for each in (half, whole))
            self.settled = rank_correlation(half, whole) >= self.stable - 1e-12

    def _widths(self, pieces: list[Piece]) -> list[Tensor]:
        if not isinstance(self.rule, str):
            return [torch.tensor(float(self.rule), dtype=torch.float64)] * len(pieces)
        if self.rule == "average" and self.used:
            return self.used[:1] * len(pieces)
        known = len(self.found)
        # Only the first ones count for the average, however many come at once.
        some = pieces[:HELD] if self.rule == "average" else pieces
        self.found += [self._best(x, labels, first=not known + i) for i, (x, labels) in enumerate(some)]
        if self.rule == "batch":
            return self.found[known:]
        if self.rule == "average":
            return [torch.stack(self.found).mean(dim=0)] * len(pieces)
        smoothed = self.used[-1:] or self.found[:1]
        for width in self.found[max(known, 1) :]:
            smoothed.append(0.9 * smoothed[-1] + 0.1 * width)
        return smoothed[-len(pieces) :]

    def _best(self, x: Tensor | Distances, labels: Tensor, *, first: bool) -> Tensor:
        # 300 grid points at first and 100 from then on, as published.
        points = 300 if first else 100
        of = [x] if self.width_of == "layer" else [x[i : i + 1] for i in range(len(x))]
        best = torch.tensor([alignment_width(some, labels, points=points) for some in of], dtype=torch.float64)
        return best[0] if self.width_of == "layer" else best


def held_bytes(filters: int, values: int, size: int, options: Mapping[str, Any]) -> int:
    """Return the bytes that are held of one image, from the values of a map, the bytes of one, and the options.

    Example:
        >>> held_bytes(filters=2, values=1024, size=4, options={}), held_bytes(2, 64, 4, {})
        (2419, 512)
    """
    maps, distances = filters * values * size, filters * _BYTES * int(options.get("batch", BATCH))
    # The maps of the batch that is not complete yet are held besides.
    return min(maps, distances + maps // HELD)


def rank_correlation(one: Tensor, other: Tensor) -> float:
    """Return the Spearman correlation of two ``(C,)`` scores; 1 where either ranks nothing.

    Example:
        >>> rank_correlation(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 4.0, 9.0]))
        1.0
    """
    from scipy.stats import rankdata  # type: ignore[import-untyped]  # half a second, and only needed here

    ranks = torch.stack([torch.from_numpy(rankdata(scores.double().cpu().numpy())) for scores in (one, other)])
    return float(torch.corrcoef(ranks)[0, 1]) if bool((ranks.std(dim=1) > 0).all()) else 1.0


INFO = register(
    CriterionInfo(
        "hrel",
        Relevance,
        "information of the feature map about the labels",
        paper="arXiv 2202.10716",
        needs_labels=True,
        holds_maps=True,
        held_images=HELD * BATCH,
        held_bytes=held_bytes,
        cost="eigenvalues of C matrices of 100 x 100 per layer and 100 images, until the ranking stands",
    )
)
