import copy

import plans
import pytest
import torch
import toys

from infoprune.errors import InputError
from infoprune.network.coupled_groups import find_groups
from infoprune.network.surgery import apply
from infoprune.network.verify import VerificationError, verify
from infoprune.plan import LayerDecision, Plan

EXAMPLE = torch.randn(4, *toys.IMAGE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def cut():
    model = toys.Residual("A")
    plan = plans.keeping(find_groups(model, EXAMPLE), stem__0=(0, 2, 3, 7), blocks__1__conv2__0=(1, 2, 9))
    return plan, model, apply(plan, model, EXAMPLE)


def test_a_right_cut_is_equal_up_to_rounding(cut):
    plan, model, small = cut
    assert verify(plan, model, EXAMPLE, small) < 1e-5
    assert verify(plan, model, EXAMPLE) < 1e-5


def test_a_network_cut_by_another_plan_is_found_out(cut):
    plan, model, _ = cut
    other = plans.keeping(find_groups(model, EXAMPLE), stem__0=(0, 2, 3, 6), blocks__1__conv2__0=(1, 2, 9))
    with pytest.raises(VerificationError, match=r"differs from the masked one by .* where outputs reach"):
        verify(plan, model, EXAMPLE, apply(other, model, EXAMPLE))


def test_one_changed_weight_is_found_out(cut):
    plan, model, small = cut
    with torch.no_grad():
        small.fc.weight[0, 0] += 0.01
    with pytest.raises(VerificationError):
        verify(plan, model, EXAMPLE, small)
    assert verify(plan, model, EXAMPLE, small, tolerance=1.0) > 0


def test_a_wrong_cut_is_found_out_on_images_that_are_all_zero():
    """Without biases every output of a network is zero on zeros, whatever is cut."""
    layers = [torch.nn.Conv2d(3, 4, 3, bias=False), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 3, bias=False)]
    model, zeros = torch.nn.Sequential(*layers), torch.zeros(2, 3, 8, 8)
    plan = plans.keeping(find_groups(model, zeros), **{"0": (0, 2)})
    other = plans.keeping(find_groups(model, zeros), **{"0": (1, 2)})
    assert verify(plan, model, zeros) < 1e-5
    with pytest.raises(VerificationError, match="differs from the masked one"):
        verify(plan, model, zeros, apply(other, model, zeros))


def test_a_cut_network_that_gives_no_numbers_is_found_out(cut):
    plan, model, small = cut
    with torch.no_grad():
        small.fc.bias[0] = float("nan")
    with pytest.raises(VerificationError):
        verify(plan, model, EXAMPLE, small)


def test_a_cut_network_that_does_not_run_is_found_out(cut):
    plan, model, small = cut
    small.fc = torch.nn.Linear(16, 5)
    with pytest.raises(VerificationError, match="the cut network does not run"):
        verify(plan, model, EXAMPLE, small)


def test_outputs_of_another_shape_are_found_out(cut):
    plan, model, small = cut
    small.fc = torch.nn.Linear(3, 6)
    with pytest.raises(VerificationError):
        verify(plan, model, EXAMPLE, small)


def test_activations_that_do_not_keep_zero_at_zero_are_masked_where_they_are_read():
    class Sigmoid(toys.Plain):
        def body(self, x):
            return self.conv2(torch.sigmoid(self.conv1(x) - 1))

    model = Sigmoid()
    assert verify(plans.keeping(find_groups(model, EXAMPLE), conv1__0=(3, 4)), model, EXAMPLE) < 1e-5


def test_nothing_is_changed(cut):
    plan, model, small = cut
    small.train()
    before = [copy.deepcopy(network.state_dict()) for network in (model, small)]
    state = torch.get_rng_state()
    verify(plan, model, EXAMPLE, small)
    for network, values in zip((model, small), before, strict=True):
        assert all(torch.equal(value, values[name]) for name, value in network.state_dict().items())
        assert all(module.training for module in network.modules())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_network_that_draws_random_numbers_draws_the_same_in_both():
    class Noisy(toys.Plain):
        def forward(self, x):
            return super().forward(x) + torch.randn(())

    model = Noisy()
    assert verify(plans.keeping(find_groups(model, EXAMPLE), conv1__0=(3, 4)), model, EXAMPLE) < 1e-5


def test_a_plan_for_another_network_is_refused(cut):
    with pytest.raises(InputError, match="unknown layer 'features'"):
        verify(Plan({"features": LayerDecision("features", 4, (0,))}), cut[1], EXAMPLE)
