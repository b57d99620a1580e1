"""The entropy of pooled maps, against numbers worked out by hand and numpy's histogram."""

import math

import numpy as np
import pytest
import torch

from infoprune.criteria import Filters, create, find
from infoprune.criteria.map_entropy import bin_numbers, entropy_of_counts
from infoprune.errors import InputError


def scored(maps, **options):
    criterion = create(find("entropy"), Filters((), (), "conv1"), options=options)
    criterion.update(maps, torch.zeros(len(maps), dtype=torch.long))
    return criterion.compute()


def as_maps(*columns):
    return torch.tensor(columns, dtype=torch.float64).T[:, :, None, None]


def test_two_values_are_one_bit_and_four_are_two():
    assert math.isclose(scored(as_maps((0, 0, 1, 1)), bins=2).scores.item(), 0.693147, abs_tol=2e-6)
    assert math.isclose(scored(as_maps((0, 1, 2, 3)), bins=4).scores.item(), math.log(4))


def test_a_constant_has_no_entropy_and_is_last():
    found = scored(as_maps((5, 5, 5, 5), (0, 0, 1, 1)))
    assert found.scores[0] == 0
    assert found.order == (1, 0)


def test_the_right_edge_belongs_to_the_last_bin():
    assert bin_numbers(torch.tensor([[0.0], [0.5], [1.0]]), 2).flatten().tolist() == [0, 1, 1]


def test_equal_counts_in_other_bins_have_exactly_one_entropy():
    counts = torch.tensor([[7, 1, 0, 3, 5], [3, 5, 7, 0, 1], [0, 1, 3, 5, 7]])
    assert len(set(entropy_of_counts(counts).tolist())) == 1


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_against_numpy(pool):
    maps = torch.randn(50, 4, 3, 3, dtype=torch.float64)
    values = getattr(maps.numpy(), pool)(axis=(2, 3))
    for filter_, score in enumerate(scored(maps, bins=7, pool=pool).scores):
        shares = np.histogram(values[:, filter_], bins=7)[0] / 50
        assert math.isclose(score, -sum(p * math.log(p) for p in shares if p), rel_tol=1e-12)


def test_the_scale_of_a_map_does_not_matter():
    maps = torch.randn(40, 3, 2, 2, dtype=torch.float64)
    assert torch.equal(scored(maps).scores, scored(maps * 8).scores)


def test_wrong_options_are_refused():
    with pytest.raises(InputError, match="at least 2 bins"):
        scored(as_maps((0, 1)), bins=1)
    with pytest.raises(InputError, match="option 'pool' .* takes one of mean, max"):
        scored(as_maps((0, 1)), pool="median")
