"""A checkpoint is the network and its story; anything that is none is refused in one sentence."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import infoprune
from infoprune import zoo
from infoprune.errors import InputError
from infoprune.experiment import network as run_network
from infoprune.experiment.options import NetworkOptions
from infoprune.network.origin import origin_of
from infoprune.storage import checkpoint


@pytest.fixture(params=["digits", "resnet20", "lenet5"])
def network(request):
    torch.manual_seed(0)
    return run_network.open_network(NetworkOptions(request.param), "cpu")


def images_for(network):
    return torch.rand(3, *origin_of(network).input_shape)


def pruned(network, seed=1):
    batches = [(images_for(network), torch.arange(3))]
    return infoprune.prune(network, batches, criterion="random", ratio=0.4, seed=seed).model


@torch.no_grad()
def test_a_pruned_network_comes_back_identical(network, tmp_path):
    small = pruned(pruned(network), seed=2)
    infoprune.save(small, tmp_path / "small.safetensors", settings={"seed": 2}, figures={"accuracy": 9.5})
    loaded, images = infoprune.load(tmp_path / "small.safetensors"), images_for(network)
    assert torch.equal(loaded(images), small.eval()(images))
    contents = checkpoint.describe(tmp_path / "small.safetensors")
    assert contents.settings == {"seed": 2}
    assert contents.figures == {"accuracy": 9.5}
    assert origin_of(loaded) == contents.origin


def test_pruning_a_loaded_network_needs_only_the_last_checkpoint(network, tmp_path):
    infoprune.save(pruned(network), tmp_path / "once.safetensors")
    again = pruned(infoprune.load(tmp_path / "once.safetensors"))
    infoprune.save(again, tmp_path / "twice.safetensors")
    loaded = infoprune.load(tmp_path / "twice.safetensors")
    assert sum(p.numel() for p in loaded.parameters()) == sum(p.numel() for p in again.parameters())


def test_half_precision_halves_the_file(tmp_path):
    network = run_network.open_network(NetworkOptions("resnet20"), "cpu")
    infoprune.save(network, tmp_path / "whole.safetensors")
    infoprune.save(network, tmp_path / "half.safetensors", half=True)
    whole, half = ((tmp_path / f"{name}.safetensors").stat().st_size for name in ("whole", "half"))
    assert half < 0.6 * whole
    assert infoprune.load(tmp_path / "half.safetensors").linear.weight.dtype == torch.float32


def test_a_network_of_nobodys_is_refused(tmp_path):
    with pytest.raises(InputError, match="origin="):
        infoprune.save(zoo.build("digits"), tmp_path / "a.safetensors")
    origin = infoprune.Origin("digits", (1, 8, 8))
    infoprune.save(zoo.build("digits"), tmp_path / "a.safetensors", origin=origin)
    assert origin_of(infoprune.load(tmp_path / "a.safetensors")) == origin


def rewritten(path, change):
    with checkpoint._opened(path) as file:
        header = json.loads(file.metadata()["infoprune"])
    weights = load_file(path)
    change(header, weights)
    save_file(weights, path, metadata={"infoprune": json.dumps(header)})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda header, weights: header.update(format=99), "update it"),
        (lambda header, weights: header.update(architecture="digitz"), "did you mean 'digits'"),
        (lambda header, weights: header.pop("input_shape"), "origin cannot be used: it has no 'input_shape'"),
        (lambda header, weights: header.update(plan={"format": 1}), "plan cannot be used: it has no 'layers'"),
        (lambda header, weights: weights.pop("classifier.bias"), "classifier.bias"),
        (lambda header, weights: weights.update(extra=torch.zeros(1)), "extra"),
        (lambda header, weights: weights.update({"classifier.bias": torch.zeros(3)}), "classifier.bias"),
    ],
)
def test_damaged_checkpoints_are_refused(tmp_path, change, sentence):
    path = tmp_path / "a.safetensors"
    infoprune.save(run_network.open_network(NetworkOptions("digits"), "cpu"), path)
    rewritten(path, change)
    with pytest.raises(InputError, match=sentence):
        infoprune.load(path)


def test_weights_without_a_header_are_refused(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="not an infoprune checkpoint"):
        infoprune.load(tmp_path / "a.safetensors")
    assert not checkpoint.is_checkpoint(tmp_path / "a.safetensors")
    assert not checkpoint.is_checkpoint(tmp_path / "none")
