"""The CCM loss: the facts, NumPy's correlation, and what it does to a network that is trained with it."""

import numpy
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from infoprune.training.activation_maps import ActivationMaps
from infoprune.training.correlated_maps import correlation
from infoprune.training.recipe import Recipe
from infoprune.training.train import train

torch.manual_seed(0)
IMAGES, LABELS = torch.randn(60, 1, 8, 8), torch.arange(60) % 10


def network():
    torch.manual_seed(0)
    first, second = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 16, 3, 2)
    return nn.Sequential(first, nn.BatchNorm2d(8), nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))


def test_the_facts():
    """Rows that are multiples of one another correlate by 1, whatever the sign; orthogonal ones leave the diagonal."""
    same = torch.tensor([[[0.0, 1, 2, 3], [0, 2, 4, 6], [3, 2, 1, 0]]])
    assert correlation(same).item() == pytest.approx(1)
    apart = torch.tensor([[[1.0, -1, 1, -1], [1, 1, -1, -1]]])
    assert correlation(apart).item() == pytest.approx(0.5)


def test_the_correlation_is_that_of_numpy():
    maps = torch.randn(5, 7, 4, 6)
    wanted = numpy.abs(numpy.corrcoef(maps.numpy().astype(float).mean(0).reshape(7, 24))).mean()
    assert correlation(maps).item() == pytest.approx(wanted, rel=1e-5)


def test_constant_maps_correlate_with_nothing_and_have_a_gradient():
    maps = torch.rand(3, 2, 4, 4)
    maps[:, 1] = 0.5
    maps.requires_grad_()
    found = correlation(maps)
    found.backward()
    assert found.item() == pytest.approx(0.25)
    assert torch.isfinite(maps.grad).all()


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 4, 3)

    def forward(self, images):
        x = F.relu(self.one(images), inplace=True)
        x = self.two(x).relu()
        return torch.relu_(x.mean(dim=(2, 3)) + 1)


def test_activations_are_found_however_they_are_called():
    with ActivationMaps(correlation) as found:
        Functional()(IMAGES)
    assert len(found) == 2


def held(model):
    with torch.no_grad(), ActivationMaps(correlation) as found:
        model(IMAGES)
    return float(torch.stack(found).sum())


@pytest.mark.parametrize("parts", [1, 3])
def test_training_with_it_makes_maps_correlate(parts):
    def trained(weight):
        recipe = Recipe(epochs=8, learning_rate=0.05, precision="32-true", correlation=weight, accumulate=parts)
        return train(network(), DataLoader(list(zip(IMAGES, LABELS, strict=True)), batch_size=30), None, recipe)

    plain, drawn = trained(0.0), trained(0.5)
    assert held(drawn.model.eval()) > held(plain.model.eval()) + 0.1
    assert drawn.epochs[-1].loss < plain.epochs[-1].loss  # by the reward
