"""The average percentage of zeros, counted by hand."""

import numpy as np
import pytest
import torch

from infoprune.criteria import Filters, create, find


def scored(*parts):
    criterion = create(find("apoz"), Filters((), (), "conv1"))
    for maps in parts:
        criterion.update(torch.as_tensor(maps), torch.zeros(len(maps), dtype=torch.long))
    return criterion.compute()


def test_half_of_a_map_is_zero():
    found = scored([[[[0.0, 1], [0, 2]], [[0.0, 0], [0, 0]]]])
    assert found.scores.tolist() == [0.5, 0]
    assert found.evidence["apoz"].tolist() == [0.5, 1]
    assert found.order == (0, 1)


def test_negative_values_count_as_zeros():
    assert scored([[[[-1.0, 1, -2, 3, 4]]]]).scores.tolist() == [0.6]


def test_streams_are_weighted_by_their_images():
    maps = torch.randn(9, 5, 4, 3).relu()
    slow = 1 - np.array([(maps[:, f].numpy() == 0).mean() for f in range(5)])
    assert np.allclose(scored(maps[:2], maps[2:]).scores, slow, atol=1e-15)


def test_a_constant_map_is_last_though_it_is_never_zero():
    found = scored(torch.stack([torch.full((2, 3), 0.7), torch.tensor([[0.0, 0, 1], [0, 0, 0]])])[None])
    assert found.order == (1, 0)
    assert found.scores[0] == 0


def test_maps_without_zeros_are_warned_of():
    with pytest.warns(UserWarning, match="no map of layer 'conv1' has a zero"):
        scored(torch.rand(2, 3, 2, 2) + 0.1)
