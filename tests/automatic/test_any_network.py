"""The one line without options prunes networks of every make, or says in a sentence why it cannot."""

import warnings

import pytest
import torch

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
    with pytest.raises(InputError, match="a budget of 70 % of the MACs cannot be met"):
        pruned(toys.Generator)


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
