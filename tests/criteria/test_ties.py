"""What only rounding tells apart is one value."""

import torch

from infoprune.criteria.ties import levelled, min_max


def test_levels_do_not_depend_on_the_order():
    values = torch.tensor([0.3, 0.1 + 0.2, 1.0, 1.0 + 1e-13, 0.5], dtype=torch.float64)
    order = torch.tensor([3, 1, 4, 0, 2])
    assert torch.equal(levelled(values)[order], levelled(values[order]))
    assert levelled(values).tolist() == [0.3, 0.3, 1, 1, 0.5]


def test_a_chain_of_small_steps_is_not_one_level():
    values = torch.arange(10, dtype=torch.float64) * 0.8e-10 + 1
    assert len(levelled(values).unique()) > 1


def test_min_max_of_nothing_and_of_equal_values():
    assert min_max(torch.zeros(0)).tolist() == []
    assert min_max(torch.tensor([0.3, 0.1 + 0.2], dtype=torch.float64)).tolist() == [0, 0]
