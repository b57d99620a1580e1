"""Feature maps at every tap, against plain hooks and hand-written forward passes; and the network left as it was."""

import random
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from infoprune.errors import InputError
from infoprune.network.feature_maps import TAPS, capture


def maps_of(model, batches, layers, tap, **options):
    found = {}

    def keep(layer, maps, labels):
        found.setdefault(layer, []).append((maps, labels))

    capture(model, batches, layers, tap, keep, **options)
    return {layer: torch.cat([maps for maps, _ in parts]) for layer, parts in found.items()}


def images(n=3, channels=3, size=8, seed=0):
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(seed))


def normed(channels):
    norm = nn.BatchNorm2d(channels)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    return norm


class Block(nn.Module):
    """A residual block as torchvision writes it: one ReLU module used twice, in place, and an in-place addition."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 3, 3, padding=1)
        self.bn1 = normed(3)
        self.conv2 = nn.Conv2d(3, 3, 3, padding=1)
        self.bn2 = normed(3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x
        return self.relu(out)


def test_the_three_taps_of_a_residual_block_with_everything_in_place():
    block, x = Block().eval(), images()
    with torch.no_grad():
        raw = block.conv1(x)
        norm = block.bn1(raw)
        raw2 = block.conv2(F.relu(norm))
        norm2 = block.bn2(raw2)
    expected = {
        "convolution": (raw, raw2),
        "norm": (norm, norm2),
        "activation": (F.relu(norm), norm2),
    }
    for tap, (first, second) in expected.items():
        found = maps_of(block, [(x, torch.zeros(3, dtype=torch.long))], ["conv1", "conv2"], tap)
        assert torch.equal(found["conv1"], first), tap
        assert torch.equal(found["conv2"], second), tap


class Written(nn.Module):
    """A convolution whose norm and activation are written by the caller."""

    def __init__(self, then):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = normed(4)
        self.then = then

    def forward(self, x):
        return self.then(self, self.conv(x))


def in_place(self, x):
    x.relu_()
    return x * 2


def returned_by_ops(self, x):
    return torch.ops.aten.relu.default(torch.ops.aten.mul.Tensor(x, 1.0) * 0 + x)


ACTIVATED = {
    "F.relu": lambda self, x: F.relu(x),
    "F.relu in place": lambda self, x: F.relu(x, inplace=True).mul_(3),
    "F.relu in place, by position": lambda self, x: F.relu(x, True).mul_(3),
    "torch.relu": lambda self, x: torch.relu(x),
    "torch.relu_": lambda self, x: torch.relu_(x),
    "x.relu()": lambda self, x: x.relu(),
    "x.relu_()": in_place,
    "x.clamp(min=0)": lambda self, x: x.clamp(min=0),
    "torch.clamp_min": lambda self, x: torch.clamp_min(x, 0),
    "aten.relu": lambda self, x: torch.ops.aten.relu(x),
    "aten.relu.default": lambda self, x: torch.ops.aten.relu.default(x),
    "keyword": lambda self, x: F.relu(input=x),
    "after dropout": lambda self, x: F.relu(F.dropout(x, 0.5, self.training)),
    "after a look at it": lambda self, x: F.relu(x) if x.detach().isnan().any().item() in (0, 1) and x.size(1) else x,
    "after a copy for somebody else": lambda self, x: F.relu(x) + x.clone().sum() * 0,
}


@pytest.mark.parametrize("then", ACTIVATED.values(), ids=ACTIVATED)
def test_a_relu_in_any_spelling(then):
    model, x = Written(then).eval(), images()
    with torch.no_grad():
        raw = model.conv(x)
    assert torch.equal(maps_of(model, [x], ["conv"], "convolution")["conv"], raw)
    assert torch.equal(maps_of(model, [x], ["conv"], "norm")["conv"], raw)
    assert torch.equal(maps_of(model, [x], ["conv"], "activation")["conv"], raw.relu())


@pytest.mark.parametrize("then", ACTIVATED.values(), ids=ACTIVATED)
def test_a_norm_and_then_a_relu_in_any_spelling(then):
    model, x = Written(lambda self, y: then(self, self.bn(y))).eval(), images()
    with torch.no_grad():
        raw = model.conv(x)
        norm = model.bn(raw)
    assert torch.equal(maps_of(model, [x], ["conv"], "convolution")["conv"], raw)
    assert torch.equal(maps_of(model, [x], ["conv"], "norm")["conv"], norm)
    assert torch.equal(maps_of(model, [x], ["conv"], "activation")["conv"], norm.relu())


ENDED = {
    "pooling": lambda self, x: F.relu(F.max_pool2d(x, 2)),
    "addition": lambda self, x: F.relu(x + 1),
    "addition in place": lambda self, x: F.relu(x.add_(1)),
    "augmented addition": lambda self, x: F.relu(x.__iadd__(1)),
    "written into": lambda self, x: F.relu(written(x)),
    "as an output": lambda self, x: F.relu(torch.add(x, 1, out=x)),
    "concatenation": lambda self, x: F.relu(torch.cat([x, x], 1)),
    "a view changed in place": lambda self, x: (x.view(-1).mul_(2), F.relu(x))[1],
    "data changed in place": lambda self, x: (x.data.mul_(2), F.relu(x))[1],
    "a slice changed in place": lambda self, x: (x[:, :2].relu_(), x)[1],
    "nothing": lambda self, x: x,
    "half a residual": lambda self, x: x + F.relu(x),
}


def written(x):
    x[:] = 1
    return x


@pytest.mark.parametrize("then", ENDED.values(), ids=ENDED)
@pytest.mark.parametrize("tap", ["norm", "activation"])
def test_what_is_neither_norm_nor_activation_ends_the_trail(then, tap):
    if then is ENDED["half a residual"] and tap == "activation":
        pytest.skip("a ReLU follows it directly")
    model, x = Written(then).eval(), images()
    with torch.no_grad():
        raw = model.conv(x)
    assert torch.equal(maps_of(model, [x], ["conv"], tap)["conv"], raw)


MODULES = [
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Hardswish, nn.Hardtanh, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.Tanhshrink),
    *(nn.Softshrink, nn.Hardshrink, nn.LogSigmoid, lambda: nn.Threshold(0.1, 0.0)),
]


@pytest.mark.parametrize("make", MODULES)
@pytest.mark.parametrize("inplace", [False, True])
def test_every_activation_module(make, inplace):
    activation = make().eval()
    if inplace and not hasattr(activation, "inplace"):
        pytest.skip("never in place")
    activation.inplace = inplace
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), activation).eval(), images()
    with torch.no_grad():
        raw = model[0](x)
        expected = activation(raw.clone())
    assert torch.equal(maps_of(model, [x], ["0"], "activation")["0"], expected)
    assert torch.equal(maps_of(model, [x], ["0"], "norm")["0"], raw)


@pytest.mark.parametrize("norm", [normed, lambda c: nn.GroupNorm(2, c), lambda c: nn.InstanceNorm2d(c, affine=True)])
def test_every_norm(norm):
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), norm(4), nn.ReLU(inplace=True)).eval(), images()
    with torch.no_grad():
        expected = model[1](model[0](x))
    assert torch.equal(maps_of(model, [x], ["0"], "norm")["0"], expected)
    assert torch.equal(maps_of(model, [x], ["0"], "activation")["0"], expected.relu())


def test_a_norm_after_the_activation_is_not_the_layers_norm():
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), normed(4)).eval(), images()
    with torch.no_grad():
        raw = model[0](x)
    assert torch.equal(maps_of(model, [x], ["0"], "norm")["0"], raw)
    assert torch.equal(maps_of(model, [x], ["0"], "activation")["0"], raw.relu())


@pytest.mark.parametrize(
    "then",
    [
        lambda self, x: x * torch.sigmoid(x),
        lambda self, x: torch.sigmoid(x) * x,
        lambda self, x: x.mul_(x.sigmoid()),
        lambda self, x: torch.mul(F.hardsigmoid(x), x),
    ],
)
def test_a_swish_written_out_is_one_activation(then):
    model, x = Written(then).eval(), images()
    with torch.no_grad():
        raw = model.conv(x)
        expected = then(model, raw.clone())
    assert torch.equal(maps_of(model, [x], ["conv"], "activation")["conv"], expected)
    assert torch.equal(maps_of(model, [x], ["conv"], "norm")["conv"], raw)


@pytest.mark.parametrize(
    "then",
    [lambda self, x: torch.sigmoid(x) * 3, lambda self, x: torch.sigmoid(x), lambda self, x: x.sigmoid().mul_(2)],
)
def test_a_gate_alone_is_the_activation(then):
    model, x = Written(then).eval(), images()
    with torch.no_grad():
        raw = model.conv(x)
    assert torch.equal(maps_of(model, [x], ["conv"], "activation")["conv"], raw.sigmoid())


class Vision(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc1 = nn.Linear(4, 6)
        self.norm = nn.BatchNorm1d(6).eval()
        self.fc2 = nn.Linear(6, 5)

    def forward(self, x):
        x = F.relu(self.conv(x)).mean((2, 3))
        return self.fc2(torch.tanh(self.norm(self.fc1(x))))


def test_linear_layers_are_maps_of_one_position():
    model, x = Vision().eval(), images()
    with torch.no_grad():
        hidden = model.fc1(F.relu(model.conv(x)).mean((2, 3)))
        expected = torch.tanh(model.norm(hidden))
    found = maps_of(model, [x], ["fc1", "fc2"], "activation")
    assert torch.equal(found["fc1"], expected[:, :, None, None])
    assert torch.equal(found["fc2"], model.fc2(expected)[:, :, None, None])
    assert torch.equal(maps_of(model, [x], ["fc1"], "convolution")["fc1"][:, :, 0, 0], hidden)


def test_a_linear_layer_over_tokens_keeps_its_filters_on_the_second_axis():
    model, x = nn.Sequential(nn.Linear(4, 6), nn.GELU()).eval(), torch.randn(2, 5, 4)
    found = maps_of(model, [x], ["0"], "activation")["0"]
    assert found.shape == (2, 6, 1, 5)
    assert torch.equal(found[:, :, 0], model(x).transpose(1, 2))


@pytest.mark.parametrize(("make", "shape"), [(nn.Conv1d, (2, 3, 9)), (nn.Conv3d, (2, 3, 5, 6, 7))])
def test_convolutions_of_other_dimensions_are_laid_out_flat(make, shape):
    model, x = nn.Sequential(make(3, 4, 3), nn.ReLU()).eval(), torch.randn(shape)
    found = maps_of(model, [x], ["0"], "activation")["0"]
    assert torch.equal(found, model(x).flatten(2)[:, :, None])


class Shared(nn.Module):
    """One convolution run at two scales, with different things after it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        large = F.relu(self.conv(x))
        small = self.conv(x[..., ::2, ::2])
        return large.mean((2, 3)) + small.mean((2, 3))


def test_the_maps_of_all_calls_of_a_layer_lie_side_by_side():
    model, x = Shared().eval(), images()
    large, small = model.conv(x).relu().flatten(2), model.conv(x[..., ::2, ::2]).flatten(2)
    found = maps_of(model, [x[:2], x[2:]], ["conv"], "activation")["conv"]
    assert found.shape == (3, 4, 1, 36 + 4)
    assert torch.allclose(found[:, :, 0], torch.cat([large, small], 2), atol=1e-6)


def test_one_module_under_two_names_is_found_under_both():
    conv = nn.Conv2d(3, 3, 3, padding=1)
    model, x = nn.ModuleDict({"a": conv, "b": conv}), images()
    model.forward = lambda x: F.relu(model["b"](x))
    found = maps_of(model, [x], ["a", "b"], "activation")
    assert torch.equal(found["a"], conv(x).relu())
    assert torch.equal(found["b"], conv(x).relu())


def test_any_split_into_batches_gives_the_same_maps_and_labels():
    model, x, labels = Block().eval(), images(7), torch.arange(7)
    seen = []
    whole = maps_of(model, [(x, labels)], ["conv1"], "activation")["conv1"]
    for sizes in ([3, 3, 1], [1, 6], [7]):
        batches = list(zip(x.split(sizes), labels.split(sizes), strict=True))
        split = maps_of(model, batches, ["conv1"], "activation")["conv1"]
        assert torch.allclose(split, whole, atol=1e-6)
        count = capture(model, batches, ["conv1"], "norm", lambda layer, maps, y: seen.append(y))
        assert count == 7
        assert torch.equal(torch.cat(seen), labels)
        seen.clear()


def test_layers_arrive_in_the_order_they_run_and_one_at_a_time():
    alive, peak, order = [], 0, []
    model = nn.Sequential(*[nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()) for _ in range(5)])
    names = [f"{i}.0" for i in range(5)]

    def consume(layer, maps, labels):
        nonlocal peak
        order.append(layer)
        alive.append(weakref.ref(maps))
        peak = max(peak, sum(ref() is not None for ref in alive))

    capture(model, [images(2), images(1)], names[::-1], "activation", consume)
    assert order == names * 2
    assert peak == 1


def test_maps_that_are_kept_never_change():
    model, x = Block().eval(), images()
    for tap in TAPS:
        kept = []
        capture(model, [x], ["conv1", "conv2"], tap, lambda _, maps, __, kept=kept: kept.append((maps, maps.clone())))
        assert all(torch.equal(maps, then) for maps, then in kept)


def test_batches_may_be_lists_tuples_or_images_alone():
    model, x = Block(), images()
    labels = []
    for batch in ([x, [0, 1, 2]], (x, torch.tensor([0, 1, 2])), (x,), x):
        capture(model, [batch], ["conv1"], "norm", lambda _, maps, y: labels.append(y))
    assert [None if y is None else y.tolist() for y in labels] == [[0, 1, 2], [0, 1, 2], None, None]


def test_the_batch_takes_the_precision_of_the_network():
    model = Block().double()
    assert maps_of(model, [images()], ["conv1"], "norm")["conv1"].dtype == torch.float64


def test_the_batch_is_moved_to_the_device_of_the_network():
    # The meta device stands for another one: an unmoved batch would fail on it, a moved one runs up to the check
    # for finite values, which has none to look at.
    model = nn.Sequential(nn.Conv2d(3, 4, 3)).to("meta")
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        maps_of(model, [images()], ["0"], "convolution")
    assert maps_of(nn.Sequential(nn.Conv2d(3, 4, 3)), [images()], ["0"], "norm", device="cpu")["0"].shape[1] == 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_network_on_a_gpu_takes_batches_from_anywhere_and_leaves_the_random_state():
    model, x = Block().eval(), images()
    expected = maps_of(model, [x], ["conv1"], "activation")["conv1"]
    torch.cuda.manual_seed(3)
    before = torch.cuda.get_rng_state()
    labels = []

    def consume(layer, maps, y):
        torch.rand(1, device="cuda")
        labels.append((maps.device.type, y.device.type))

    model.cuda()
    capture(model, [(x, torch.zeros(3).long())], ["conv1"], "activation", consume)
    assert labels == [("cuda", "cuda")]
    assert torch.equal(torch.cuda.get_rng_state(), before)
    for batch in (x, x.cuda()):
        found = maps_of(model, [batch], ["conv1"], "activation")["conv1"]
        assert torch.allclose(found.cpu(), expected, atol=1e-2)


class Stubborn(Block):
    """Overrides train(), as networks with frozen norms do."""

    def train(self, mode=True):
        raise AssertionError("the modes are set one by one, train() may do more than that")


def state_of(model):
    return (
        [(name, module.training) for name, module in model.named_modules()],
        [(name, parameter.requires_grad, parameter.grad) for name, parameter in model.named_parameters()],
        [
            (name, list(module._forward_hooks), list(module._forward_pre_hooks), list(module._backward_hooks))
            for name, module in model.named_modules()
        ],
        [(name, buffer.tolist()) for name, buffer in model.named_buffers()],
        random.getstate(),
        str(np.random.get_state()),  # noqa: NPY002
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
    )


@pytest.mark.parametrize("fails", ["never", "in the consumer", "in the network", "in the loader", "by a stop"])
@pytest.mark.parametrize("tap", TAPS)
def test_everything_is_as_before_afterwards(fails, tap):
    model = Stubborn()
    model.bn1.training = False
    model.conv2.weight.requires_grad = False
    model.conv1.register_forward_hook(lambda module, inputs, output: output * 1)
    model.relu.register_forward_pre_hook(lambda module, inputs: None)
    before = state_of(model)

    def loader():
        for _ in range(2):
            random.random()
            np.random.rand()  # noqa: NPY002
            yield torch.randn(2, 3, 8, 8), torch.zeros(2).long()
        if fails == "in the loader":
            raise KeyError("here")
        if fails == "in the network":
            yield torch.randn(2, 99, 8, 8), torch.zeros(2).long()

    def consume(layer, maps, labels):
        assert not torch.is_grad_enabled()
        assert not any(module.training for module in model.modules())
        if layer == "conv2" and fails == "in the consumer":
            raise KeyError("here")
        if layer == "conv2" and fails == "by a stop":
            raise KeyboardInterrupt

    if fails == "never":
        capture(model, loader(), ["conv1", "conv2"], tap, consume)
    else:
        with pytest.raises((KeyError, RuntimeError, KeyboardInterrupt)):
            capture(model, loader(), ["conv1", "conv2"], tap, consume)
    assert state_of(model) == before


def test_a_shuffling_loader_gives_the_same_images_again():
    data = torch.utils.data.TensorDataset(images(20), torch.arange(20))
    loader = torch.utils.data.DataLoader(data, batch_size=6, shuffle=True)
    model, seen = Block(), []
    for _ in range(2):
        capture(model, loader, ["conv1"], "norm", lambda _, __, y: seen.extend(y.tolist()))
    assert seen[:20] == seen[20:] != sorted(seen[:20])


def test_under_inference_mode_too():
    model, x = Block().eval(), images()
    expected = maps_of(model, [x], ["conv1"], "activation")["conv1"]
    with torch.inference_mode():
        assert torch.equal(maps_of(model, [x], ["conv1"], "activation")["conv1"], expected)


class Sometimes(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.never = nn.Conv2d(3, 3, 3)

    def forward(self, x):
        for _ in range(len(x)):
            x = self.conv(x)
        return x


def nothing(*_):
    raise AssertionError("nothing to hand over")


def fine(*_):
    pass


@pytest.mark.parametrize(
    ("batches", "layers", "tap", "message"),
    [
        ([], ["conv1"], "norm", "no images"),
        ([images(0)], ["conv1"], "norm", "has no images"),
        ([images()], ["conv3"], "norm", r"unknown layer 'conv3': did you mean 'conv[12]'\?"),
        ([images()], [""], "norm", "unknown layer ''"),
        ([images()], ["conv1"], "norms", "unknown tap 'norms': did you mean 'norm'"),
        ([{"labels": images()}], ["conv1"], "norm", "a dict with 'pixel_values' or 'images', as tensors, not dict"),
        ([(1, images(), 2)], ["conv1"], "norm", "not tuple of int, Tensor, int"),
        ([(images(), 1, 2)], ["conv1"], "norm", "labels are one class index per image"),
        ([[]], ["conv1"], "norm", "not list of nothing"),
        ([(images(), torch.zeros(2).long())], ["conv1"], "norm", "3 images came with torch.int64 labels of shape"),
        ([(images(), torch.zeros(3))], ["conv1"], "norm", "one class index per image"),
        ([(images(), torch.zeros(3, 10).long())], ["conv1"], "norm", r"of shape \(3, 10\)"),
        ([images() * torch.nan], ["conv1", "conv2"], "norm", "layer 'conv1' are not finite"),
        ([images() * torch.inf], ["conv1"], "convolution", "layer 'conv1' are not finite"),
    ],
)
def test_what_cannot_be_captured_is_said_in_one_sentence(batches, layers, tap, message):
    with pytest.raises(InputError, match=message):
        capture(Block(), batches, layers, tap, nothing)


class BySize(nn.Module):
    """A layer that only large images run through."""

    def __init__(self):
        super().__init__()
        self.conv, self.big = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        x = self.conv(x)
        return self.big(x) if x.shape[-1] > 8 else x


def test_which_layers_run_is_counted_for_every_size_of_the_images():
    small, large, seen = torch.randn(2, 3, 8, 8), torch.randn(3, 3, 12, 12), []
    batches = [small, large, small]
    count = capture(BySize(), batches, ["conv", "big"], "norm", lambda layer, maps, _: seen.append((layer, len(maps))))
    assert count == 7
    assert seen == [("conv", 2), ("conv", 3), ("big", 3), ("conv", 2)]
    with pytest.raises(InputError, match="layer 'big' does not run"):
        capture(BySize(), [small, small], ["conv", "big"], "norm", fine)


@pytest.mark.parametrize("labels", [torch.rand(3), torch.zeros(3, 10).long(), ["cat", "dog", "cow"]])
def test_labels_of_any_form_count_as_missing_where_they_are_not_read(labels):
    seen = []
    capture(Block(), [(images(), labels)], ["conv1"], "norm", lambda _, __, y: seen.append(y), labelled=False)
    assert seen == [None]


def test_weights_that_are_not_finite_are_named():
    model = Block()
    model.conv2.weight.data[1, 1, 1, 1] = torch.nan
    with pytest.raises(InputError, match="layer 'conv2' are not finite"):
        capture(model, [images()], ["conv1", "conv2"], "activation", fine)


def test_a_layer_that_does_not_run_or_runs_unevenly_is_named():
    with pytest.raises(InputError, match="'never' does not run"):
        capture(Sometimes(), [images()], ["never"], "norm", nothing)
    for sizes in ([3, 1], [2, 1]):
        with pytest.raises(InputError, match="'conv' runs a different number of times"):
            capture(Sometimes(), [images(n) for n in sizes], ["conv"], "norm", fine)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_refused():
    scripted = torch.jit.trace(Block().eval(), images())
    with pytest.raises(InputError, match="TorchScript network cannot be read"):
        capture(scripted, [images()], ["conv1"], "norm", nothing)


def test_a_traced_graph_is_as_good_as_the_network():
    block, x = Block().eval(), images()
    traced = torch.fx.symbolic_trace(block)
    for tap in TAPS:
        assert torch.equal(maps_of(traced, [x], ["conv1"], tap)["conv1"], maps_of(block, [x], ["conv1"], tap)["conv1"])


class Folded(nn.Module):
    """Runs its convolution on the frames of all clips at once."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x.repeat(2, 1, 1, 1))


def test_maps_that_are_not_one_per_image_are_refused():
    with pytest.raises(InputError, match="returned 6 maps for 3 images"):
        capture(Folded(), [images()], ["conv"], "norm", nothing)


def test_a_change_in_place_that_nobody_saw_is_refused_instead_of_handed_over():
    def behind_the_back(self, x):
        with torch._C.DisableTorchFunction():
            x.mul_(2)
        return F.avg_pool2d(x, 2)

    with pytest.raises(InputError, match="changed in place by an operation that cannot be followed"):
        capture(Written(behind_the_back), [images()], ["conv"], "activation", nothing)
