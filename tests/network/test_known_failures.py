"""What goes wrong elsewhere, or silently does not happen: here each ends in the right cut or in a reason.

The letters are those of a list of failures met with torch-pruning 1.6.1 on its own. Letter r (a wrongly declared
``__call__`` of its importances) has no counterpart here, and letter o (latency on a CPU) is in ``test_cost.py``.
"""

import gc
import inspect
import io
import time
import weakref

import plans
import pytest
import torch
import torch_pruning as tp
import toys

from infoprune.network import equivalence
from infoprune.network.coupled_groups import find_groups
from infoprune.network.surgery import apply
from infoprune.network.verify import verify

EXAMPLE = torch.randn(2, *toys.IMAGE, generator=torch.Generator().manual_seed(1))


def cut_at_random(model, seed=0):
    """Cut a network with random norms, check it, and return its groups, the plan and the result."""
    groups = find_groups(model, EXAMPLE)
    plan = plans.random_plan(groups, seed)
    small = apply(plan, model, EXAMPLE)
    assert verify(plan, model, EXAMPLE, small) < 1e-4
    return groups.by_name(), plan, small


def test_a_shuffle_units_are_cut_in_aligned_pairs():
    groups, *_ = cut_at_random(equivalence.randomised(toys.ShuffleUnit(), seed=1))
    assert groups["first.0"].units == ((0, 4), (1, 5), (2, 6), (3, 7))
    assert {"branch.0.0", "last.0"} < set(groups)


def test_b_attention_keeps_its_width_and_loses_hidden_units():
    model = toys.Attention()
    groups, _, small = cut_at_random(model)
    assert set(groups) == {"up"}
    assert small(EXAMPLE).shape == (2, 5)
    assert "normalised over its channels" in find_groups(model, EXAMPLE).left_alone["patches"]


def test_c_windows_do_not_hang():
    start = time.perf_counter()
    groups, *_ = cut_at_random(toys.Windows())
    assert time.perf_counter() - start < 20
    assert set(groups) == {"up", "merge"}


def test_d_a_shuffle_by_views_is_cut_right():
    groups, *_ = cut_at_random(equivalence.randomised(toys.ShuffledDepthwise(), seed=1), seed=2)
    assert groups["first.0"].units == ((0, 4, 8), (1, 5, 9), (2, 6, 10), (3, 7, 11))
    depthwise = next(member for member in groups["first.0"].members if member.layer == "depthwise.0")
    assert depthwise.channels[:5] == ((0,), (3,), (6,), (9,), (1,))


def test_e_pixel_shuffle_loses_whole_blocks():
    groups, *_ = cut_at_random(equivalence.randomised(toys.PixelShuffle(), seed=1))
    assert groups["wide.0"].units == ((0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11))


def test_f_a_frozen_network_is_cut_and_stays_frozen():
    model = toys.Residual().requires_grad_(False)
    _, plan, small = cut_at_random(model)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    assert not any(parameter.requires_grad for parameter in small.parameters())
    with torch.no_grad():
        assert verify(plan, model, EXAMPLE, apply(plan, model, EXAMPLE)) < 1e-4


def test_g_one_frozen_convolution_is_cut_with_the_rest():
    model = toys.Residual()
    model.blocks[1].conv1[0].weight.requires_grad_(False)
    expected = find_groups(toys.Residual(), EXAMPLE)
    assert find_groups(model, EXAMPLE) == expected
    _, _, small = cut_at_random(model)
    frozen = [name for name, parameter in small.named_parameters() if not parameter.requires_grad]
    assert frozen == ["blocks.1.conv1.0.weight"]


def test_h_an_example_that_wants_gradients_changes_nothing():
    model = toys.Plain().requires_grad_(False)
    example = EXAMPLE.clone().requires_grad_()
    plan = plans.keeping(find_groups(model, example), conv1__0=(0, 5))
    small = apply(plan, model, example)
    assert not any(parameter.requires_grad for parameter in small.parameters())
    assert example.grad is None


def test_i_tied_weights_stay_tied_and_are_left_alone():
    model = toys.Tied()
    groups, _, small = cut_at_random(model)
    assert set(groups) == {"inner.0", "last.0"}
    assert small.a.weight is small.b.weight
    assert small.a.weight is not model.a.weight
    views = toys.Plain()
    views.conv2[0] = torch.nn.Conv2d(8, 8, 3, padding=1, bias=False)
    views.conv2[1], views.fc = torch.nn.BatchNorm2d(8), torch.nn.Linear(8, 5)
    views.conv1[0] = torch.nn.Conv2d(8, 8, 3, padding=1, bias=False)
    views.conv1[0].weight.data = views.conv2[0].weight.data
    left_alone = find_groups(views, torch.randn(2, 8, 8, 8)).left_alone
    assert left_alone["conv1.0"] == "shares its weight with 'conv2.0'"


def test_j_a_raw_weight_stops_one_group_and_says_so():
    found = find_groups(toys.RawWeight(), EXAMPLE)
    assert found.left_alone["second.0"] == "enters 'conv2d' outside any layer"
    assert set(found.by_name()) == {"first.0", "third.0", "last.0"}


def test_k_a_mask_of_one_channel_goes_with_none_of_those_it_multiplies():
    groups, *_ = cut_at_random(equivalence.randomised(toys.Masked(), seed=1))
    members = {(member.layer, member.side) for member in groups["first.0"].members}
    assert members == {("first.0", "out"), ("first.1", "out"), ("mask", "in"), ("last.0", "in")}


@pytest.mark.parametrize("training", [True, False])
def test_l_train_or_eval_mode_stays(training):
    model = toys.Plain().train(training)
    _, _, small = cut_at_random(model)
    assert model.training == small.training == small.conv1[1].training == training


def test_m_nothing_keeps_dead_networks_alive():
    model = toys.Grouped()
    references = [weakref.ref(module) for module in model.modules()]
    _, _, small = cut_at_random(model)
    references += [weakref.ref(module) for module in small.modules()]
    del model, small, _
    gc.collect()
    assert not any(reference() for reference in references)
    defaults = inspect.signature(tp.pruner.BasePruner.__init__).parameters["out_channel_groups"].default
    assert not defaults


def test_n_what_the_plan_keeps_is_what_stays():
    model = toys.Plain()
    small = apply(plans.keeping(find_groups(model, EXAMPLE), conv2__0=(0, 1, 11)), model, EXAMPLE)
    assert torch.equal(small.conv2[0].weight, model.conv2[0].weight[[0, 1, 11]])


def test_p_a_cut_network_is_saved_and_loaded_without_pickle():
    model = toys.Inverted().eval()
    _, plan, small = cut_at_random(model)
    small.eval()
    file = io.BytesIO()
    torch.save(small.state_dict(), file)
    file.seek(0)
    again = apply(plan, toys.Inverted().eval(), EXAMPLE)
    again.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(again(EXAMPLE), small(EXAMPLE))


def test_q_every_layer_is_removable_or_has_a_reason():
    for build in (toys.Dense, toys.Attention, toys.Tied, toys.ShuffleUnit, toys.Unused):
        model = build()
        found = find_groups(model, EXAMPLE)
        removable = {layer for group in found.groups for layer in group.producers}
        layers = {n for n, m in model.named_modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)}
        assert removable | set(found.left_alone) == layers
        assert not removable & set(found.left_alone)
        assert all(found.left_alone.values())
