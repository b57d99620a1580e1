import importlib.util
import subprocess
import sys
import types

import pytest
from torch import nn

from infoprune import zoo
from infoprune.data.preprocessing import Preprocessing
from infoprune.errors import InputError


def test_a_name_of_the_zoo():
    assert zoo.make("vgg16", {"classes": 3}).classifier.out_features == 3
    assert zoo.preprocessing_of("vgg16", nn.Identity()) == zoo.info("vgg16").preprocessing


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("vgg61", "unknown network 'vgg61': did you mean 'vgg16'"),
        ("", "unknown network ''"),
        ("os:system", "no registry lists a network 'os:system'"),
        (":f", "no registry lists"),
    ],
)
def test_what_no_registry_lists_is_refused_in_one_sentence(spec, words):
    with pytest.raises(InputError) as caught:
        zoo.make(spec)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


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
