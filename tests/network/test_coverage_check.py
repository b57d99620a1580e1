"""The comparison of ``benchmarks/coverage.py`` passes right cuts, and notices each kind of wrong one."""

import copy
import importlib.util
import sys
from pathlib import Path

import plans
import pytest
import torch
import toys
from torch import nn

from infoprune.network.coupled_groups import find_groups
from infoprune.network.surgery import apply

EXAMPLE = torch.randn(2, *toys.IMAGE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def check():
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "coverage_check.py"
    spec = importlib.util.spec_from_file_location("coverage_check", path)
    module = sys.modules["coverage_check"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["coverage_check"]


def cut(check, build, seed=1):
    torch.manual_seed(0)
    whole = build().eval()
    check.randomise(whole, EXAMPLE)
    groups = find_groups(whole, EXAMPLE)
    return whole, apply(plans.random_plan(groups, seed), whole, EXAMPLE, groups=groups)


@pytest.mark.parametrize("name", ["Plain", "Residual", "Dense", "Inverted", "Grouped", "SqueezeExcite", "Generator",
                                  "Flattened", "WeightStandardised", "Normalised", "Attention", "Joined"])  # fmt: skip
def test_right_cuts_are_right(check, name):
    for seed in (1, 2):
        whole, small = cut(check, getattr(toys, name), seed)
        verdict = check.judged(whole, small, EXAMPLE)
        assert (verdict.status, verdict.reason) == ("right", "")
        assert verdict.difference <= check.SINGLE_TOLERANCE


def test_what_was_cut_is_found_from_the_weights(check):
    whole, small = cut(check, toys.Plain)
    assert small.conv2[0].out_channels < 12 or small.conv1[0].out_channels < 8
    kept = {name: (outputs, inputs) for name, outputs, inputs in
            check._kept(whole, small, check._weights_in_use(whole, EXAMPLE))}  # fmt: skip
    for name, (outputs, _) in kept.items():
        if outputs is not None and name.endswith(".0"):
            assert len(outputs) == small.get_submodule(name).out_channels
            assert torch.equal(
                whole.get_submodule(f"{name[:-2]}.1").bias[outputs], small.get_submodule(f"{name[:-2]}.1").bias
            )


def test_an_input_of_another_filter_is_wrong(check):
    whole = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    check.randomise(whole, EXAMPLE)
    small = copy.deepcopy(whole)
    small[0] = nn.Conv2d(3, 6, 3)
    small[0].weight.data, small[0].bias.data = whole[0].weight[:6].data.clone(), whole[0].bias[:6].data.clone()
    small[2] = nn.Conv2d(6, 4, 3)
    small[2].bias.data = whole[2].bias.data.clone()
    right, wrong = copy.deepcopy(small), copy.deepcopy(small)
    right[2].weight.data = whole[2].weight[:, :6].data.clone()
    wrong[2].weight.data = whole[2].weight[:, [0, 1, 2, 3, 4, 7]].data.clone()
    assert check.judged(copy.deepcopy(whole), right, EXAMPLE).status == "right"
    assert check.judged(copy.deepcopy(whole), wrong, EXAMPLE).reason == "differs from the masked network"


def test_a_changed_weight_is_wrong(check):
    whole, small = cut(check, toys.Plain)
    with torch.no_grad():
        small.fc.weight[0, 0] += 1e-3
    verdict = check.judged(whole, small, EXAMPLE)
    assert verdict.status == "wrong"
    assert "fc" in verdict.reason


def test_a_missing_part_is_wrong(check):
    whole, small = cut(check, toys.Residual)
    small.blocks[0].shortcut = nn.Hardtanh()
    assert check.judged(whole, small, EXAMPLE).status == "wrong"


def test_outputs_of_another_shape_are_wrong(check):
    whole, small = cut(check, toys.Plain)
    small.fc = nn.Linear(small.fc.in_features, 3)
    assert check.judged(whole, small, EXAMPLE).status == "wrong"
