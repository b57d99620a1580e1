"""A fast copy is what ``copy.deepcopy`` makes, and shares nothing with the network."""

import copy

import pytest
import torch
from torch import nn

from infoprune import zoo
from infoprune.network.deep_copy import deep_copy
from infoprune.network.fingerprint import fingerprint


def digest(tensor):
    return fingerprint({"": tensor})


def layout(module):
    """What is held where, and which places hold one and the same object; values of tensors as a digest."""
    places = {}

    def described(value):
        if isinstance(value, torch.Tensor):
            kind = (type(value), value.dtype, value.shape, value.requires_grad)
            return places.setdefault(id(value), (*kind, digest(value)))
        if isinstance(value, nn.Module):
            if id(value) in places:
                return places[id(value)]
            places[id(value)] = f"module {len(places)}"
            return type(value), {name: described(one) for name, one in vars(value).items()}
        if isinstance(value, dict):
            return type(value), [(key, described(one)) for key, one in value.items()]
        return value

    return described(module)


class Tied(nn.Module):
    """Layers under two names, a weight in two layers, a way back up, and attributes of many kinds."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.again = self.first
        self.norm = nn.BatchNorm1d(3)
        self.parent = [self]
        self.sizes, self.names, self.places = (1, (2, 3)), {"a", "b"}, {"x": [1, 2]}
        self.register_buffer("steps", torch.arange(3), persistent=False)


class Stubborn(nn.Linear):
    """A layer that says itself how it is copied."""

    def __deepcopy__(self, known):
        known[id(self)] = twin = Stubborn(self.in_features, self.out_features)
        twin.copied = True
        return twin


@pytest.mark.parametrize("name", ["digits", "resnet20", "mobilenet_v2", "vgg16"])
def test_a_network_of_the_zoo(name):
    net = zoo.build(name).train()
    twin = deep_copy(net)
    assert layout(twin) == layout(copy.deepcopy(net)) == layout(net)
    shared = {one.data_ptr() for one in net.state_dict().values()} & {
        one.data_ptr() for one in twin.state_dict().values()
    }
    assert not shared


def test_what_is_shared_stays_shared():
    net = Tied()
    twin = deep_copy(net)
    assert twin.again is twin.first is not net.first
    assert twin.second.weight is twin.first.weight is not net.first.weight
    assert twin.parent[0] is twin
    assert (twin.sizes, twin.names, twin.places) == (net.sizes, net.names, net.places)
    twin.places["x"].append(3)
    twin.names.add("c")
    assert net.places == {"x": [1, 2]}
    assert net.names == {"a", "b"}
    assert twin._non_persistent_buffers_set == {"steps"}


def test_hooks_are_copied_with_what_they_hold():
    net = nn.Sequential(nn.Linear(2, 2))
    seen = []
    net[0].register_forward_hook(lambda *_: seen.append(1))
    twin = deep_copy(net)
    twin(torch.zeros(1, 2))
    assert seen == [1]
    assert len(twin[0]._forward_hooks) == 1
    assert twin[0]._forward_hooks is not net[0]._forward_hooks


def test_a_class_with_a_way_of_its_own_is_asked():
    twin = deep_copy(nn.Sequential(Stubborn(2, 2)))
    assert twin[0].copied


def test_an_object_that_is_known_is_taken():
    net, other = nn.Sequential(nn.ReLU()), nn.Identity()
    assert deep_copy(net, {id(net[0]): other})[0] is other
