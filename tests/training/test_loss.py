"""The parts of the loss, each against its formula, and what they do to a training."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from infoprune.errors import InputError
from infoprune.training.activation_maps import ActivationMaps
from infoprune.training.attention_maps import attention, distance, is_of_one_form
from infoprune.training.loss import loss_of
from infoprune.training.recipe import Recipe
from infoprune.training.train import train

torch.manual_seed(0)
IMAGES, LABELS = torch.randn(60, 1, 8, 8), torch.arange(60) % 10


def network(width=8, seed=0):
    torch.manual_seed(seed)
    first, second = nn.Conv2d(1, width, 3, padding=1), nn.Conv2d(width, 16, 3, 2)
    return nn.Sequential(first, nn.BatchNorm2d(width), nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))


def test_mixed_images_have_the_loss_of_both_labels():
    """The share is drawn once for a batch, of the generator that the whole training draws from."""
    net = network()
    torch.manual_seed(5)
    share = float(torch.distributions.Beta(0.4, 0.4).sample())
    torch.manual_seed(5)
    found = loss_of(net, None, IMAGES, LABELS, Recipe(mixing=0.4))
    logits = net(share * IMAGES + (1 - share) * IMAGES.flip(0))
    wanted = share * F.cross_entropy(logits, LABELS) + (1 - share) * F.cross_entropy(logits, LABELS.flip(0))
    torch.testing.assert_close(found, wanted)


def test_the_teacher_sees_the_mixed_images():
    seen = []
    torch.manual_seed(5)
    loss_of(network(), lambda images: seen.append(images) or network(9)(images), IMAGES, LABELS,
            Recipe(mixing=1.0, distillation=0.5))  # fmt: skip
    assert not torch.equal(seen[0], IMAGES)


def test_the_distance_of_attention_maps_is_that_of_the_formula():
    """Of layers of different widths, image by image; a factor on the maps of a layer changes nothing."""
    one, other = torch.rand(3, 5, 4, 6), torch.rand(3, 9, 4, 6)
    wanted = 0.0
    for image in range(3):
        a, b = (maps[image].double().square().sum(0).flatten() for maps in (one, other))
        wanted += float((a / a.norm() - b / b.norm()).square().sum()) / 3
    assert distance([attention(one)], [attention(other)]).item() == pytest.approx(wanted, rel=1e-5)
    assert distance([attention(one)], [attention(7 * one)]).item() == pytest.approx(0, abs=1e-10)


class WritesOver(nn.Module):
    """Its second convolution is fed by what is written over the result of ReLU6, which needs its input alone."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, images):
        maps = F.relu6(self.first(images))
        maps += 1
        return F.relu6(self.second(maps)).flatten(1)


def test_a_network_that_writes_over_its_maps_trains_without_them():
    """It trains by itself; with attention maps PyTorch would refuse the backward pass."""
    net = WritesOver()
    net(IMAGES).sum().backward()
    assert not is_of_one_form(net, net, IMAGES[:2])
    assert is_of_one_form(network(8), network(16), IMAGES[:2])


def test_one_image_is_enough_to_look_for_common_maps():
    pooled = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4))
    assert is_of_one_form(pooled, pooled, IMAGES[:1])


def test_looking_for_common_maps_leaves_the_network_alone():
    net, teacher = network(), network(16)
    before, drawn = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    is_of_one_form(net, teacher, IMAGES)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert torch.equal(torch.get_rng_state(), drawn)


def away(model, teacher):
    with torch.no_grad(), ActivationMaps(attention) as found:
        model.eval()(IMAGES)
    with torch.no_grad(), ActivationMaps(attention) as wanted:
        teacher(IMAGES)
    return distance(found, wanted).item()


def test_training_by_attention_brings_the_maps_of_a_narrow_network_to_those_of_a_wide_one():
    teacher = network(16, seed=1).eval()

    def trained(weight):
        recipe = Recipe(epochs=8, learning_rate=0.02, precision="32-true", attention=weight)
        batches = DataLoader(list(zip(IMAGES, LABELS, strict=True)), batch_size=30)
        return train(network(), batches, None, recipe, teacher=teacher).model

    assert away(trained(10.0), teacher) < 0.7 * away(trained(0.0), teacher)


@pytest.mark.parametrize(
    ("teacher", "sentence"),
    [(None, "pass one"), (nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), "this one has others")],
)
def test_a_teacher_without_these_maps_is_refused(teacher, sentence):
    batches = DataLoader(list(zip(IMAGES, LABELS, strict=True)), batch_size=30)
    with pytest.raises(InputError, match=sentence):
        train(network(), batches, None, Recipe(epochs=1, precision="32-true", attention=1.0), teacher=teacher)
