"""Least squares behind a cut."""

import copy
from importlib import import_module

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import infoprune
from infoprune.errors import InputError
from infoprune.regression.normal_equations import NormalEquations
from infoprune.repair.base import Pair
from infoprune.repair.least_squares import as_matrix, downhill, least_squares, patches
from nets import Plain, Residual, Separable, conv_bn, gap, images, pair_of, quiet

least_squares_module = import_module("infoprune.repair.least_squares")

LAYERS = [
    nn.Conv2d(4, 6, 3, bias=False),
    nn.Conv2d(4, 6, (3, 2), (2, 1), padding=(1, 0)),
    nn.Conv2d(4, 6, 3, padding="same", dilation=2),
    nn.Conv2d(4, 8, 3, padding=1, groups=2),
    nn.Conv2d(4, 4, 3, padding=1, groups=4),
    nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
    nn.Conv1d(4, 6, 3, stride=2),
    nn.Conv3d(4, 6, (1, 3, 2)),
    nn.Linear(7, 5),
]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
@pytest.mark.parametrize("some", [False, True])
def test_a_layer_is_its_matrix_times_its_patches(layer, some):
    x = torch.randn(
        3, *((4,) + (7,) * (layer.weight.dim() - 2) if isinstance(layer, nn.modules.conv._ConvNd) else (7,))
    )
    wanted = layer(x).detach()
    if layer.bias is not None:
        shape = (1, -1) + (1,) * (wanted.dim() - 2)
        wanted = wanted - layer.bias.detach().view(shape)
    wanted = wanted.flatten(2) if wanted.dim() > 2 else wanted[..., None]
    places = torch.arange(0, wanted.shape[2], 2) if some else None
    wanted = wanted if places is None else wanted[..., places]
    found = as_matrix(layer).mT @ patches(layer, x, places).double()
    torch.testing.assert_close(
        found.flatten(0, 1), wanted.transpose(0, 1).flatten(1).double(), rtol=1e-4, atol=1e-5, check_dtype=False
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.integers(1, 3), st.integers(1, 4))
def test_streamed_normal_equations_are_least_squares(seed, constant, groups, parts):
    drawn = torch.Generator().manual_seed(seed)
    x = torch.randn(groups, 5, 40, generator=drawn) + 3
    t = torch.randn(groups, 2, 40, generator=drawn) - 1
    start = torch.randn(groups, 5, 2, generator=drawn).double()
    equations = NormalEquations.of(start)
    for some, wanted in zip(x.chunk(parts, 2), t.chunk(parts, 2), strict=True):
        equations.add(some, wanted)
    found = equations.solve(start, 1e-12, constant=constant)
    design = torch.cat([x, torch.ones(groups, 1, 40)], 1) if constant else x
    wanted = torch.linalg.lstsq(design.mT.double(), t.mT.double()).solution
    torch.testing.assert_close(found.weights, wanted[:, :5], rtol=1e-5, atol=1e-6)
    residual = t.double() - found.weights.mT @ x.double() - found.constant[..., None]
    assert equations.error(found) == pytest.approx(float(residual.square().sum()) / 40, rel=1e-6)


@pytest.mark.parametrize("ridge", [1e-12, 1e-3, 10.0, float("inf")])
def test_what_fits_already_stays(ridge):
    x = torch.randn(1, 6, 50)
    start = torch.randn(1, 6, 3).double()
    equations = NormalEquations.of(start)
    equations.add(x, start.mT @ x.double() + 2)
    found = equations.solve(start, ridge, constant=True)
    torch.testing.assert_close(found.weights, start, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(found.constant, torch.full((1, 3), 2.0).double())


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9), st.integers(0, 8))
def test_the_bottom_of_a_valley_is_found_without_looking_at_all_of_it(steps, bottom):
    bottom = min(bottom, len(steps) - 1)
    heights = [sum(steps[min(i, bottom) : max(i, bottom)]) for i in range(len(steps))]
    looked = set()

    def error(value):
        looked.add(value)
        return heights[int(value)]

    found = downhill([float(i) for i in range(len(steps))], error)
    if all(step > 1e-9 for step in steps):
        assert heights[int(found)] == 0
        assert len(looked) <= abs(bottom - len(steps) // 2) + 3


def test_a_duplicate_with_another_scale_is_made_up_for_exactly():
    model = Plain(conv_bn(8, 6))
    with torch.no_grad():
        model.first[0].weight[5] = model.first[0].weight[1]
        for tensor in (model.first[1].running_mean, model.first[1].running_var):
            tensor[5] = tensor[1]
        model.first[1].weight[5], model.first[1].bias[5] = 2.5 * model.first[1].weight[1], 2.5 * model.first[1].bias[1]
    pair = pair_of(model, images(), {"first.0": [0, 1, 2, 3, 4, 6, 7]})
    assert gap(model, pair.small, pair.batches) > 1e-2
    assert gap(model, least_squares(pair, quiet), images(16, 8, 1)) < 1e-5


def test_a_constant_filter_goes_into_the_shift():
    model = Plain(conv_bn(8, 6, 1))
    with torch.no_grad():
        model.first[0].weight[5] = 0
        model.first[1].running_mean[5] = 0
        model.first[1].bias[5] = 1.7
    pair = pair_of(model, images(), {"first.0": [0, 1, 2, 3, 4, 6, 7]})
    assert gap(model, pair.small, pair.batches) > 1e-2
    assert gap(model, least_squares(pair, quiet), pair.batches) < 1e-5


@pytest.mark.parametrize(
    ("model", "keep"),
    [
        (Plain, {"first.0": range(5)}),
        (Residual, {"inner1.0": range(7), "inner2.0": range(3, 9)}),
        (Residual, {"stem.0": range(4), "inner2.0": range(3, 9)}),
        (Separable, {"expand.0": range(6), "left.0": range(3), "right.0": range(2, 5)}),
        (Separable, {"grouped.0": [0, 1, 2, 4, 5, 6]}),
    ],
)
def test_repair_comes_nearer_to_the_original_than_batch_norm_alone(model, keep):
    torch.manual_seed(3)
    pair = pair_of(model(), images(160, 8, 2), keep)
    fresh = images(32, 8, 1)
    cut = gap(pair.original, pair.small, fresh)
    found = least_squares(pair, quiet)
    assert gap(pair.original, found, fresh) < 0.6 * cut
    assert [p.shape for p in found.parameters()] == [p.shape for p in pair.small.parameters()]
    norm = infoprune.repair(pair.small, pair.original, pair.batches, pair.plan, method="bn")
    assert gap(pair.original, found, fresh) < gap(pair.original, norm, fresh)


def test_residual_sums_are_matched_not_branches():
    torch.manual_seed(3)
    pair = pair_of(Residual(), images(160, 8, 2), {"inner1.0": range(4)})
    found = least_squares(pair, quiet)
    x = pair.batches[0]

    @torch.no_grad()
    def sums(model):
        stem = model.stem(x)
        first = F.relu(model.norm1(model.outer1(model.inner1(stem))) + stem)
        return model.norm2(model.outer2(model.inner2(first))) + first

    wanted = sums(pair.original)
    # What the second block adds makes up for a part of what the first one lost.
    branch_only = least_squares(pair, quiet, every=False)
    assert (sums(found) - wanted).norm() < 0.95 * (sums(branch_only) - wanted).norm()


def test_kept_feature_maps_change_nothing_but_time():
    pair = pair_of(Separable(), images(), {"expand.0": range(6), "left.0": range(3)})
    with_memory, without = least_squares(pair, quiet), least_squares(pair, quiet, memory=0)
    assert gap(with_memory, without, pair.batches) < 1e-6
    assert all("forward" not in vars(module) for module in pair.original.modules())


def test_the_split_into_batches_does_not_matter():
    pair = pair_of(Residual(), images(60, 8, 2), {"inner1.0": range(4)})
    found = least_squares(pair, quiet)
    other = pair_of(pair.original, list(torch.cat(pair.batches).split(7)), {"inner1.0": range(4)})
    assert gap(found, least_squares(other, quiet), pair.batches) < 1e-5


def test_the_given_networks_are_left_alone():
    pair = pair_of(Residual(), images(), {"inner1.0": range(4)})
    before = [{k: v.clone() for k, v in m.state_dict().items()} for m in (pair.original, pair.small)]
    least_squares(pair, quiet)
    for model, state in zip((pair.original, pair.small), before, strict=True):
        assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def test_a_layer_of_copies_and_zeros_stays_finite():
    model = Plain(conv_bn(8, 6))
    with torch.no_grad():
        model.first[0].weight[1:4] = model.first[0].weight[0]
        model.first[0].weight[4] = 0
        model.middle[1].weight[2] = 0
    pair = pair_of(model, images(10, 8, 1), {"first.0": range(5)})
    found = least_squares(pair, quiet)
    assert all(torch.isfinite(p).all() for p in found.parameters())
    assert max(p.abs().max() for p in found.parameters()) < 1e3
    assert gap(model, found, images(20, 8, 1)) <= gap(model, pair.small, images(20, 8, 1))


@given(st.integers(0, 1000), st.floats(0, 4), st.sampled_from([1e-12, 1e-4, 0.1]))
@settings(deadline=None, max_examples=20)
def test_constant_features_are_not_fitted_by_their_rounding(seed, magnitude, ridge):
    drawn = torch.Generator().manual_seed(seed)
    features = (10**magnitude * torch.rand(1, 60, 1, generator=drawn)).expand(1, 60, 500)
    targets = torch.randn(1, 3, 500, generator=drawn)
    equations = NormalEquations.of(torch.zeros(1, 60, 3, dtype=torch.float64))
    for first in range(0, 500, 37):
        equations.add(features[..., first : first + 37], targets[..., first : first + 37])
    found = equations.solve(torch.zeros(1, 60, 3, dtype=torch.float64), ridge, constant=True)
    assert (found.weights * features[0, :, :1].double()).abs().max() < 0.1
    assert equations.error(found) == pytest.approx(float(targets.var(dim=2, correction=0).sum()), rel=1e-3)


def test_images_in_another_order_are_refused():
    class Shuffled(list):
        def __iter__(self):
            self.append(self.pop(0))
            return super().__iter__()

    pair = pair_of(Plain(), images(parts=5), {"first.0": range(5)})
    shuffled = Pair(pair.original, pair.small, pair.plan, pair.groups, pair.removal, Shuffled(pair.batches))
    with pytest.raises(InputError, match="same order"):
        least_squares(shuffled, quiet)


def test_a_layer_that_runs_twice_is_named_and_left():
    class Twice(Plain):
        def forward(self, x):
            x = self.first(x)
            return self.fc(F.relu(self.middle(x) + self.middle(x.flip(3))).mean((2, 3)))

    pair = pair_of(Twice(), images(), {"first.0": range(5)})
    with pytest.warns(UserWarning, match="'middle' stays as it was cut: it runs several times"):
        found = least_squares(pair, quiet)
    assert torch.equal(found.middle.weight, pair.small.middle.weight)
    assert gap(pair.original, found, pair.batches) < gap(pair.original, pair.small, pair.batches)


def test_of_many_images_fewer_positions_are_looked_at(monkeypatch):
    torch.manual_seed(5)
    pair = pair_of(Residual(), images(60, 8, 3), {"inner1.0": range(4)})
    all_positions = least_squares(pair, quiet)
    monkeypatch.setattr(least_squares_module, "ALL_POSITIONS", 60 * 20)
    walks = least_squares_module.Walks.of(pair, copy.deepcopy(pair.small), 1 << 20)
    site = least_squares_module.site_of(pair, walks.small.model, "outer1")
    assert sum(equations.count for equations in least_squares_module.moments_of(walks, site)) == 60 * 20
    assert gap(least_squares(pair, quiet), all_positions, pair.batches) < 0.5 * gap(
        pair.small, all_positions, pair.batches
    )
