"""Backward elimination on the normal equations of the layers that read a filter."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import oas
from torch import nn

import infoprune
from infoprune.criteria.reconstruction import Share, eliminate, inverse_of, reconstruction
from infoprune.errors import InputError
from infoprune.network.coupled_groups import find_groups
from nets import Plain, Residual, Separable, conv_bn, images


def refitted(gram, weights, kept):
    """Squared error when only these features are used, fitted anew."""
    solved = torch.linalg.solve(gram[kept][:, kept], gram[kept] @ weights)
    left = weights.mT @ gram @ weights - weights.mT @ gram[:, kept] @ solved
    return float(left.diagonal().sum())


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_costs_add_up_to_the_error_of_the_refitted_rest(seed):
    drawn = torch.Generator().manual_seed(seed)
    x = torch.randn(10, 60, generator=drawn).double()
    gram, weights = x @ x.mT, torch.randn(10, 3, generator=drawn).double()
    rows = [torch.arange(2 * unit, 2 * unit + 2) for unit in range(5)]
    gone = list(eliminate([Share(torch.linalg.inv(gram), weights.clone(), list(rows), 1.0)], 5))
    assert sorted(unit for unit, _ in gone) == [0, 1, 2, 3, 4]
    total, left = 0.0, set(range(5))
    for unit, cost in gone[:-1]:
        # The one that goes is the one whose loss leaves the least error of all.
        errors = {
            other: refitted(gram, weights, torch.cat([rows[u] for u in sorted(left - {other})])) for other in left
        }
        assert min(errors.values()) == pytest.approx(errors[unit], rel=1e-6)
        left.remove(unit)
        total += cost
        assert total == pytest.approx(errors[unit], rel=1e-6)


@pytest.mark.parametrize(("samples", "features"), [(20, 60), (60, 60), (6000, 60)])
def test_moments_are_drawn_towards_the_identity_as_so_few_samples_ask_for(samples, features):
    drawn = torch.Generator().manual_seed(0)
    mixed = torch.randn(features, features, generator=drawn).double()
    x = torch.randn(samples, features, generator=drawn).double() @ mixed
    x -= x.mean(dim=0)
    wanted, _ = oas(x.numpy(), assume_centered=True)
    assert torch.linalg.inv(inverse_of(x.mT @ x / samples, samples, ridge=0.0)).numpy() == pytest.approx(wanted)


def test_what_few_images_cannot_tell_is_not_free_to_go():
    # A classifier behind pooling has one sample an image: of 28 images any 28 maps tell all others.
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(128, 128, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 5)).eval()
    few, many = torch.randn(28, 128, 1, 1), torch.randn(4000, 128, 1, 1)
    found, true = (scored(model, [some])["0"] for some in (few, many))
    half = found.scores.sort().values[:64].sum() / true.scores.sort().values[:64].sum()
    assert 0.2 < half < 5


def scored(model, batches):
    model.eval()
    return reconstruction(model, find_groups(model, batches[0][:2]).groups, batches)


def test_a_dead_filter_goes_first_and_a_copy_next():
    model = Plain(conv_bn(8, 6))
    with torch.no_grad():
        model.first[0].weight[5] = 0
        model.first[1].running_mean[5], model.first[1].bias[5] = 0, -1
        model.first[0].weight[3] = model.first[0].weight[6]
        for tensor in (model.first[1].running_mean, model.first[1].running_var, model.first[1].weight):
            tensor[3] = tensor[6]
        model.first[1].bias[3] = model.first[1].bias[6]
    found = scored(model, images())["first.0"]
    assert found.order[-1] == 5
    assert set(found.order) == set(range(8))
    # Only one of two copies is worth little: the other is worth the more for it.
    cheap, dear = sorted([3, 6], key=found.order.index, reverse=True)
    assert found.order[-2] == cheap
    assert found.scores[cheap] < 0.05 * found.scores[dear]


def test_a_filter_that_nobody_weighs_goes_first_however_loud():
    model = Plain(nn.Conv2d(8, 6, 3, padding=1))
    with torch.no_grad():
        model.first[1].weight[2] = 50
        model.middle.weight[:, 2] = 0
    assert scored(model, images())["first.0"].order[-1] == 2


@pytest.mark.parametrize("network", [Plain, Residual, Separable])
def test_every_group_is_scored_whatever_reads_it(network):
    model = network().eval()
    batches = images()
    groups = find_groups(model, batches[0][:2]).groups
    found = scored(model, batches)
    assert list(found) == [group.name for group in groups]
    for group in groups:
        importance = found[group.name]
        assert sorted(importance.order) == list(range(group.filters))
        assert (importance.scores >= 0).all()
        by_rank = importance.scores[list(importance.order)]
        assert (by_rank[:-1] >= by_rank[1:]).all()


def test_passes_change_nothing():
    model = Separable().eval()
    batches = images()
    groups = find_groups(model, batches[0][:2]).groups
    at_once, apart = reconstruction(model, groups, batches), reconstruction(model, groups, batches, memory=1)
    for name, importance in at_once.items():
        assert importance.order == apart[name].order
        torch.testing.assert_close(importance.scores, apart[name].scores)


def test_it_is_a_criterion_like_any_other():
    model = Residual().eval()
    batches = [(x, torch.zeros(len(x), dtype=torch.long)) for x in images(96)]
    choice = {"keep": {"inner1.0": 5, "inner2.0": 5}, "repair": "least-squares"}
    losses = {}
    for criterion in ("reconstruction", "random"):
        result = infoprune.prune(model, batches, criterion=criterion, **choice)
        wanted, found = (torch.cat([m(x) for x, _ in batches]).detach() for m in (model, result.model))
        losses[criterion] = float((wanted - found).norm())
    assert losses["reconstruction"] < losses["random"]
    with pytest.raises(InputError, match="option of the criterion 'reconstruction' 'ridg'"):
        infoprune.plan(model, batches, criterion="reconstruction", ratio=0.5, criterion_options={"ridg": 1})


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0])
def test_images_that_are_all_the_same_are_scored(value):
    same = [torch.full((8, 3, 8, 8), value)] * 2
    for seed in range(10):
        torch.manual_seed(seed)
        rest = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), *rest).eval()
        found = reconstruction(model, find_groups(model, same[0][:2]).groups, same)
        assert all(torch.isfinite(one.scores).all() for one in found.values())


def test_moments_that_rounding_makes_indefinite_are_inverted_with_a_larger_ridge():
    """Maps that hardly depend on the image: what centring leaves is mostly rounding."""
    turned = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
    spectrum = torch.tensor([1.0, 0.5, 0.2, 0.1, 0.01, -0.003], dtype=torch.float64)
    gram = turned @ spectrum.diag() @ turned.mT
    with pytest.raises(torch.linalg.LinAlgError):
        torch.linalg.cholesky(gram)
    inverse = inverse_of(gram, 10**9, ridge=1e-6)
    assert torch.linalg.eigvalsh(inverse).min() > 0


def test_moments_that_are_not_finite_are_refused():
    with pytest.raises(InputError, match="values that are not finite"):
        inverse_of(torch.full((2, 2), torch.nan, dtype=torch.float64), 10)
