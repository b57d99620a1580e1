"""FSIM-E: filters whose maps are alike by the feature similarity index go first (Liu et al. 2023, Neurocomputing).

FSIM and two-dimensional entropy are standard; how the paper fuses them was not at hand, so this is a reconstruction and
no parity is claimed. Maps are scaled to 0..255 by the least and the largest value of the layer. With PC the phase
congruency, the share of its local amplitude on which log-Gabor filters of 4 scales and 4 orientations agree in phase,
and G the length of the Scharr gradient (Zhang et al. 2011)::

    S_pc = (2 PC_a PC_b + 0.85) / (PC_a^2 + PC_b^2 + 0.85),   S_g = (2 G_a G_b + 160) / (G_a^2 + G_b^2 + 160)
    FSIM(a, b) = sum S_pc S_g PC_m / sum PC_m,                PC_m = max(PC_a, PC_b)

Of the most similar pair, by the mean over images, the filter more similar to the others is removed, again and again; of
equally similar ones that of the smaller two-dimensional entropy. Maps with a side below 8 have no phase congruency that
means anything: S_g alone is averaged there.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from infoprune.criteria.averaged import check_spatial
from infoprune.criteria.base import CriterionInfo, Importance, register
from infoprune.criteria.coring import in_order_of_removal
from infoprune.criteria.dead import dead_filters
from infoprune.criteria.holding import holding
from infoprune.criteria.map_entropy import entropy_of_counts
from infoprune.entropy.ties import rounding

SCALES, ORIENTATIONS = 4, 4
# Smallest side from which phase congruency is taken.
SMALLEST = 8
_WAVELENGTH, _RATIO, _BANDWIDTH = 6.0, 2.0, 0.55


def fsim(maps: Tensor, labels: Tensor) -> Importance:
    """Return the importance of every filter: when it is removed.

    Args:
        maps: ``(n, C, H, W)``.
        labels: Not used.

    Returns:
        The importance; scores are places in the order, 1 for the filter that stays last. The evidence holds
        ``distance``, 1 - mean FSIM, ``(C, C)`` and ``partner`` ``(C,)``.

    Raises:
        InputError: The maps are single rows or columns.

    Example:
        >>> maps = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> maps[:, 2] = maps[:, 0]
        >>> fsim(maps, torch.tensor([0])).order[-1]
        2
    """
    check_spatial(maps, "fsim")
    dead = dead_filters(maps)
    found = torch.zeros(maps.shape[1], maps.shape[1], dtype=torch.float64)
    richness = torch.zeros(maps.shape[1], dtype=torch.float64)
    low, high = maps.min().double(), maps.max().double()
    for image in maps.double():
        scaled = (image - low) * (255 / (high - low)) if high > low else torch.zeros_like(image)
        found += similarities(scaled).cpu()
        richness += two_dimensional_entropy(image).cpu()
    return in_order_of_removal(1 - found / len(maps), richness / len(maps), dead, rounding(torch.float32, 1))


def similarities(maps: Tensor) -> Tensor:
    """Return the ``(C, C)`` feature similarities of ``(C, H, W)`` maps on a scale of 0 to 255.

    Example:
        >>> maps = torch.rand(2, 9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 255
        >>> bool(torch.allclose(similarities(maps).diagonal(), torch.ones(2, dtype=torch.float64)))
        True
    """
    gradients = scharr(maps).flatten(1)
    small = min(maps.shape[1:]) < SMALLEST
    phases = torch.ones_like(gradients) if small else phase_congruency(maps).flatten(1)
    rows = []
    for gradient, phase in zip(gradients, phases, strict=True):
        alike = gradient_similarity(gradient, gradients)
        if not small:
            alike = alike * (2 * phase * phases + 0.85) / (phase.square() + phases.square() + 0.85)
        weight = torch.maximum(phase, phases)
        total = weight.sum(dim=1)
        # Where neither map has a feature, all places count alike.
        rows.append(torch.where(total > 0, (alike * weight).sum(dim=1) / torch.where(total > 0, total, 1.0),
                                alike.mean(dim=1)))  # fmt: skip
    return torch.stack(rows)


def gradient_similarity(a: Tensor, b: Tensor) -> Tensor:
    """Return S_g of two gradient lengths.

    Example:
        >>> round(gradient_similarity(torch.tensor(0.0), torch.tensor(4.0)).item(), 6)
        0.909091
    """
    return (2 * a * b + 160) / (a.square() + b.square() + 160)


def scharr(maps: Tensor) -> Tensor:
    """Return the lengths of the Scharr gradients of ``(C, H, W)`` maps, their borders replicated.

    Example:
        >>> scharr(torch.ones(1, 4, 4).double()).abs().max().item()
        0.0
    """
    across = torch.tensor([[3.0, 0, -3], [10, 0, -10], [3, 0, -3]], dtype=maps.dtype, device=maps.device) / 16
    padded = F.pad(maps[:, None], (1, 1, 1, 1), mode="replicate")
    both = F.conv2d(padded, torch.stack([across, across.T])[:, None])
    return both.square().sum(dim=1).sqrt()


def phase_congruency(maps: Tensor) -> Tensor:
    """Return the phase congruency, in [0, 1], of ``(C, H, W)`` maps.

    As Kovesi's (1999) of the published FSIM: per orientation the sum over scales of amplitude times cos - abs(sin) of
    the deviation from the mean phase, minus the response to noise that the smallest scale suggests, never below 0;
    summed over orientations and divided by the sum of all amplitudes.

    Example:
        >>> found = phase_congruency(torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0)).double())
        >>> found.shape, bool(((found >= 0) & (found <= 1)).all())
        (torch.Size([2, 8, 8]), True)
    """
    spectrum = torch.fft.fft2(maps)
    energy, amplitude = torch.zeros_like(maps), torch.zeros_like(maps)
    for bank in log_gabor(*maps.shape[1:]).to(maps.device):
        responses = torch.fft.ifft2(spectrum[:, None] * bank)
        total = responses.sum(dim=1, keepdim=True)
        length = total.abs()
        mean = torch.where(length > 0, total / torch.where(length > 0, length, 1.0), 0)
        turned = responses * mean.conj()
        found = (turned.real - turned.imag.abs()).sum(dim=1)
        energy = energy + (found - _noise(responses[:, 0].abs(), bank)).clamp_min(0)
        amplitude = amplitude + responses.abs().sum(dim=1)
    # A constant map leaves rounding alone, which is in phase by accident.
    largest = maps.abs().amax(dim=(1, 2), keepdim=True)
    return torch.where(amplitude > 1e-9 * largest, energy / torch.where(amplitude > 0, amplitude, 1.0), 0.0)


def _noise(smallest: Tensor, bank: Tensor) -> Tensor:
    """Return ``(C, 1, 1)``: the energy up to which a response is noise, from amplitudes at the smallest scale."""
    power = smallest.square().flatten(1).median(dim=1).values / math.log(2) / bank[0].square().sum()
    impulses = torch.fft.ifft2(bank).real * math.sqrt(bank[0].numel())
    # Of the squared sum over scales: all products of two scales are in it.
    variance = power * impulses.sum(dim=0).square().sum()
    mean, deviation = math.sqrt(math.pi / 2), math.sqrt(2 - math.pi / 2)
    threshold: Tensor = (mean + 2 * deviation) / 1.7 * variance.sqrt()
    return threshold[:, None, None]


@lru_cache(maxsize=8)
def log_gabor(height: int, width: int) -> Tensor:
    """Return ``(orientations, scales, H, W)`` filters in the frequency plane, 0 at the mean.

    Example:
        >>> log_gabor(8, 8)[..., 0, 0].abs().max().item()
        0.0
    """
    down, right = (torch.fft.fftfreq(size, dtype=torch.float64) for size in (height, width))
    radius = (down[:, None].square() + right.square()).sqrt()
    angle = torch.atan2(-down[:, None].expand(height, width), right.expand(height, width))
    safe = torch.where(radius > 0, radius, 1.0)
    low_pass = 1 / (1 + (safe / 0.45) ** 30)
    radial = []
    for scale in range(SCALES):
        centre = 1 / (_WAVELENGTH * _RATIO**scale)
        band = (-((safe / centre).log() ** 2) / (2 * math.log(_BANDWIDTH) ** 2)).exp() * low_pass
        radial.append(torch.where(radius > 0, band, 0.0))
    spread = math.pi / ORIENTATIONS / 1.2
    banks = []
    for number in range(ORIENTATIONS):
        away = angle - number * math.pi / ORIENTATIONS
        away = torch.atan2(away.sin(), away.cos()).abs()
        banks.append(torch.stack(radial) * (-away.square() / (2 * spread**2)).exp())
    return torch.stack(banks)


def two_dimensional_entropy(maps: Tensor) -> Tensor:
    """Return the entropies, in bits, of pairs of a level and the mean level of its 3 x 3 neighbourhood.

    Args:
        maps: ``(C, H, W)``; levels are 0 to 255 between the least and the largest value of each map.

    Example:
        >>> maps = torch.tensor([[[0.0, 0, 1, 1]] * 4, [[1.0, 1, 1, 1]] * 4])
        >>> [round(value, 6) for value in two_dimensional_entropy(maps).tolist()]
        [2.0, 0.0]
    """
    low, high = (function(maps.double(), dim=(1, 2), keepdim=True) for function in (torch.amin, torch.amax))
    levels = ((maps.double() - low) / torch.where(high > low, high - low, 1.0) * 255).round()
    padded = F.pad(levels[:, None], (1, 1, 1, 1), mode="replicate")
    # Means of whole levels are ninths: what rounding puts just below a whole number is that number.
    means = (F.avg_pool2d(padded, 3, 1)[:, 0] + 1e-9).floor()
    found = []
    for pairs in (levels * 256 + means).flatten(1):
        counts = torch.unique(pairs, return_counts=True)[1]
        found.append(entropy_of_counts(counts) / math.log(2))
    return torch.stack(found)


INFO = register(
    CriterionInfo(
        "fsim",
        holding(fsim),
        "filters whose maps are the most alike by FSIM go first (reconstruction)",
        paper="Liu et al. 2023, Neurocomputing",
        holds_maps=True,
        by_layer=True,
        images=32,
        cost="one forward pass, 16 Fourier transforms per map and C^2 comparisons of H x W per image",
    )
)
