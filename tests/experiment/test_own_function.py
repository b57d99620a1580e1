"""A network of the user's own, by the function that was typed: built, refused in one sentence, never from a file."""

import sys
from dataclasses import replace

import pytest
import torch

from infoprune.data.preprocessing import Preprocessing
from infoprune.errors import InputError
from infoprune.experiment import network as run_network
from infoprune.experiment.network import NetworkOptions, preprocessing_of

MODULE = """
from torch import nn
from infoprune.data.preprocessing import Preprocessing

def tiny(width=4, grey=False):
    return nn.Sequential(nn.Conv2d(1 if grey else 3, width, 3), nn.ReLU())

def declared():
    network = tiny()
    network.preprocessing = Preprocessing((0.1, 0.2, 0.3), (1.0, 1.0, 1.0))
    return network

def number():
    return 3

def broken():
    raise RuntimeError("out of ideas\\nsecond line")

WIDTH = 4
"""


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    """A module beside which the command is called, and which nothing else makes importable."""
    (tmp_path / "my_networks.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    yield "my_networks"
    sys.modules.pop("my_networks", None)


def built(spec, **arguments):
    return run_network.typed_build(NetworkOptions(spec, arguments=arguments))()


def test_a_function_of_the_user_with_arguments(user_module):
    path = list(sys.path)
    network = built(f"{user_module}:tiny", width=6)
    assert network[0].out_channels == 6
    assert sys.path == path


def test_the_preprocessing_of_a_users_network_is_what_it_declares_or_none(user_module):
    declared, colour, grey = (
        preprocessing_of(
            run_network.open_network(NetworkOptions(f"{user_module}:{name}", arguments=how, input_shape=shape))
        )
        for name, how, shape in (
            ("declared", {}, (3, 8, 8)),
            ("tiny", {}, (3, 8, 8)),
            ("tiny", {"grey": True}, (1, 8, 8)),
        )
    )
    assert declared.mean == (0.1, 0.2, 0.3)
    assert colour == Preprocessing((0.0,) * 3, (1.0,) * 3)
    assert grey == Preprocessing((0.0,), (1.0,))


def test_weights_load_into_a_users_network(user_module, tmp_path):
    made, shape = built(f"{user_module}:tiny"), (3, 8, 8)
    torch.save(made.state_dict(), tmp_path / "w.pt")
    options = NetworkOptions(f"{user_module}:tiny", tmp_path / "w.pt", input_shape=shape)
    assert torch.equal(run_network.open_network(options, "cpu")[0].weight, made[0].weight)
    with pytest.raises(InputError, match=r"0.weight' has the shape \(4, 3, 3, 3\), the network needs \(5, 3, 3, 3\)"):
        run_network.open_network(replace(options, arguments={"width": 5}), "cpu")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("my_networks:tinny", "unknown function of module 'my_networks' 'tinny': did you mean 'tiny'"),
        ("my_networks:WIDTH", "'my_networks:WIDTH' must be a function that returns a torch.nn.Module, not int"),
        ("my_networks:", "unknown function of module 'my_networks' ''"),
        ("my_networks:number", "'my_networks:number' must return a torch.nn.Module, not int"),
        ("my_networks:broken", "'my_networks:broken' cannot be built: RuntimeError: out of ideas"),
        ("no_such_module:f", "there is no module 'no_such_module' in the working directory '"),
        ("my_networks.py:build", "name the module, not the file: 'my_networks:build'"),
        ("my_networks", "name the function of that file that returns it, 'my_networks:FUNCTION'"),
        (":f", "the function ':f' cannot be imported: ValueError"),
    ],
)
def test_what_cannot_be_made_is_refused_in_one_sentence(user_module, spec, words):
    with pytest.raises(InputError) as caught:
        built(spec)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_arguments_that_the_function_does_not_take_are_named(user_module):
    with pytest.raises(InputError, match=r"'my_networks:tiny' cannot be built: TypeError: .*depth"):
        built("my_networks:tiny", depth=3)
