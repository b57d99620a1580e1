"""Neighbours in the data flow, on networks whose module list says otherwise."""

import pytest
import torch
import toys
from torch import nn

from infoprune.network.coupled_groups import find_groups
from infoprune.network.execution_order import calls, flow


class Backwards(nn.Module):
    """Three layers, listed last to first."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 5)
        self.third, self.second, self.first = (nn.Conv2d(a, b, 3) for a, b in ((5, 6), (4, 5), (3, 4)))

    def forward(self, x):
        return self.fc(self.third(self.second(self.first(x))).mean((2, 3)))


def followed(model, size=8):
    model.eval()
    example = torch.randn(2, 3, size, size)
    return flow(model, find_groups(model, example).groups, example)


def test_the_order_is_that_of_the_forward_pass_not_of_the_module_list():
    found = followed(Backwards())
    assert found.order == ("first", "second", "third")
    assert found.beside == {
        "first": frozenset({"second"}),
        "second": frozenset({"first", "third"}),
        "third": frozenset({"second"}),
    }


def test_blocks_of_a_residual_stage_are_beside_the_stage_and_not_each_other():
    found = followed(toys.Residual("B"))
    stage = found.beside["stem.0"]
    assert "blocks.0.conv1.0" in stage
    assert "blocks.1.conv1.0" in stage
    assert "blocks.1.conv1.0" not in found.beside["blocks.0.conv1.0"]
    assert all(one in found.beside[other] for one, others in found.beside.items() for other in others)


def test_a_depthwise_layer_is_in_the_group_it_follows():
    model = toys.Inverted()
    found = followed(model)
    groups = find_groups(model.eval(), torch.randn(2, 3, 8, 8)).groups
    assert set(found.order) == {group.name for group in groups}
    assert all(name not in others for name, others in found.beside.items())


def test_the_network_is_left_as_it_is():
    model = toys.Plain().train()
    found = flow(model, find_groups(model, torch.randn(2, 3, 8, 8)).groups, torch.randn(2, 3, 8, 8))
    assert found.order == ("conv1.0", "conv2.0")
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


class Shared(torch.nn.Module):
    """One convolution that runs twice, around a block, and a module that never runs."""

    def __init__(self):
        super().__init__()
        self.never = torch.nn.ReLU()
        self.block = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), torch.nn.ReLU())
        self.twice = torch.nn.Conv2d(3, 3, 1)
        self.pick = torch.nn.Identity()

    def forward(self, x):
        return self.pick(self.twice(self.block(self.twice(x))) > 0)


def test_calls_come_in_the_order_in_which_they_begin_each_as_often_as_it_runs():
    model, images = Shared(), torch.randn(2, 3, 4, 4)
    found = calls(model, images)
    assert [call.module for call in found] == ["", "twice", "block", "block.0", "block.1", "twice", "pick"]
    assert sorted(time for call in found for time in (call.begin, call.end)) == list(range(14))
    whole, first, block, inner, _, second, last = found
    assert whole.begin < first.begin < first.end < block.begin < inner.begin < inner.end < block.end < second.begin
    assert second.returns_maps
    assert not last.returns_maps  # booleans
    assert [call.module for call in calls(model, images, ["twice", "never", "block.1"])] == [
        "twice",
        "block.1",
        "twice",
    ]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_calls_leave_no_hooks_where_the_forward_pass_fails():
    model = Shared()
    with pytest.raises(RuntimeError):
        calls(model, torch.randn(2, 5, 4, 4))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
