"""Linear layers lose filters where convolutions alone cannot meet a budget, and only then."""

import pytest
import torch
from torch import nn

import infoprune
from infoprune.errors import InputError

IMAGES = torch.randn(20, 1, 16, 16, generator=torch.Generator().manual_seed(0))


def network():
    """Nearly all parameters are in linear layers, nearly all MACs in the convolutions."""
    torch.manual_seed(0)
    maps = [nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    return nn.Sequential(*maps, nn.Linear(32, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 5)).eval()


@pytest.mark.parametrize("words", [{"criterion": "variance"}, {"criterion": "reconstruction"}, {"effort": "quick"}])
def test_a_budget_that_needs_them_cuts_them(words):
    whole = network()
    result = infoprune.prune(whole, IMAGES, parameters=0.3, **words)
    assert result.pruned.parameters <= 0.3 * result.base.parameters
    assert result.model[8].in_features < 200
    assert result.model(IMAGES).shape == (20, 5)
    infoprune.verify(result.plan, whole, IMAGES)  # raises where the cut network is not the masked one


@pytest.mark.parametrize("words", [{"macs": 0.5}, {"parameters": 0.99}])
def test_a_budget_that_convolutions_meet_leaves_them_whole(words):
    plan = infoprune.plan(network(), IMAGES, criterion="variance", **words)
    assert set(plan.kept) == {"0", "2"}


def test_who_names_layers_has_these_alone():
    for words in ({"layers": ("0", "2")}, {"skip": ("6", "8")}):
        with pytest.raises(InputError, match="cannot be met"):
            infoprune.plan(network(), IMAGES, criterion="variance", parameters=0.3, **words)
