"""Spatial aura entropy: the facts, a slow count pixel by pixel, and a grid that does not depend on the order."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from infoprune.criteria import Filters, create, find
from infoprune.criteria.aura import bits, grid_of, level_numbers, pairs_of_levels
from infoprune.errors import InputError

CHECKS = [[0, 1], [1, 0]]
HALVES = [[0, 0], [1, 1]]


def aura_of(picture):
    counts = pairs_of_levels(torch.tensor(picture)[None, None], 2)
    return counts + counts.mT


def scored(maps, labels, **options):
    criterion = create(find("aura"), Filters((), (), "conv1"), options=options)
    criterion.update(torch.as_tensor(maps).float(), torch.as_tensor(labels))
    return criterion.compute()


def slow(maps, labels, levels):
    """Every pixel asks its four neighbours, on the grid of all maps."""
    low, high, step = float(maps.min()), float(maps.max()), 2.0**-149
    while math.floor(high / step) - math.floor(low / step) >= levels:
        step *= 2
    numbers = np.floor(maps / step).astype(int) - math.floor(low / step)

    def entropy(p):
        return -sum(x * math.log2(x) for x in p.flatten() if x > 0)

    scores = []
    for f in range(maps.shape[1]):
        pooled, within = np.zeros((levels, levels)), 0.0
        for y in set(labels):
            a = np.zeros((levels, levels))
            for picture in numbers[np.array(labels) == y, f]:
                for (i, j), level in np.ndenumerate(picture):
                    for di, dj in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                        if 0 <= i + di < picture.shape[0] and 0 <= j + dj < picture.shape[1]:
                            a[level, picture[i + di, j + dj]] += 1
            share = labels.count(y) / len(labels)
            pooled += share * a / a.sum()
            within += share * entropy(a / a.sum())
        scores.append(entropy(pooled) - within)
    return np.array(scores)


def test_entropies_of_pictures():
    assert bits(aura_of(CHECKS).flatten(1)).item() == 1
    assert aura_of([[0, 0, 1, 1]] * 4).tolist() == [[[20, 4], [4, 20]]]
    assert math.isclose(bits(aura_of([[0, 0, 1, 1]] * 4).flatten(1)).item(), 1.650022, abs_tol=1e-6)
    assert bits(aura_of([[0, 0]] * 2).flatten(1)).item() == 0


def test_classes_of_two_grey_levels_are_told_apart_by_one_bit():
    maps = np.stack([np.zeros((1, 4, 4)), np.ones((1, 4, 4))])
    assert scored(maps, [0, 1]).scores.item() == 1


def test_checks_against_halves():
    found = scored([[CHECKS], [HALVES]], [0, 1])
    assert math.isclose(found.scores.item(), 0.311278, abs_tol=1e-6)
    assert math.isclose(found.evidence["entropy"].item(), 1.811278, abs_tol=1e-6)


@pytest.mark.parametrize("levels", [2, 5, 8])
def test_against_every_pixel_and_its_neighbours(levels):
    maps = np.random.default_rng(levels).normal(size=(12, 3, 4, 5)).astype(np.float32)
    labels = [0, 1, 2] * 3 + [0, 0, 1]
    assert np.allclose(scored(maps, labels, levels=levels).scores, slow(maps, labels, levels), atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    low=st.floats(-1e30, 1e30, allow_subnormal=False),
    size=st.floats(0, 1e30, allow_subnormal=False),
    levels=st.integers(2, 40),
)
def test_the_step_is_the_smallest_that_fits(low, size, levels):
    high = low + size
    exponent, base = grid_of(low, high, levels)
    last = math.floor(math.ldexp(high, -exponent))
    assert 0 <= last - base < levels
    finer = exponent - 1
    needed = math.floor(math.ldexp(high, -finer)) - math.floor(math.ldexp(low, -finer))
    assert needed >= levels or exponent == -149
    both = torch.tensor([low, high], dtype=torch.float64)
    assert level_numbers(both, exponent, base).tolist() == [0, last - base]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), scales=st.lists(st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 77.0, 1e20]), min_size=3))
def test_the_order_of_batches_of_other_ranges_does_not_matter(seed, scales):
    generator = torch.Generator().manual_seed(seed)
    parts = [(torch.randn(4, 2, 3, 3, generator=generator) * scale, torch.arange(4) % 2) for scale in scales]

    def of(some):
        criterion = create(find("aura"), Filters((), (), "conv1"))
        for maps, labels in some:
            criterion.update(maps, labels)
        return criterion

    whole = create(find("aura"), Filters((), (), "conv1"))
    whole.update(torch.cat([maps for maps, _ in parts]), torch.cat([labels for _, labels in parts]))
    first, second = of(parts[:2]), of(parts[:1:-1])
    first.merge(second)
    for one in (of(parts), of(parts[::-1]), first):
        assert torch.equal(one.compute().scores, whole.compute().scores)


def test_the_scale_of_a_power_of_two_changes_nothing():
    maps = torch.rand(10, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(10) % 3
    assert torch.equal(scored(maps, labels).scores, scored(maps * 64, labels).scores)


def test_information_is_at_most_that_of_the_labels():
    maps = torch.randn(40, 5, 6, 6, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(40) % 4
    found = scored(maps + labels[:, None, None, None] * 50, labels).scores
    assert (found <= 2 + 1e-12).all()
    assert (scored(maps, labels).scores >= 0).all()


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match="at least 2 levels, not 1"):
        scored([[CHECKS], [HALVES]], [0, 1], levels=1)
    with pytest.raises(InputError, match="'aura' needs images of at least two classes"):
        scored([[CHECKS], [HALVES]], [1, 1])
