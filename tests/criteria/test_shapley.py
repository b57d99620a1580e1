"""Shapley values of small games and of a network, and the concentration of layers."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from infoprune.criteria import Filters, create, find
from infoprune.criteria.scoring import score
from infoprune.criteria.shapley import shapley_values
from infoprune.errors import InputError
from infoprune.network.coupled_groups import find_groups
from nets import Plain, Residual

ALL = list(itertools.permutations(range(3)))
IMAGES, LABELS = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(3)), torch.arange(8) % 4


@pytest.mark.parametrize(
    ("worth", "expected"),
    [
        (lambda some: sum(2.0**i for i in some), [1, 2, 4]),
        (lambda some: float({0, 1} <= some), [0.5, 0.5, 0]),
        (lambda some: float(0 in some and len(some) > 1), [2 / 3, 1 / 6, 1 / 6]),
    ],
)
def test_three_games(worth, expected):
    assert np.allclose(shapley_values(3, ALL, worth), expected)
    for order in ALL:
        assert sum(shapley_values(3, [order], worth)) == pytest.approx(worth(set(range(3))) - worth(set()))


def test_an_additive_game_needs_one_order():
    assert np.allclose(shapley_values(3, [(2, 0, 1)], lambda some: sum(2.0**i for i in some)), [1, 2, 4])


def scored(model, batches=((IMAGES, LABELS),), **options):
    groups = find_groups(model, IMAGES[:2]).groups
    return score(model, groups, list(batches), find("shapley"), options=options)


def loss(model, layer, gone):
    """The mean loss with some input channels of a layer at zero."""

    def silence(module, inputs):
        held = inputs[0].clone()
        held[:, gone] = 0
        return (held,)

    with model.get_submodule(layer).register_forward_pre_hook(silence), torch.no_grad():
        return float(F.cross_entropy(model(IMAGES), LABELS))


def test_against_a_slow_sum_over_the_same_orders():
    model = Plain().eval()
    found = scored(model, permutations=4, seed=5)
    generator = torch.Generator().manual_seed(5)
    drawn = [torch.randperm(6, generator=generator).tolist() for _ in range(2)]
    slow = np.zeros(6)
    for order in [one for pair in drawn for one in (pair, pair[::-1])]:
        for place, filter_ in enumerate(order):
            with_it, without = order[place + 1 :], order[place:]
            slow[filter_] += (loss(model, "fc", without) - loss(model, "fc", with_it)) / 4
    assert np.allclose(found["middle"].scores, slow, atol=1e-5)


def test_the_sum_is_what_all_filters_are_worth():
    model = Residual().eval()
    found = scored(model, permutations=2)["inner1.0"]
    assert found.scores.sum().item() == pytest.approx(
        loss(model, "outer1", list(range(12))) - loss(model, "outer1", []), abs=1e-5
    )


def test_any_split_into_batches_scores_alike_and_the_network_is_left_as_it_is():
    model = Residual().train()
    before = [tensor.clone() for tensor in model.state_dict().values()]
    whole = scored(model, permutations=2)
    split = scored(model, zip(IMAGES.split([3, 5]), LABELS.split([3, 5]), strict=True), permutations=2)
    for name in whole:
        assert torch.allclose(whole[name].scores, split[name].scores, atol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(before, model.state_dict().values(), strict=True))
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_without_labels_the_answers_count():
    model = Plain().eval()
    found = scored(model, [IMAGES], value="answers", permutations=2)["middle"]
    # The whole network has no divergence from itself.
    with torch.no_grad():
        bias = F.log_softmax(model.fc.bias.expand(8, -1), 1)
        expected = F.kl_div(bias, F.log_softmax(model(IMAGES), 1), log_target=True, reduction="batchmean")
    assert found.scores.sum().item() == pytest.approx(float(expected), abs=1e-5)
    with pytest.raises(InputError, match="needs \\(images, labels\\) pairs"):
        scored(model, [IMAGES])


@pytest.mark.parametrize("options", [{"value": "x"}, {"permutations": 3}, {"permutations": 0}])
def test_wrong_options_are_refused(options):
    with pytest.raises(InputError, match="value|permutations"):
        scored(Plain().eval(), **options)


def concentration(maps, **options):
    criterion = create(find("concentration"), Filters((), (), "conv1"), options=options)
    criterion.update(torch.as_tensor(maps), torch.zeros(len(maps), dtype=torch.long))
    return criterion.compute()


def test_concentration_against_numpy():
    maps = np.random.default_rng(0).normal(size=(3, 4, 5, 6)).clip(0)
    entropy, rank = np.zeros(4), np.zeros(4)
    for image in maps:
        for f in range(4):
            p = np.histogram(image[f], bins=8)[0] / 30
            entropy[f] += -sum(q * np.log(q) for q in p if q) / np.log(8) / 3
            rank[f] += np.linalg.matrix_rank(image[f]) / 5 / 3
    assert np.allclose(concentration(maps, bins=8).scores, (entropy + rank) / 2)
    assert np.allclose(concentration(maps, bins=8, fusion="product").scores, entropy * rank)
    harmonic = 2 * entropy * rank / (entropy + rank)
    found = concentration(maps, bins=8, fusion="harmonic")
    assert np.allclose(found.scores, harmonic)
    assert found.comparable
    with pytest.raises(InputError, match="fusion"):
        concentration(maps, fusion="sum")
    with pytest.raises(InputError, match="balance"):
        concentration(maps, balance=2)
