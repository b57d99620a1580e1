"""Criteria that read weights, against numbers worked out by hand."""

import pytest
import torch

from infoprune.criteria import Filters, create, find
from infoprune.errors import InputError

WEIGHTS = (torch.tensor([[3.0, -4.0], [0.0, 1.0], [-2.0, -2.0]]), torch.tensor([[[0.0]], [[-2.0]], [[1.0]]]))


def scores(name, filters, **options):
    return create(find(name), filters, **options).compute().scores


def test_l1_adds_the_absolute_weights_of_all_layers_of_the_group():
    assert scores("l1", Filters(WEIGHTS)).tolist() == [7, 3, 5]


def test_l2_is_the_length_of_all_weights_of_the_group():
    assert torch.allclose(scores("l2", Filters(WEIGHTS)), torch.tensor([5.0, 5.0**0.5, 3.0], dtype=torch.float64))


def test_l1_sums_in_double_precision():
    weights = torch.tensor([[1e8, 1.0], [1e8, 0.0]])
    assert scores("l1", Filters((weights,))).tolist() == [1e8 + 1, 1e8]


def test_bn_scale_is_the_mean_absolute_scale():
    filters = Filters(WEIGHTS, (torch.tensor([1.0, -2.0, 0.0]), torch.tensor([3.0, 2.0, 1.0])), "conv1")
    assert scores("bn-scale", filters).tolist() == [2, 2, 0.5]


def test_bn_scale_without_a_norm_names_the_layer():
    with pytest.raises(InputError, match="layer 'conv1' has no batch norm with a scale"):
        create(find("bn-scale"), Filters(WEIGHTS, (), "conv1"))


def test_random_depends_on_seed_and_name_and_on_nothing_else():
    def draw(name, seed):
        return scores("random", Filters(WEIGHTS, (), name), seed=seed).tolist()

    first = draw("conv1", 0)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    draw("conv9", 3)
    assert draw("conv1", 0) == first
    assert torch.equal(torch.get_rng_state(), state)
    assert len({*map(tuple, [first, draw("conv1", 1), draw("conv2", 0), draw("conv1", 2**70), draw("conv1", -1)])}) == 5


def test_random_is_uniform():
    found = scores("random", Filters((torch.zeros(20000, 1),), (), "x"))
    assert ((found >= 0) & (found < 1)).all()
    assert torch.histc(found, 10, 0, 1).sub(2000).abs().max() < 200
