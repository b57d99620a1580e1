"""The one line without options prunes networks of every make, or says in a sentence why it cannot."""

import warnings

import pytest
import torch
from torch import nn

import infoprune
from infoprune.criteria import find
from infoprune.criteria.scoring import score
from infoprune.errors import InputError
from infoprune.network.coupled_groups import find_groups
from infoprune.network.group_maps import collect_maps
from network import toys

IMAGES = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def pruned(build):
    torch.manual_seed(0)
    model = build().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model, infoprune.prune(model, IMAGES, macs=0.7, effort="quick")


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(toys.Auxiliary, id="a reader that runs in train mode only"),
        pytest.param(toys.Joined, id="layers that share a part of their channels"),
        pytest.param(toys.Doubled, id="filters that share channels"),
        pytest.param(toys.Normalised, id="weight norm"),
        pytest.param(toys.WeightStandardised, id="weight standardisation"),
        pytest.param(toys.Grouped, id="grouped convolutions"),
        pytest.param(toys.Inception, id="branches"),
        pytest.param(toys.SqueezeExcite, id="gates"),
    ],
)
def test_the_default_prunes_and_its_network_is_made_again_from_its_file(build, tmp_path):
    _, result = pruned(build)
    assert result.pruned.macs <= 0.7 * result.base.macs
    infoprune.save(result.model, tmp_path / "small.safetensors", origin=infoprune.Origin("mine", (3, 8, 8)))
    again = infoprune.load(tmp_path / "small.safetensors", build)
    with torch.no_grad():
        assert torch.equal(again(IMAGES), result.model(IMAGES))


def test_layers_with_computed_weights_are_repaired_and_named_in_the_plan():
    model, result = pruned(toys.WeightStandardised)
    assert result.plan.settings["made_plain"] == {"second": "Standardised"}
    assert type(result.model.second) is torch.nn.Conv2d
    with torch.no_grad():
        away = (model(IMAGES) - result.model(IMAGES)).square().mean()
        cut = infoprune.apply(result.plan, model, IMAGES)
        assert away < (model(IMAGES) - cut(IMAGES)).square().mean()
    assert type(model.second) is toys.Standardised


def test_a_network_that_cannot_get_small_enough_is_refused_with_what_it_can():
    with pytest.raises(InputError, match="a budget of 1 % of the MACs cannot be met: .* so ask for"):
        infoprune.prune(toys.Generator().eval(), IMAGES, macs=0.01)


def test_a_transposed_convolution_weighs_its_inputs_as_the_convolution_that_equals_it():
    torch.manual_seed(0)
    first, up = nn.Conv2d(3, 6, 3), nn.ConvTranspose2d(6, 2, 2, 2)
    up.weight.data[:] = up.weight.data[:, :, :1, :1]
    same = nn.Conv2d(6, 8, 1)
    same.weight.data[:] = up.weight.data.flatten(1).t()[:, :, None, None]
    found = []
    for reader in (nn.Sequential(up), nn.Sequential(same, nn.PixelShuffle(2))):
        model = nn.Sequential(first, nn.ReLU(), reader).eval()
        groups = [group for group in find_groups(model, IMAGES).groups if group.name == "0"]
        found.append(score(model, groups, [IMAGES], find("reconstruction"))["0"])
    assert found[0].order == found[1].order
    assert torch.allclose(found[0].scores, found[1].scores, rtol=1e-4)


def test_half_precision_stays_half_precision():
    torch.manual_seed(0)
    result = infoprune.prune(toys.Plain().half().eval(), IMAGES.half(), macs=0.7)
    assert {values.dtype for values in result.model.parameters()} == {torch.float16}
    assert result.pruned.agreement is not None


class Frames(nn.Module):
    """Frames of a film, each an image of the network inside."""

    def __init__(self):
        super().__init__()
        self.inner = toys.Plain()

    def forward(self, x):
        return self.inner(torch.cat([x, -x])).unflatten(0, (2, -1)).mean(0)


def test_dead_filters_are_not_counted_where_an_image_has_several_maps():
    _, result = pruned(Frames)
    assert result.base.dead_filters is None
    assert result.pruned.macs <= 0.7 * result.base.macs


class Scripted(toys.Plain):
    def __init__(self):
        super().__init__()
        self.side = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
        self.last = nn.Linear(4, self.fc.out_features)

    def forward(self, x):
        return super().forward(x) + self.last(self.side(x).mean((2, 3)))


class BatchNormed(nn.Sequential):
    def __init__(self):
        def normed(width):
            return nn.BatchNorm2d(width, track_running_stats=False)

        super().__init__(
            nn.Conv2d(3, 12, 3, padding=1), normed(12), nn.ReLU(), nn.Conv2d(12, 16, 3, padding=1), normed(16),
            nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
        )  # fmt: skip


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 12, 3, padding=1)
        self.gate, self.head = nn.Conv2d(16, 4, 3, padding=1), nn.Linear(4, 5)

    def forward(self, x):
        maps = self.second(self.first(x).relu()).relu()
        state = x.new_zeros(len(x), 4, *x.shape[2:])
        return self.head(self.gate(torch.cat([maps, state], 1)).mean((2, 3)))


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 24, 3), nn.Conv2d(12, 32, 3), nn.Linear(16, 5)

    def forward(self, x):
        x = nn.functional.glu(self.second(nn.functional.glu(self.first(x), dim=1)), 1)
        return self.last(x.mean((2, 3)))


class PartialConvolution(nn.Module):
    """What is weighed by the share of a mask around each place."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 16, 3, padding=1)
        self.last = nn.Linear(16, 5)
        self.register_buffer("ones", torch.ones(1, 1, 3, 3))

    def forward(self, x):
        mask = nn.functional.conv2d((x[:, :1] > 0).float(), self.ones, padding=1)
        return self.last(self.second(self.first(x).relu() * mask).relu().mean((2, 3)))


@pytest.mark.parametrize(
    ("build", "layer"),
    [(Scripted, "conv2.0"), (BatchNormed, "3"), (Recurrent, "first"), (Gated, "first"), (PartialConvolution, "first")],
)
def test_layers_that_can_lose_filters_are_found(build, layer):
    model = build().eval()
    assert layer in find_groups(model, IMAGES).by_name()
    infoprune.prune(model, IMAGES, macs=0.9, effort="quick")


@pytest.mark.parametrize("form", ["dict", "tuple", "view"])
def test_what_a_network_returns_can_be_distilled(form):
    class Other(toys.Plain):
        def forward(self, x):
            if form == "view":
                maps = self.conv2(self.conv1(x))
                n, c, h, w = maps.shape
                return self.fc(maps.view(n * c, h * w).mean(1).view(n, c))
            found = super().forward(x)
            return {"out": found} if form == "dict" else (found, 2 * found)

    how = infoprune.RepairOptions("distil", epochs=1)
    assert infoprune.prune(Other().eval(), IMAGES, criterion="l1", macs=0.7, repair=how).repair == "distil"


@pytest.mark.parametrize("norm", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm])
def test_filters_with_computed_weights_are_folded(norm):
    model = nn.Sequential(
        norm(nn.Conv2d(3, 12, 3)), nn.ReLU(), norm(nn.Conv2d(12, 16, 3)), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 5),
    )  # fmt: skip
    result = infoprune.prune(model.eval(), IMAGES, criterion="l1", macs=0.7, repair="fold")
    assert type(result.model[0]) is nn.Conv2d


def test_a_layer_that_becomes_removable_in_a_smaller_network_stays():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 1), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, groups=16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5),
    )  # fmt: skip
    result = infoprune.prune(model.eval(), IMAGES, max_loss=60)
    assert infoprune.verify(result.plan, model, IMAGES) < 1e-3


def test_a_single_image_and_a_network_without_weights_are_refused_with_what_to_pass():
    with pytest.raises(InputError, match=r"cannot read images of shape \(8, 8\): .*one image is image\[None\]"):
        infoprune.prune(toys.Plain(), list(IMAGES), macs=0.7)
    with pytest.raises(InputError, match="has shapes but no weights: it lies on the device 'meta'"):
        infoprune.prune(toys.Plain().to("meta"), IMAGES, macs=0.7)


def test_the_maps_of_a_layer_that_two_groups_share_are_divided_between_them():
    model = toys.Joined().eval()
    groups = find_groups(model, IMAGES).groups
    maps, _ = collect_maps(model, [IMAGES], groups, "norm")
    with torch.no_grad():
        parts = {name: getattr(model, name)[:2](IMAGES).flatten(2) for name in "abcd"}
    wanted = {
        "a.0": torch.cat([parts["a"], parts["c"][:, :4]], dim=2),
        "b.0": torch.cat([parts["b"], _filled(parts["c"][:, 4:], 0), _filled(parts["d"], 2)], dim=2),
    }
    for name, expected in wanted.items():
        assert torch.allclose(maps[name][:, :, 0], expected, atol=1e-6)


def _filled(maps, first):
    """Place the maps of some of six filters; the others have none in this layer."""
    whole = maps.new_zeros(len(maps), 6, maps.shape[2])
    whole[:, first : first + maps.shape[1]] = maps
    return whole


def test_channels_that_two_filters_share_are_weighed_once():
    model = toys.Doubled().eval()
    groups = [group for group in find_groups(model, IMAGES).groups if group.name == "narrow.0"]
    found = score(model, groups, [IMAGES], find("reconstruction"))["narrow.0"]
    assert found.scores.isfinite().all()
    assert (found.scores > 0).all()


def test_the_size_of_a_batch_hardly_changes_the_scores():
    torch.manual_seed(0)
    model = toys.Plain().eval()
    groups = find_groups(model, IMAGES).groups
    found = [score(model, groups, list(IMAGES.split(size)), find("reconstruction")) for size in (1, 2, 24)]
    for name, whole in found[-1].items():
        for other in found[:-1]:
            assert torch.allclose(other[name].scores, whole.scores, rtol=0.05)
