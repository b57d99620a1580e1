"""Entropy of maps times how little they are correlated, by hand and by plain loops."""

import numpy as np
import pytest
import torch

from infoprune.criteria import Filters, create, find
from infoprune.criteria.fsim import two_dimensional_entropy
from infoprune.errors import InputError


def scored(maps, **options):
    criterion = create(find("capacity-maps"), Filters((), (), "conv1"), options=options)
    criterion.update(torch.as_tensor(maps).float(), torch.zeros(len(maps)).long())
    return criterion.compute()


CHECKS, ROWS = [[1.0, 0.0], [0.0, 1.0]], [[1.0, 1.0], [0.0, 0.0]]


def test_two_alike_and_one_alone():
    # Four positions of two levels each: equal capacities; the first two are correlated, the third with neither.
    found = scored([[CHECKS, (3 * np.array(CHECKS) + 1).tolist(), ROWS]], capacity="histogram")
    assert found.scores.tolist() == [0.5, 0.5, 1]
    assert found.evidence["capacity"].tolist() == [1, 1, 1]


def test_a_negative_correlation_is_one():
    assert scored([[CHECKS, (1 - np.array(CHECKS)).tolist(), ROWS]], capacity="histogram").scores.tolist() == [
        0.5,
        0.5,
        1,
    ]


@pytest.mark.parametrize("capacity", ["two-dimensional", "histogram"])
def test_against_plain_loops(capacity):
    maps = np.random.default_rng(0).normal(size=(5, 4, 6, 7)).astype(np.float32)
    maps[:, 1] = np.round(maps[:, 1])  # fewer levels
    rich, alike = np.zeros(4), np.zeros((4, 4))
    for image in maps.astype(np.float64):
        alike += np.abs(np.corrcoef(image.reshape(4, -1))) / 5
        for f, one in enumerate(image):
            if capacity == "histogram":
                counts = np.histogram(one, 256)[0]
                p = counts[counts > 0] / counts.sum()
                rich[f] += -(p * np.log2(p)).sum() / 5
            else:
                rich[f] += float(two_dimensional_entropy(torch.from_numpy(one)[None])) / 5
    expected = rich / rich.max() * (1 - (alike.sum(1) - 1) / 3)
    found = scored(maps, capacity=capacity)
    assert np.allclose(found.scores, expected, atol=1e-6)
    assert found.evidence["capacity"].argmin() == 1


def test_gain_and_offset_change_nothing():
    maps = torch.rand(3, 4, 5, 5, generator=torch.Generator().manual_seed(0)).double()
    assert torch.allclose(scored(maps).scores, scored(maps * 4 + 2).scores, atol=1e-5)


def test_an_unknown_capacity_is_named():
    with pytest.raises(InputError, match="'capacity' of the criterion 'capacity-maps' takes one of"):
        scored([[CHECKS, ROWS]], capacity="three-dimensional")
