"""How many epochs fit into a time."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from infoprune.errors import InputError
from infoprune.training.duration import epochs_within
from infoprune.training.recipe import Recipe
from infoprune.training.train import make_fabric

RECIPE = Recipe(precision="32-true")


class Ticking(nn.Linear):
    """Takes a second for every batch on a clock of its own, and ten for being copied."""

    now = 0.0

    def __deepcopy__(self, memo):
        Ticking.now += 10
        made = Ticking(self.in_features, self.out_features)
        made.load_state_dict(self.state_dict())
        return made

    def forward(self, images):
        Ticking.now += 1
        return super().forward(images.flatten(1))


def loader(count, batch_size=4):
    return DataLoader([(torch.rand(1, 2, 2), label % 3) for label in range(count)], batch_size=batch_size)


def found(minutes, batches, held_out=None):
    fabric = make_fabric(accelerator="cpu", precision="32-true")
    return epochs_within(minutes, Ticking(4, 3), batches, held_out, RECIPE, timed=lambda: Ticking.now, fabric=fabric)


@pytest.mark.parametrize(("minutes", "epochs"), [(1, 2), (10, 24), (0.01, 1)])
def test_epochs_are_counted_by_the_steps_alone(minutes, epochs):
    one = found(minutes, loader(100))
    assert (one.epoch, one.epochs) == (25.0, epochs)


def test_a_held_out_batch_is_a_third_of_a_step():
    assert found(1, loader(100), loader(24)).epoch == 27.0


@pytest.mark.parametrize("images", [4, 8, 12])
def test_few_batches_are_enough(images):
    assert found(1, loader(images)).epochs >= 1


def test_without_images_there_is_nothing_to_time():
    with pytest.raises(InputError, match="no images to train on"):
        found(1, loader(0))


def test_random_numbers_and_network_stay_as_they_are():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    shuffled = DataLoader(loader(20).dataset, batch_size=4, shuffle=True)
    before, state = {name: value.clone() for name, value in network.state_dict().items()}, torch.get_rng_state()
    epochs_within(1, network, shuffled, recipe=RECIPE, fabric=make_fabric(accelerator="cpu", precision="32-true"))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
