"""Gradients of gates: against finite differences, and nothing changed afterwards."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from infoprune.errors import InputError
from infoprune.network.gradients import Place, gate_gradients, summed_loss, weight_gradients
from nets import Residual, Separable, conv_bn


class Small(nn.Module):
    """A convolution with an in-place ReLU that two others read."""

    def __init__(self):
        super().__init__()
        self.first = conv_bn(3, 4)
        self.first[2] = nn.ReLU(inplace=True)
        self.left, self.right = nn.Conv2d(4, 3, 3, padding=1), nn.Conv2d(4, 3, 1)
        self.fc = nn.Linear(3 * 16, 5)

    def forward(self, x):
        x = self.first(x)
        return self.fc((self.left(x) * torch.tanh(self.right(x))).flatten(1))


@pytest.fixture
def model():
    return Small().double().eval()


def data(n=5, size=4, classes=5):
    return torch.randn(n, 3, size, size, dtype=torch.float64), torch.arange(n) % classes


def gradients_of(model, batch, *places, **options):
    found = []
    count = gate_gradients(model, [batch], places, lambda some, positions: found.append((some, positions)), **options)
    assert count == len(batch[0])
    return found[0]


def losses_with_gate(model, batch, place, channel, gate):
    def scale(tensor):
        factor = torch.ones(tensor.shape[1], dtype=tensor.dtype)
        factor[channel] = gate
        return tensor * (factor if tensor.ndim == 2 else factor[:, None, None])

    module = model.get_submodule(place.layer)
    if place.side == "in":
        hook = module.register_forward_pre_hook(lambda _, inputs: (scale(inputs[0]),))
    else:
        hook = module.register_forward_hook(lambda _, inputs, output: scale(output))
    with hook, torch.no_grad():
        return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


@pytest.mark.parametrize("place", [Place("first.0", "out"), Place("first.1", "out"), Place("left", "in"),
                                   Place("right", "in"), Place("fc", "in")], ids=str)  # fmt: skip
def test_against_finite_differences_image_by_image(model, place):
    batch = data()
    found, _ = gradients_of(model, batch, place, Place("left", "in"))
    for channel in (0, 2):
        step = 1e-5
        up, down = (losses_with_gate(model, batch, place, channel, 1 + sign * step) for sign in (1, -1))
        assert torch.allclose(found[place][:, channel], (up - down) / (2 * step), rtol=1e-4, atol=1e-6)


def test_one_percent_off_a_gate_changes_the_loss_by_the_gradient(model):
    batch, place, eps = data(), Place("left", "in"), 1e-3
    found, _ = gradients_of(model, batch, place)
    change = losses_with_gate(model, batch, place, 1, 1 - eps) - losses_with_gate(model, batch, place, 1, 1.0)
    assert torch.allclose(change, -eps * found[place][:, 1], atol=1e-5)


def test_readers_of_one_tensor_add_up_to_it(model):
    found, positions = gradients_of(model, data(), Place("left", "in"), Place("right", "in"), Place("first.1", "out"))
    both = found[Place("left", "in")] + found[Place("right", "in")]
    # Through the ReLU in place: the gradient of a gate is the same before and after it.
    assert torch.allclose(both, found[Place("first.1", "out")], rtol=1e-9)
    assert positions[Place("left", "in")] == 16


def test_calls_of_one_layer_add_up():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared = nn.Linear(3, 3)

        def forward(self, x):
            return self.shared(torch.tanh(self.shared(x)))

    model = Twice().double()
    batch = torch.randn(4, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    found, positions = gradients_of(model, batch, Place("shared", "out"))
    assert positions[Place("shared", "out")] == 2

    def losses(gate):
        factor = torch.tensor([gate, 1, 1], dtype=torch.float64)
        with model.shared.register_forward_hook(lambda _, i, o: o * factor), torch.no_grad():
            return F.cross_entropy(model(batch[0]), batch[1], reduction="none")

    numeric = (losses(1 + 1e-5) - losses(1 - 1e-5)) / 2e-5
    assert torch.allclose(found[Place("shared", "out")][:, 0], numeric, rtol=1e-4, atol=1e-7)


def test_the_split_into_batches_does_not_matter(model):
    images, labels = data(6)
    place = Place("first.0", "out")
    whole, _ = gradients_of(model, (images, labels), place)
    parts = []
    gate_gradients(model, [(images[:1], labels[:1]), (images[1:], labels[1:])], [place],
                   lambda some, positions: parts.append(some[place]))  # fmt: skip
    assert torch.allclose(torch.cat(parts), whole[place], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("network", [Residual, Separable])
def test_nothing_is_changed(network):
    model = network().train()
    model.fc.weight.requires_grad_(False)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = [(p.requires_grad, p.grad.clone()) for p in model.parameters()]
    modes = [module.training for module in model.modules()]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()]
    images, labels = torch.randn(3, 3, 8, 8), torch.tensor([0, 1, 2])
    kept, state = images.clone(), torch.get_rng_state()
    first = next(name for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    gate_gradients(model, [(images, labels)], [Place(first, "out"), Place("fc", "in")], lambda *_: None)
    weight_gradients(model, [(images, labels)], [first, "fc"], lambda *_: None)
    with pytest.raises(RuntimeError):
        gate_gradients(model, [(images[:, :2], labels)], [Place(first, "out")], lambda *_: None)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    for parameter, (flag, gradient) in zip(model.parameters(), flags, strict=True):
        assert parameter.requires_grad == flag
        assert torch.equal(parameter.grad, gradient)
    assert [module.training for module in model.modules()] == modes
    assert hooks == [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
                     for m in model.modules()]  # fmt: skip
    assert torch.equal(images, kept)
    assert not images.requires_grad
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_get_the_gradient_of_the_mean_loss(model):
    images, labels = data()
    model.zero_grad()
    F.cross_entropy(model(images), labels).backward()
    expected = {name: model.get_parameter(f"{name}.weight").grad.clone() for name in ("first.0", "fc")}
    seen = []
    weight_gradients(model, [(images, labels)], ["first.0", "fc"], lambda weights, found: seen.append((weights, found)))
    for name, gradient in expected.items():
        assert torch.allclose(seen[0][1][name], gradient, rtol=1e-9)
        assert torch.equal(seen[0][0][name], model.get_parameter(f"{name}.weight"))


def test_the_networks_own_answers_serve_as_labels(model):
    images, _ = data()
    place = Place("left", "in")
    own, _ = gradients_of(model, (images, torch.zeros(5, dtype=torch.long)), place, labels="own")
    given, _ = gradients_of(model, (images, model(images).argmax(1)), place)
    assert torch.equal(own[place], given[place])


def test_what_cannot_be_is_refused(model):
    images, labels = data()
    place = Place("left", "in")
    with pytest.raises(InputError, match="need labels"):
        gate_gradients(model, [images], [place], lambda *_: None)
    with pytest.raises(InputError, match="there are no images"):
        gate_gradients(model, [], [place], lambda *_: None)
    with pytest.raises(InputError, match="labels are class indices from 0 to 4, not 0 to 9"):
        gate_gradients(model, [(images, labels.clone().index_fill_(0, torch.tensor([1]), 9))], [place], lambda *_: None)
    with pytest.raises(InputError, match="unknown labels 'mine'"):
        gate_gradients(model, [(images, labels)], [place], lambda *_: None, labels="mine")
    with pytest.raises(InputError, match=r"\(n, classes\) logits"):
        summed_loss(torch.zeros(2, 3, 4), None)
    model.extra = nn.Conv2d(3, 3, 1)
    with pytest.raises(InputError, match="the loss does not depend on layer 'extra'"):
        gate_gradients(model, [(images, labels)], [Place("extra", "in")], lambda *_: None)
    with pytest.raises(InputError, match="the loss does not depend on layer 'extra'"):
        weight_gradients(model, [(images, labels)], ["extra"], lambda *_: None)
