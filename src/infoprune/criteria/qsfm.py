"""QSFM: of two filters whose feature maps look alike, one can go (Wang et al. 2022, arXiv 2105.06052).

The formulas are this project's own: the paper's exact ones are not public to it. With the maps X of one image laid
flat, S positions each, mu = mean X, cov = X X^T / S - mu mu^T, var = diag cov::

    SSIM_ij = (2 mu_i mu_j + C1)(2 cov_ij + C2) / ((mu_i^2 + mu_j^2 + C1)(var_i + var_j + C2))
    PSNR_ij = 10 log10(L^2 / max(mean squared difference, 1e-10 L^2))                                  dB, at most 100

with C1 = (0.01 L)^2, C2 = (0.03 L)^2 and L the range of the layer's maps over all images. The window is the whole map;
a smaller one, Gaussian as in the SSIM of images, can be asked for and is used where it fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from infoprune.criteria.base import CriterionInfo, Filters, Importance, register
from infoprune.entropy import variables
from infoprune.entropy.copies import Copies
from infoprune.entropy.distances import symmetric
from infoprune.entropy.ties import rounding
from infoprune.errors import InputError

# What similarities may be out by, as a share of the largest, where nobody says of what precision the maps were.
_TIE = rounding(torch.float64, 1 << 16)
# Values of (images, C, C) float64 worked on at a time: 2 MiB, which stay in a processor's cache.
_CHUNK_VALUES = 1 << 18
# Of a second moment.
_BYTES = 8


@dataclass(frozen=True)
class Moments:
    """First and second moments of the maps of n images, each image for itself.

    Args:
        mean: ``(n, C)`` float64.
        covariance: ``(n, C, C)`` float64.

    Example:
        >>> Moments(torch.zeros(1, 2).double(), torch.eye(2).double()[None]).mean.shape
        torch.Size([1, 2])
    """

    mean: Tensor
    covariance: Tensor


def moments(maps: Tensor) -> Moments:
    """Return the moments over the positions of ``(n, C, S)`` maps.

    Example:
        >>> moments(torch.tensor([[[1.0, 3.0]]])).mean.tolist()
        [[2.0]]
    """
    x = maps.double()
    mean = x.mean(dim=2)
    centred = x - mean[..., None]
    return Moments(mean, centred @ centred.mT / x.shape[2])


def windowed_moments(maps: Tensor, window: int) -> Moments:
    """Return the moments in every place of a Gaussian window, ``(n places, C)`` and ``(n places, C, C)``.

    The weights fall with a standard deviation of 1.5 positions in a window of 11, as in the SSIM of images (Wang et al.
    2004), and in proportion in others; nothing is padded.

    Args:
        maps: ``(n, C, H, W)``, no smaller than the window.
        window: Its side, in positions.

    Example:
        >>> windowed_moments(torch.rand(2, 3, 12, 12), window=11).mean.shape
        torch.Size([8, 3])
    """
    places = maps.double().unfold(2, window, 1).unfold(3, window, 1).permute(0, 2, 3, 1, 4, 5)
    x = places.reshape(-1, maps.shape[1], window * window)
    away = (torch.arange(window, dtype=torch.float64, device=maps.device) - (window - 1) / 2) * (11 / 1.5 / window)
    line = torch.softmax(-away.square() / 2, dim=0)
    weights = (line[:, None] * line).flatten()
    mean = x @ weights
    centred = x - mean[..., None]
    return Moments(mean, (centred * weights) @ centred.mT)


def ssim(found: Moments, value_range: float) -> Tensor:
    """Return the ``(n, C, C)`` structural similarities of all pairs of maps, in [-1, 1].

    Example:
        >>> maps = torch.rand(1, 2, 16, generator=torch.Generator().manual_seed(0))
        >>> round(ssim(moments(maps), value_range=1.0)[0, 0, 0].item(), 6)
        1.0
    """
    mean, covariance = found.mean, found.covariance
    variance = covariance.diagonal(dim1=1, dim2=2)
    c1, c2 = (0.01 * value_range) ** 2, (0.03 * value_range) ** 2
    squares = mean.square()
    luminance = (2 * mean[:, :, None] * mean[:, None, :] + c1) / (squares[:, :, None] + squares[:, None, :] + c1)
    return luminance * (2 * covariance + c2) / (variance[:, :, None] + variance[:, None, :] + c2)


def psnr(found: Moments, value_range: float) -> Tensor:
    """Return the ``(n, C, C)`` peak signal-to-noise ratios of all pairs of maps, in dB, from 0 to 100.

    Example:
        >>> maps = torch.tensor([[[0.0, 0.0], [1.0, 1.0]]])
        >>> psnr(moments(maps), value_range=1.0)[0].abs().tolist()
        [[100.0, 0.0], [0.0, 100.0]]
    """
    mean, covariance = found.mean, found.covariance
    variance = covariance.diagonal(dim1=1, dim2=2)
    difference = variance[:, :, None] + variance[:, None, :] - 2 * covariance
    difference = difference + (mean[:, :, None] - mean[:, None, :]).square()
    return -10 * torch.log10((difference / value_range**2).clamp_min(1e-10))


@dataclass(frozen=True)
class Measure:
    """How alike two maps are.

    Args:
        similarity: From moments and the value range to ``(n, C, C)``.
        largest: Of two equal maps.
        least: Below which no similarity lies.

    Example:
        >>> Measure(psnr, largest=100.0, least=0.0).largest
        100.0
    """

    similarity: Callable[[Moments, float], Tensor]
    largest: float
    least: float


SSIM = Measure(ssim, 1.0, -1.0)
PSNR = Measure(psnr, 100.0, 0.0)


class Similarity:
    """Mean similarity of all pairs of maps, then a greedy removal of one filter of the most similar pair.

    The value range is known only at the end, so every image's moments are kept until then, or its maps where they
    are smaller: the answer is the same however the images are split into batches.

    Args:
        filters: The group.
        measure: How alike two maps are.
        window: Side of the window of SSIM, where it fits into the maps; by default the whole map is one.
        seed: Not used.

    Raises:
        InputError: The window is no side of a square of positions, or the measure has none.

    Example:
        >>> maps = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
        >>> maps[:, 2] = maps[:, 0]
        >>> similarity = Similarity(Filters((torch.tensor([[2.0], [1.0], [1.0]]),)), Measure(ssim, 1.0, -1.0))
        >>> similarity.update(maps, torch.zeros(4).long())
        >>> similarity.compute().order[-1]
        2
    """

    def __init__(self, filters: Filters, measure: Measure, *, window: int | None = None, seed: int = 0) -> None:
        if window is not None and (measure is not SSIM or type(window) is not int or window < 2):
            raise InputError(f"a window is the side of a square of SSIM, 2 positions or more, not {window!r}")
        self.name = filters.name
        self.measure = measure
        self.window = window
        self.kept: list[Tensor | Moments] = []
        self.copies = Copies()
        self.dtype = torch.float32
        self.images = 0
        self.lowest: Tensor | None = None
        self.highest: Tensor | None = None
        self.magnitude: Tensor | None = None

    def update(self, maps: Tensor, labels: Tensor) -> None:
        """Take in ``(n, C, H, W)`` maps."""
        flat = maps.flatten(2)
        self.copies.update(variables(maps))
        self.dtype = maps.dtype
        _, filters, positions = flat.shape
        smaller = _BYTES * filters <= positions * maps.element_size()
        windowed = self.window is not None and min(maps.shape[2:]) >= self.window
        self._join(
            [maps if windowed else moments(flat) if smaller else flat],
            len(flat),
            flat.amin(dim=(0, 2)).cpu(),
            flat.amax(dim=(0, 2)).cpu(),
            flat.double().abs().mean(dim=2).sum(dim=0).cpu(),
        )

    def merge(self, other: Similarity) -> None:
        """Take in what another instance has seen."""
        if other.lowest is not None and other.highest is not None and other.magnitude is not None:
            self.copies.merge(other.copies)
            self.dtype = other.dtype
            self._join(other.kept, other.images, other.lowest, other.highest, other.magnitude)

    def _join(
        self, kept: list[Tensor | Moments], images: int, lowest: Tensor, highest: Tensor, magnitude: Tensor
    ) -> None:
        self.kept.extend(kept)
        self.images += images
        self.lowest = lowest if self.lowest is None else torch.minimum(self.lowest, lowest)
        self.highest = highest if self.highest is None else torch.maximum(self.highest, highest)
        self.magnitude = magnitude if self.magnitude is None else self.magnitude + magnitude

    def compute(self) -> Importance:
        """Return how unlike its most similar surviving partner each filter was when it went.

        Returns:
            Scores ``(C,)``: 1 - SSIM, or 100 - PSNR in dB, at the moment of removal; the filter that survives all
            others has the largest possible. Dead filters go before all others, at 0. The evidence holds
            ``similarity`` ``(C, C)`` and ``partner`` ``(C,)``: the survivor each filter was most similar to when it
            went (itself removed later, perhaps), -1 for dead filters and the last.

        Raises:
            InputError: There were no maps.
        """
        if self.lowest is None or self.highest is None or self.magnitude is None:
            raise InputError(f"layer '{self.name}' cannot be scored: there are no feature maps")
        similarity = self._similarity(float(self.highest.max()) - float(self.lowest.min()))
        dead = self.lowest == self.highest
        live = (~dead).nonzero().flatten()
        magnitude = (self.magnitude / self.images)[self.copies.leaders]
        removed = eliminate(similarity[live][:, live], magnitude[live], rounding(self.dtype, 1))
        scores = torch.zeros(len(dead), dtype=torch.float64)
        partner = torch.full((len(dead),), -1)
        for filter_, other, alike in removed:
            scores[live[filter_]] = self.measure.largest - (self.measure.least if other is None else alike)
            partner[live[filter_]] = -1 if other is None else live[other]
        order = [int(live[filter_]) for filter_, _, _ in reversed(removed)] + dead.nonzero().flatten().tolist()
        return Importance(scores, tuple(order), evidence={"similarity": similarity, "partner": partner})

    def _similarity(self, value_range: float) -> Tensor:
        # Where all values are equal any range will do: all maps are alike.
        value_range = value_range or 1.0
        total: Tensor | int = sum(self.measure.similarity(part, value_range).sum(dim=0) for part in self._moments())
        total = total + sum(self._windowed(part, value_range) for part in self._large())
        assert isinstance(total, Tensor)
        leaders = self.copies.leaders
        found = symmetric((total / self.images).cpu())[leaders][:, leaders]
        return torch.where(leaders[:, None] == leaders, self.measure.largest, found)

    def _large(self) -> Iterator[Tensor]:
        """Yield the maps that are looked at through a window."""
        yield from (part for part in self.kept if isinstance(part, Tensor) and part.dim() == 4)

    def _moments(self) -> Iterator[Moments]:
        for part in self.kept:
            if isinstance(part, Tensor) and part.dim() == 4:
                continue
            some = part if isinstance(part, Tensor) else part.mean
            size = max(1, _CHUNK_VALUES // some.shape[1] ** 2)
            for start in range(0, len(some), size):
                end = start + size
                if isinstance(part, Tensor):
                    yield moments(part[start:end])
                else:
                    yield Moments(part.mean[start:end], part.covariance[start:end])

    def _windowed(self, maps: Tensor, value_range: float) -> Tensor:
        """Return ``(C, C)``: the sum over images of the mean over the places of the window."""
        assert self.window is not None
        total = torch.zeros(maps.shape[1], maps.shape[1], dtype=torch.float64, device=maps.device)
        for image in maps:
            # Row by row of places, so that the windows of a large map are never there all at once.
            rows = image.shape[1] - self.window + 1
            for row in range(rows):
                found = windowed_moments(image[None, :, row : row + self.window], self.window)
                total += self.measure.similarity(found, value_range).mean(dim=0) / rows
        return total


def eliminate(similarity: Tensor, magnitude: Tensor, share: float = _TIE) -> list[tuple[int, int | None, float]]:
    """Take the most similar pair of the survivors again and again, and drop one of the two.

    The one more similar to the other survivors goes; of equal ones the one with the smaller magnitude, then the one
    with the larger index.

    Args:
        similarity: ``(C, C)``, symmetric.
        magnitude: ``(C,)`` mean absolute value of each map.
        share: What a similarity may be out by, as a share of the largest, and a magnitude of its own: nearer is equal.

    Returns:
        The filters in the order in which they go, each with its partner and their similarity, which never rises; the
        last one has no partner.

    Example:
        >>> similarity = torch.tensor([[1.0, 0.9, 0.1], [0.9, 1.0, 0.2], [0.1, 0.2, 1.0]], dtype=torch.float64)
        >>> [(dropped, partner) for dropped, partner, _ in eliminate(similarity, torch.ones(3).double())]
        [(1, 0), (2, 0), (0, None)]
    """
    filters = len(similarity)
    if not filters:
        return []
    tie = share * max(1.0, float(similarity.abs().max()))
    alike = similarity.clone().fill_diagonal_(0)
    totals = alike.sum(dim=1)
    alike.fill_diagonal_(-torch.inf)
    best, partner = alike.max(dim=1)
    removed: list[tuple[int, int | None, float]] = []
    for _ in range(filters - 1):
        top = best.max()
        i = int((best >= top - tie).nonzero()[0])
        j = int((alike[i] >= top - tie).nonzero()[0])
        gone = _more_replaceable(i, j, totals, magnitude, tie * filters, share)
        pair = float(alike[i, j])
        removed.append((gone, i + j - gone, min(pair, removed[-1][2]) if removed else pair))
        column = alike[:, gone].clone()
        column[~torch.isfinite(column)] = 0
        totals -= column
        alike[gone], alike[:, gone], best[gone] = -torch.inf, -torch.inf, -torch.inf
        stale = ((partner == gone) & torch.isfinite(best)).nonzero().flatten()
        best[stale], partner[stale] = alike[stale].max(dim=1)
    gone_all = {filter_ for filter_, _, _ in removed}
    last = next(i for i in range(filters) if i not in gone_all)
    removed.append((last, None, removed[-1][2] if removed else 0.0))
    return removed


def _more_replaceable(i: int, j: int, totals: Tensor, magnitude: Tensor, tie: float, share: float) -> int:
    """Of a pair i < j."""
    if abs(float(totals[i] - totals[j])) > tie:
        return i if totals[i] > totals[j] else j
    if abs(float(magnitude[i] - magnitude[j])) > share * float(magnitude[i] + magnitude[j]):
        return i if magnitude[i] < magnitude[j] else j
    return j


def held_bytes(filters: int, values: int, size: int, options: Mapping[str, Any]) -> int:
    """Return the bytes that are kept of one image, from the values of a map, the bytes of one, and the options.

    Example:
        >>> held_bytes(filters=2, values=1024, size=4, options={}), held_bytes(64, 16, 4, {})
        (48, 4096)
    """
    maps, moments_of_all = filters * values * size, filters * (filters + 1) * _BYTES
    return maps if options.get("window") else min(maps, moments_of_all)


def _info(name: str, measure: Measure, description: str) -> CriterionInfo:
    return CriterionInfo(
        name,
        partial(Similarity, measure=measure),
        description,
        paper="arXiv 2105.06052",
        holds_maps=True,
        held_bytes=held_bytes,
        images=256,
        cost="one C x C matrix product per layer and image",
    )


register(_info("qsfm-ssim", SSIM, "filters whose maps are the most alike by SSIM go first"))
register(_info("qsfm-psnr", PSNR, "filters whose maps are the most alike by PSNR go first"))
register(_info("qsfm", SSIM, "the same as qsfm-ssim"))
