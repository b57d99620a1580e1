"""Agreement and change of attention, worked out by hand and with numpy."""

import numpy as np
import torch

from infoprune.criteria import Filters, create, find

THREE = np.array([[1.0, 1, 0, 0], [2, 2, 0, 0], [0, 0, 1, 1]]).reshape(1, 3, 2, 2)


def scored(name, maps):
    criterion = create(find(name), Filters((), (), "conv1"))
    criterion.update(torch.as_tensor(maps), torch.zeros(len(maps), dtype=torch.long))
    return criterion.compute()


def test_a_filter_that_attends_elsewhere_goes_first():
    found = scored("consistency", THREE)
    assert np.allclose(found.scores, [0.5, 0.5, 0])
    assert found.order == (0, 1, 2)


def test_negative_values_attract_no_attention():
    maps = np.random.default_rng(0).normal(size=(3, 4, 2, 3))
    assert torch.allclose(scored("consistency", maps).scores, scored("consistency", np.maximum(maps, 0)).scores)


def test_consistency_against_numpy():
    maps = np.maximum(np.random.default_rng(1).normal(size=(5, 4, 3, 3)), 0)
    slow = np.zeros(4)
    for image in maps.reshape(5, 4, 9):
        units = image / np.linalg.norm(image, axis=1, keepdims=True)
        slow += ((units @ units.T).sum(1) - 1) / 3 / 5
    assert np.allclose(scored("consistency", maps).scores, slow)


def test_the_attention_of_three_maps():
    squares = THREE.reshape(3, 4) ** 2
    whole = squares.sum(0)
    assert whole.tolist() == [5, 5, 1, 1]
    cosines = squares @ whole / (np.linalg.norm(squares, axis=1) * np.linalg.norm(whole))
    assert np.allclose(cosines, [0.980581, 0.980581, 0.196116], atol=2e-6)
    unit = whole / np.linalg.norm(whole)
    left = [whole - one for one in squares]
    slow = [np.linalg.norm(unit - one / np.linalg.norm(one)) for one in left]
    assert np.allclose(scored("attention", THREE).scores, slow)


def test_two_equal_maps_do_not_move_the_attention():
    one = np.random.default_rng(2).normal(size=(4, 1, 3, 3))
    assert scored("attention", np.concatenate([one, one], axis=1)).scores.abs().max() < 1e-9


def test_without_the_only_map_there_is_no_attention():
    assert np.isclose(scored("attention", THREE[:, :1]).scores.item(), 1)
