import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from infoprune import data, zoo
from infoprune.zoo.mobilenet import SamePadding

# Multiply-adds of one image and parameters. Published: ResNet-56 and -110 (option A), VGG-16's parameters,
# MobileNetV2's 2.237 M (CIFAR) and 300.8 M (ImageNet), the convolutions of LeNet-5.
COUNTS = {
    "lenet5": (288_000 + 1_600_000 + 400_000 + 5_000, 431_080),
    "lenet5_hrel": (288_000 + 1_600_000 + 640_000 + 400_000 + 5_000, 1_071_880),
    "resnet20": (40_551_040, 269_722),
    "resnet32": (68_862_592, 464_154),
    "resnet44": (97_174_144, 658_586),
    "resnet56": (125_485_696, 853_018),
    "resnet110": (252_887_680, 1_727_962),
    "resnet56_b": (125_485_696 + 2 * 131_072, 853_018 + (16 * 32 + 64) + (32 * 64 + 128)),
    "vgg16": (313_201_664, 14_724_042),
    "vgg16_hrel": (313_463_808, 14_724_042 + (512 * 512 + 512) + 2 * 512),
    "mobilenet_v2": (87_976_448, 2_236_682),
    "mobilenet_v2_imagenet": (300_774_272, 3_487_816),
}


def run(name, **arguments):
    """Return a network in eval mode and, by leaf module, the shape of each output it gave for two images."""
    channels, *size = zoo.info(name).input_shape
    network = zoo.build(name, **arguments).eval()
    shapes = {module: [] for module in network.modules() if not list(module.children())}
    for module in shapes:
        module.register_forward_hook(lambda module, _, output: shapes[module].append(tuple(output.shape)))
    with torch.no_grad():
        network(torch.randn(2, arguments.get("in_channels", channels), *size))
    return network, shapes


def elements(shapes, kinds):
    """Return the number of outputs for one image over all modules of these kinds."""
    return sum(
        torch.Size(shape[1:]).numel() for module, seen in shapes.items() if isinstance(module, kinds) for shape in seen
    )


@pytest.mark.parametrize("name", COUNTS)
def test_costs_equal_the_published_counts(name):
    macs, parameters = COUNTS[name]
    network, shapes = run(name)
    counted = sum(
        torch.Size(shape[1:]).numel() * module.weight[0].numel()
        for module, seen in shapes.items()
        if isinstance(module, (nn.Conv2d, nn.Linear))
        for shape in seen
    )
    assert counted == macs
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def test_the_counts_of_the_literature_that_take_in_more_than_multiply_adds():
    # HRel's 313.7 M add the biases its convolutions have; 94.54 M of MobileNetV2 add four a batch norm output.
    _, shapes = run("vgg16_hrel")
    assert (COUNTS["vgg16_hrel"][0] + elements(shapes, nn.Conv2d)) / 1e6 == pytest.approx(313.7, abs=0.05)
    _, shapes = run("mobilenet_v2")
    assert COUNTS["mobilenet_v2"][0] + 4 * elements(shapes, nn.BatchNorm2d) == 94_536_192


@pytest.mark.parametrize("name", zoo.names())
def test_every_layer_runs_once_so_that_each_tap_names_one_place(name):
    _, shapes = run(name)
    assert {len(seen) for seen in shapes.values()} == {1}


@pytest.mark.parametrize("name", zoo.names())
def test_classes_and_channels_are_arguments(name):
    _, shapes = run(name, classes=7, in_channels=2)
    *_, last = shapes.values()
    assert last == [(2, 7)]


@pytest.mark.parametrize("name", zoo.names())
def test_fresh_weights_let_the_signal_through(name):
    network = zoo.build(name).train()
    channels, side, _ = zoo.info(name).input_shape
    logits = network(torch.randn(4, channels, min(side, 64), min(side, 64)))
    assert torch.isfinite(logits).all()
    assert 1e-3 < logits.std() < 1e3


@pytest.mark.parametrize("name", ["vgg16", "resnet20", "resnet20_b", "mobilenet_v2", "digits"])
def test_the_same_seed_gives_the_same_weights(name):
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(zoo.build(name).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("side", [16, 24, 32, 48])
@pytest.mark.parametrize("name", ["vgg16", "vgg16_hrel"])
def test_vgg_reads_images_of_several_sizes(name, side):
    network = zoo.build(name).eval()
    with torch.no_grad():
        assert network(torch.randn(1, 3, side, side)).shape == (1, 10)


def test_caffe_has_no_relu_after_its_convolutions_and_hrel_has():
    for name, negative in (("lenet5", True), ("lenet5_hrel", False)):
        network = zoo.build(name).eval()
        seen = []
        network.pool2.register_forward_hook(lambda _, __, output, seen=seen: seen.append(output.min().item()))
        network(torch.randn(8, 1, 28, 28))
        assert (seen[0] < 0) is negative


@given(size=st.integers(1, 40), kernel=st.integers(1, 7), stride=st.integers(1, 4))
def test_same_padding_is_tensorflows(size, kernel, stride):
    padded = SamePadding(kernel, stride)(torch.ones(1, 1, size, size + 3))[0, 0]
    for given_size, profile in ((size, padded.amax(1)), (size + 3, padded.amax(0))):
        before = int(profile.argmax())
        after = len(profile) - given_size - before
        assert after - before in (0, 1)
        assert (len(profile) - kernel) // stride + 1 == -(-given_size // stride)


def test_same_padding_puts_the_one_zero_of_even_sizes_after():
    padded = SamePadding(3, 2)(torch.ones(1, 1, 4, 5))[0, 0]
    assert padded.shape == (5, 7)
    assert padded[:, 3].tolist() == [1, 1, 1, 1, 0]
    assert padded[0].tolist() == [0, 1, 1, 1, 1, 1, 0]


def test_the_digits_network_learns_in_seconds():
    source = data.open_source("digits")
    preprocessing = zoo.info("digits").preprocessing
    network = zoo.build("digits").train()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        for images, labels in data.loader(source.train, preprocessing, batch_size=64, shuffle=True):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(images), labels).backward()
            optimiser.step()
    (images, labels), *_ = data.loader(source.test, preprocessing, batch_size=1000)
    assert (network.eval()(images).argmax(1) == labels).float().mean() > 0.9
