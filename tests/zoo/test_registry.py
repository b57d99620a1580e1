import pytest
from torch import nn

from infoprune import zoo
from infoprune.errors import InputError
from infoprune.zoo import registry


def test_the_networks_of_the_papers_are_there():
    resnets = {f"resnet{depth}{option}" for depth in (20, 32, 44, 56, 110) for option in ("", "_b")}
    others = {
        "lenet5",
        "lenet5_hrel",
        "vgg16",
        "vgg16_hrel",
        "mobilenet_v2",
        "mobilenet_v2_imagenet",
        "resnet50",
        "digits",
    }
    assert set(zoo.names()) == resnets | others


@pytest.mark.parametrize("name", zoo.names())
def test_what_is_declared_fits_the_network(name):
    info = zoo.info(name)
    channels, height, width = info.input_shape
    assert info.name == name
    assert info.preprocessing.channels == channels
    assert info.preprocessing.crop in (None, height)
    assert height == width
    assert set(info.taps.values()) <= {"convolution", "norm", "activation"}


def test_hrel_reads_raw_convolutions_except_in_vgg():
    taps = {name: zoo.info(name).taps.get("hrel") for name in zoo.names()}
    assert taps["lenet5"] == taps["lenet5_hrel"] == taps["resnet56"] == taps["resnet110_b"] == "convolution"
    assert taps["vgg16"] == taps["vgg16_hrel"] == "activation"


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("resnet65", {}, "unknown network 'resnet65': did you mean 'resnet56'"),
        ("vgg16", {"clases": 3}, "unknown argument of network 'vgg16' 'clases': did you mean 'classes'"),
        ("vgg16", {"classes": 0}, "'classes' of network 'vgg16' is a whole number, at least 1, not 0"),
        ("digits", {"classes": "10"}, "not '10'"),
        ("digits", {"classes": True}, "not True"),
        ("mobilenet_v2_imagenet", {"batch_norm": 1}, "true or false, not 1"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_sentence(name, arguments, words):
    with pytest.raises(InputError) as caught:
        zoo.build(name, **arguments)
    assert words in str(caught.value)


def test_a_network_of_the_user_is_selectable_by_its_name(monkeypatch):
    monkeypatch.setattr(registry, "_INFOS", dict(registry._INFOS))
    monkeypatch.setattr(registry, "_BUILDERS", dict(registry._BUILDERS))
    preprocessing = zoo.info("digits").preprocessing

    @zoo.register(zoo.NetworkInfo("mine", "one convolution", (1, 8, 8), 10, preprocessing))
    def mine(filters: int) -> nn.Module:
        return nn.Conv2d(1, filters, 3)

    assert zoo.build("mine", filters=5).out_channels == 5
    with pytest.raises(InputError, match="'mine' exists already"):
        zoo.register(zoo.NetworkInfo("mine", "", (1, 8, 8), 10, preprocessing))
