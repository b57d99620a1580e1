import importlib.util
import subprocess
import sys
import types

import pytest
import torch
from torch import nn

from infoprune import zoo
from infoprune.data.preprocessing import Preprocessing
from infoprune.errors import InputError

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


def test_a_name_of_the_zoo():
    assert zoo.make("vgg16", {"classes": 3}).classifier.out_features == 3
    assert zoo.preprocessing_of("vgg16", nn.Identity()) == zoo.info("vgg16").preprocessing


def test_a_function_of_the_user_with_arguments(user_module):
    path = list(sys.path)
    network = zoo.make(f"{user_module}:tiny", {"width": 6})
    assert network[0].out_channels == 6
    assert sys.path == path


def test_the_preprocessing_of_a_users_network_is_what_it_declares_or_none(user_module):
    _, declared = zoo.load_network(f"{user_module}:declared")
    _, colour = zoo.load_network(f"{user_module}:tiny")
    _, grey = zoo.load_network(f"{user_module}:tiny", grey=True)
    assert declared.mean == (0.1, 0.2, 0.3)
    assert colour == Preprocessing((0.0,) * 3, (1.0,) * 3)
    assert grey == Preprocessing((0.0,), (1.0,))


def test_weights_load_into_a_users_network(user_module, tmp_path):
    made = zoo.make(f"{user_module}:tiny")
    torch.save(made.state_dict(), tmp_path / "w.pt")
    loaded, _ = zoo.load_network(f"{user_module}:tiny", tmp_path / "w.pt")
    assert torch.equal(loaded[0].weight, made[0].weight)
    with pytest.raises(InputError, match=r"0.weight' has the shape \(4, 3, 3, 3\), the network needs \(5, 3, 3, 3\)"):
        zoo.load_network(f"{user_module}:tiny", tmp_path / "w.pt", width=5)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("my_networks:tinny", "unknown function of module 'my_networks' 'tinny': did you mean 'tiny'"),
        ("my_networks:WIDTH", "unknown function of module 'my_networks' 'WIDTH'"),
        ("my_networks:", "unknown function of module 'my_networks' ''"),
        ("my_networks:number", "'my_networks:number' must return a torch.nn.Module, not int"),
        ("my_networks:broken", "'my_networks:broken' cannot be built: RuntimeError: out of ideas"),
        ("no_such_module:f", "the module of 'no_such_module:f' cannot be imported: ModuleNotFoundError"),
        (":f", "the module of ':f' cannot be imported: ValueError"),
        ("vgg61", "unknown network 'vgg61': did you mean 'vgg16'"),
        ("", "unknown network ''"),
    ],
)
def test_what_cannot_be_made_is_refused_in_one_sentence(user_module, spec, words):
    with pytest.raises(InputError) as caught:
        zoo.make(spec)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_arguments_that_the_function_does_not_take_are_named(user_module):
    with pytest.raises(InputError, match=r"'my_networks:tiny' cannot be built: TypeError: .*depth"):
        zoo.make("my_networks:tiny", {"depth": 3})


@pytest.mark.parametrize("package", ["timm", "torchvision"])
def test_a_package_that_is_not_there_is_named(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=f"'{package}:resnet18' needs the package {package}.*pip install {package}"):
        zoo.make(f"{package}:resnet18")


def test_a_package_built_for_another_pytorch_is_named(tmp_path, monkeypatch):
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.delitem(sys.modules, "torchvision.models", raising=False)
    with pytest.raises(InputError, match="torchvision, which cannot be imported .RuntimeError: operator"):
        zoo.make("torchvision:resnet18")


@pytest.fixture
def stand_in_timm(monkeypatch):
    """What is asked of timm, for machines without it: names, a builder, and the facts on a network."""

    def create_model(name, num_classes=1000):
        network = nn.Sequential(nn.Conv2d(3, num_classes, 1))
        network.pretrained_cfg = {"mean": [0.5] * 3, "std": (0.25,) * 3, "input_size": (3, 160, 160), "crop_pct": 0.8}
        return network

    timm = types.ModuleType("timm")
    timm.list_models = lambda: ["resnet18", "resnet34"]
    timm.is_model = lambda name: name in timm.list_models()
    timm.create_model = create_model
    monkeypatch.setitem(sys.modules, "timm", timm)


def test_timm_networks_bring_their_preprocessing(stand_in_timm):
    network, preprocessing = zoo.load_network("timm:resnet18.a1_in1k", num_classes=7)
    assert network[0].out_channels == 7
    assert preprocessing == Preprocessing((0.5,) * 3, (0.25,) * 3, resize=200, crop=160)
    with pytest.raises(InputError, match="unknown network of timm 'resnet43': did you mean 'resnet34'"):
        zoo.make("timm:resnet43")


def test_torchvision_networks_bring_their_preprocessing():
    pytest.importorskip("torchvision")
    network, preprocessing = zoo.load_network("torchvision:resnet18", num_classes=7)
    assert network.fc.out_features == 7
    assert preprocessing == Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), resize=256, crop=224)
    with pytest.raises(InputError, match="unknown network of torchvision 'resnet81': did you mean 'resnet18'"):
        zoo.make("torchvision:resnet81")


def test_the_zoo_imports_no_other_zoo():
    if not any(importlib.util.find_spec(package) for package in ("timm", "torchvision")):
        pytest.skip("neither timm nor torchvision is installed, so nothing could import them")
    code = "import sys, infoprune.zoo; sys.exit(bool({'timm', 'torchvision'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
