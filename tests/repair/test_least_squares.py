"""Least squares behind a cut."""

import copy
from dataclasses import replace
from importlib import import_module

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import infoprune
from infoprune.network.layer_io import Watch, read
from infoprune.regression import layer_fit
from infoprune.regression.layer_fit import downhill
from infoprune.regression.normal_equations import NormalEquations
from infoprune.regression.patches import as_matrix, from_matrix, patches
from infoprune.repair.least_squares import least_squares
from infoprune.repair.repeated_layer import refit_repeated
from infoprune.repair.walks import Walks, moments_of
from nets import Plain, Residual, Separable, conv_bn, gap, images, pair_of, quiet

products_module = import_module("infoprune.regression.products")

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
    reading = read(nn.Sequential(layer), "0", x)
    found = as_matrix(layer).mT @ patches(reading.window, reading.inputs, places).double()
    again = from_matrix(as_matrix(layer), layer)
    assert torch.equal(again.to(layer.weight.dtype), layer.weight)
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


def test_images_are_read_once_however_many_layers_there_are():
    class Counted(list):
        read = 0

        def __iter__(self):
            for one in super().__iter__():
                self.read += 1
                yield one

    pair = pair_of(Residual(), images(parts=5), {"inner1.0": range(5)})
    counted = Counted(pair.batches)
    found = infoprune.repair(pair.small, pair.original, counted, pair.plan, method="all")
    # Two batches are looked at to see what the loader holds and whether it can be read again.
    assert counted.read <= len(pair.batches) + 3
    assert gap(pair.original, found, pair.batches) < gap(pair.original, pair.small, pair.batches)


class Autocast(Plain):
    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return super().forward(x).float()


def test_a_forward_in_lower_precision_is_repaired_like_any_other(recwarn):
    pair = pair_of(Autocast(), images(), {"first.0": range(5), "middle": range(2)})
    found = least_squares(pair, quiet)
    assert not recwarn.list
    assert gap(pair.original, found, pair.batches) < 0.6 * gap(pair.original, pair.small, pair.batches)
    # What comes before a layer was computed with the new weights: fitted once more, nothing is left to gain.
    again = least_squares(replace(pair, small=found), quiet)
    assert gap(pair.original, again, pair.batches) > 0.9 * gap(pair.original, found, pair.batches)


def test_what_is_computed_of_a_result_is_not_in_the_lower_precision():
    model, found = Autocast().eval(), []
    square = torch.ones(2, 2)
    watch = Watch(
        model, ["middle"], lambda layer, reading: found.append((reading.result.dtype, (square @ square).dtype))
    )
    with torch.no_grad(), watch.hooks(), watch:
        watch.finish(model(images()[0]))
    assert found == [(torch.bfloat16, torch.float32)]


class Twice(Plain):
    def forward(self, x):
        x = self.first(x)
        return self.fc(F.relu(self.middle(x) + self.middle(x.flip(3))).mean((2, 3)))


@pytest.mark.parametrize("method", ["least-squares", "alternating"])
def test_a_layer_that_runs_twice_is_fitted_to_both_calls(method, recwarn):
    pair = pair_of(Twice(), images(), {"first.0": range(5)})
    found = infoprune.repair(pair.small, pair.original, pair.batches, pair.plan, method=method)
    assert not recwarn.list
    frozen = copy.deepcopy(found)
    frozen.middle.load_state_dict(pair.small.middle.state_dict())
    assert gap(pair.original, found, pair.batches) < 0.7 * gap(pair.original, frozen, pair.batches)


def test_removed_copies_are_made_up_for_in_every_call():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.shared = nn.Linear(6, 8), nn.Linear(8, 3)
            for tensor in self.stem.parameters():
                tensor.data[:4] = tensor.data[4:]

        def forward(self, x):
            return torch.cat([self.shared(self.stem(x)), self.shared(self.stem(2 * x + 1))], dim=1)

    torch.manual_seed(0)
    pair = pair_of(Two(), [torch.randn(100, 6)], {"stem": range(4)})
    small = copy.deepcopy(pair.small)
    refit_repeated(pair, small, "shared")
    weight = pair.original.shared.weight
    torch.testing.assert_close(small.shared.weight, weight[:, :4] + weight[:, 4:], atol=1e-4, rtol=0)


def test_calls_with_norms_of_their_own_are_named_and_left():
    class Levels(Plain):
        def __init__(self):
            super().__init__()
            self.norms = nn.ModuleList([nn.BatchNorm2d(6), nn.BatchNorm2d(6)])

        def forward(self, x):
            x = self.first(x)
            return self.fc(F.relu(self.norms[0](self.middle(x)) + self.norms[1](self.middle(x.flip(3)))).mean((2, 3)))

    pair = pair_of(Levels(), images(), {"first.0": range(5)})
    with pytest.warns(UserWarning, match="'middle' is not repaired: its calls could not be followed"):
        found = least_squares(pair, quiet)
    assert torch.equal(found.middle.weight, pair.small.middle.weight)


def test_of_many_images_fewer_positions_are_looked_at(monkeypatch):
    torch.manual_seed(5)
    pair = pair_of(Residual(), images(60, 8, 3), {"inner1.0": range(4)})
    all_positions = least_squares(pair, quiet)
    monkeypatch.setattr(layer_fit, "_MOST_TOGETHER", 60 * 20)
    with Walks.of(pair, copy.deepcopy(pair.small), ["outer1"]) as walks:
        assert sum(equations.count for equations in moments_of(walks, walks.sites[0])) == 60 * 20
    assert gap(least_squares(pair, quiet), all_positions, pair.batches) < 0.5 * gap(
        pair.small, all_positions, pair.batches
    )


def test_float32_products_are_those_of_float64(monkeypatch):
    drawn = torch.Generator().manual_seed(0)
    layer = nn.Conv2d(20, 6, 3, padding=1)
    x = torch.randn(40, 20, 8, 8, generator=drawn) * torch.rand(20, 1, 1, generator=drawn) + 30
    t = torch.randn(40, 6, 8, 8, generator=drawn) + 7
    reading = read(nn.Sequential(layer), "0", x)
    found = []
    for least in (0, 1 << 20):
        monkeypatch.setattr(products_module, "FLOAT32_FROM", least)
        products = products_module.Products(1, 180, 6)
        for some in torch.arange(40).split(7):
            targets = layer_fit.Targets([(t, 1, None)], linear=False)
            layer_fit.add_positions(products, reading.window, x, targets, some, torch.Generator().manual_seed(1))
        found.append(products.equations())
    quick, exact = found
    assert quick.count == exact.count == 40 * 64
    variance = exact.moments(centred=True).diagonal(dim1=1, dim2=2).mean()
    difference = (quick.moments(centred=True) - exact.moments(centred=True)).abs().max()
    assert 0 < difference < 1e-5 * variance
    start = torch.zeros(1, 180, 6).double()
    a, b = (one.solve(start, 1e-4, constant=True) for one in found)
    assert exact.error(a) == pytest.approx(exact.error(b), rel=1e-5)
    assert quick.error(b) == pytest.approx(exact.error(b), rel=1e-4)
    assert quick.rounding().max() < 1e-4 * quick.scale().max()


class PadsItself(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(F.pad(x, (1, 1, 1, 1)), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


@pytest.mark.parametrize("side", [8, 20])
def test_a_convolution_that_pads_itself_is_repaired_as_one_that_is_padded(side):
    def net(conv, **padding):
        torch.manual_seed(0)
        layers = [conv(3, 8, 3, **padding), nn.ReLU(), conv(8, 8, 3, **padding), nn.ReLU(), conv(8, 6, 3, **padding)]
        return nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))

    batches, keep = images(60, side, 2), {"0": range(4), "2": range(5)}
    own, plain = pair_of(net(PadsItself), batches, keep), pair_of(net(nn.Conv2d, padding=1), batches, keep)
    assert gap(own.original, plain.original, batches) < 1e-6
    found, wanted = least_squares(own, quiet), least_squares(plain, quiet)
    assert gap(wanted, found, batches) < 1e-5
    assert gap(own.original, found, batches) < 0.5 * gap(own.original, own.small, batches)


class Standardised(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, self.weight / self.weight.square().mean().sqrt(), self.bias, self.stride, self.padding)


def test_a_convolution_whose_weight_is_computed_in_its_forward_is_left():
    model = Plain(nn.Sequential(conv_bn(8, 7), Standardised(7, 6, 3, padding=1)))
    pair = pair_of(model, images(), {"first.0": range(5)})
    found = least_squares(pair, quiet)
    assert torch.equal(found.middle[1].weight, pair.small.middle[1].weight)
    assert not torch.equal(found.middle[0][0].weight, pair.small.middle[0][0].weight)
    assert gap(model, found, pair.batches) < gap(model, pair.small, pair.batches)


class UnusedHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.fc = conv_bn(3, 8), conv_bn(8, 6), nn.Linear(6, 8)
        self.used, self.unused, self.last = nn.Linear(8, 2), nn.Linear(8, 4), nn.Linear(4, 3)

    def forward(self, x):
        x = self.fc(self.second(self.first(x)).mean((2, 3))).relu()
        used, _ = self.used(x), self.last(self.unused(x).relu())
        return used


@pytest.mark.parametrize("method", ["least-squares", "all", "alternating", "distil"])
def test_a_head_that_is_not_returned_is_left_bit_for_bit(method):
    torch.manual_seed(1)
    how = {"minutes": 0.02} if method == "distil" else {}
    pair = pair_of(UnusedHead(), images(100), {"first.0": range(4), "fc": [0, 1, 2, 4, 5]})
    found = infoprune.repair(pair.small, pair.original, pair.batches, pair.plan, method=method, **how)
    for head in ("unused", "last"):
        mine, theirs = (net.get_submodule(head).state_dict() for net in (found, pair.small))
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert not torch.equal(found.used.weight, pair.small.used.weight)
    assert gap(pair.original, found, pair.batches) < gap(pair.original, pair.small, pair.batches)


def test_a_convolution_that_feeds_the_next_one_directly_is_scored_and_refitted():
    """Linear bottlenecks: nothing stands between the projection of one block and the expansion of the next."""
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 8, 1), nn.Conv2d(8, 12, 1), nn.ReLU()]
    model = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4)).eval()
    some = [torch.randn(32, 3, 8, 8) for _ in range(4)]
    choice = {"criterion": "reconstruction", "ratio": 0.25}
    cut, repaired = (infoprune.prune(model, some, repair=how, **choice).model for how in (None, "least-squares"))
    wanted = torch.cat([model(x) for x in some])
    apart = [(torch.cat([small(x) for x in some]) - wanted).square().mean().item() for small in (cut, repaired)]
    assert apart[1] < 0.5 * apart[0]


def test_batches_that_do_not_fit_into_memory_start_at_a_later_layer():
    """Layers with large maps are fitted to fewer images; no map is written to a file, and the result hardly differs."""
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 16, 3), nn.ReLU(), nn.MaxPool2d(4), nn.Conv2d(16, 16, 3), nn.ReLU()]
    model = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)).eval()
    pair = pair_of(model, [torch.randn(32, 3, 32, 32) for _ in range(8)], {"0": range(12)})
    seen = {}
    with Walks.of(pair, pair.small, ["0", "3", "7"], memory=16 << 20, late=True) as walks:
        for site in walks.sites:
            seen[site.name] = sum(len(mine.inputs) for _, mine, _ in walks.towards(site.name))
    assert 64 <= seen["0"] < 256
    assert seen["7"] == 256
    little, much = (least_squares(pair, quiet, memory=memory) for memory in (16 << 20, 1 << 30))
    apart = [gap(model, small, pair.batches) for small in (pair.small, little, much)]
    assert apart[1] < 1.1 * apart[2] < 0.5 * apart[0]


def test_fewer_images_than_are_held_out_are_enough():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 2)).eval()
    some = [torch.rand(4, 3, 8, 8)]
    cut, repaired = (
        infoprune.prune(model, some, criterion="l1", ratio=0.5, repair=how).model for how in (None, "least-squares")
    )
    apart = [(small(some[0]) - model(some[0])).square().mean().item() for small in (cut, repaired)]
    assert apart[1] < 0.5 * apart[0]
