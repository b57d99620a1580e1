"""Ranks of maps, worked out by hand and by numpy."""

import numpy as np
import pytest
import torch

from infoprune.criteria import Filters, create, find
from infoprune.errors import InputError

FOUR = [np.eye(3), np.ones((3, 3)), np.zeros((3, 3)), np.array([[1.0, 2, 3], [2, 4, 6], [1, 0, 1]])]


def scored(maps, **options):
    criterion = create(find("hrank"), Filters((), (), "conv1"), options=options)
    maps = torch.as_tensor(np.asarray(maps))
    criterion.update(maps, torch.zeros(len(maps), dtype=torch.long))
    return criterion.compute()


def test_four_maps():
    assert scored([FOUR]).evidence["rank"].tolist() == [3, 1, 0, 2]
    assert scored([[one] for one in FOUR]).evidence["rank"].tolist() == [1.5]


def test_scale_and_transposition_do_not_matter():
    maps = torch.randn(5, 4, 6, 3) @ torch.randn(5, 4, 3, 6)
    plain = scored(maps).evidence["rank"]
    assert torch.equal(scored(maps * -1e-3).evidence["rank"], plain)
    assert torch.equal(scored(maps.mT).evidence["rank"], plain)


def test_against_numpy():
    maps = torch.randn(6, 5, 4, 7).relu() * (torch.rand(6, 5, 4, 1) > 0.4)
    slow = [np.mean([np.linalg.matrix_rank(maps[n, f].numpy()) for n in range(6)]) for f in range(5)]
    assert np.allclose(scored(maps).evidence["rank"], slow, atol=0)


def test_equal_ranks_go_by_the_nuclear_norm():
    maps = np.stack([np.eye(3), 2 * np.eye(3), np.diag([1.0, 1, 0])])[None]
    found = scored(maps)
    assert found.order == (1, 0, 2)
    assert torch.allclose(found.scores, torch.tensor([3.0, 3, 2]).double(), atol=1e-6)


def test_the_effective_rank_of_equal_singular_values_is_their_number():
    assert np.allclose(scored([FOUR], soft=True).evidence["rank"][:2], [3, 1])


def test_the_tolerance_leaves_out_small_singular_values():
    assert scored([[np.diag([1.0, 0.1, 0.01])]], tolerance=0.05).evidence["rank"].item() == 2
    with pytest.raises(InputError, match="the tolerance is a share"):
        scored([FOUR], tolerance=1.0)
