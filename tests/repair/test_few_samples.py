"""Few samples of many features answer as the normal equations do, and filters are eliminated in the same order."""

import pytest
import torch
from torch import nn

import infoprune
from infoprune.criteria import reader_moments
from infoprune.criteria.inverses import SampledInverse
from infoprune.criteria.reconstruction import Share, eliminate, inverse_of
from infoprune.regression import few_samples
from infoprune.regression.few_samples import FewSamples
from infoprune.regression.normal_equations import NormalEquations
from infoprune.repair import walks


def drawn(samples=30, features=80, outputs=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, features, generator=generator) @ torch.randn(features, features, generator=generator)
    x = x / features**0.5 + 2
    x[:, 5] = 3.0  # a feature that never changes
    start = torch.randn(1, features, outputs, generator=generator).double()
    return x, torch.randn(samples, outputs, generator=generator), start


def both(x, t):
    equations = NormalEquations.of(torch.empty(1, x.shape[1], t.shape[1]))
    equations.add(x.mT[None], t.mT[None])
    return FewSamples(x, t), equations


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("ridge", [1e-3, 1e-1, float("inf")])
def test_solutions_and_errors_are_those_of_the_normal_equations(constant, ridge):
    x, t, start = drawn()
    few, equations = both(x, t)
    found, wanted = (one.solve(start, ridge, constant=constant) for one in (few, equations))
    torch.testing.assert_close(found.weights, wanted.weights, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found.constant, wanted.constant, rtol=1e-6, atol=1e-8)
    assert few.error(found) == pytest.approx(equations.error(wanted), rel=1e-6, abs=1e-8)


def test_parts_and_moments_are_those_of_the_normal_equations():
    few, equations = both(*drawn()[:2])
    assert (few.count, few.shape) == (equations.count, equations.shape)
    rows = torch.tensor([0, 3, 5, 40])
    for one, other in ((few, equations), (few.among(rows), equations.among(rows)), (few + few, equations + equations)):
        for centred in (True, False):
            found, wanted = (which.moments(centred=centred) for which in (one, other))
            torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)
    assert few.of_every(2).shape == equations.of_every(2).shape


@pytest.mark.parametrize("ridge", [1e-4, 1e-1])
def test_filters_go_in_the_order_and_at_the_cost_of_the_inverse(ridge):
    x, _, start = drawn(features=60)
    centred = FewSamples(x, x[:, :0]).centred()
    # Units of two sizes, and features that belong to none.
    rows = [torch.arange(first, first + size) for first, size in [*((6 * n, 6) for n in range(8)), (48, 3), (51, 3)]]
    inverse = inverse_of(centred.mT @ centred / len(x), len(x), ridge)
    wanted = list(eliminate([Share(inverse, start[0].clone(), rows, worth=2.0)], len(rows)))
    found = list(eliminate([Share(SampledInverse(centred, ridge=ridge), start[0], rows, worth=2.0)], len(rows)))
    assert [unit for unit, _ in found] == [unit for unit, _ in wanted]
    assert [cost for _, cost in found] == pytest.approx([cost for _, cost in wanted], rel=1e-6)


class Flattened(nn.Module):
    """A network whose first linear layer reads whole maps, as that of VGG-16."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.classifier = nn.Sequential(nn.Linear(6 * 64, 12), nn.ReLU(), nn.Linear(12, 5))

    def forward(self, images):
        return self.classifier(self.features(images).flatten(1))


def test_a_network_whose_classifier_reads_whole_maps_is_pruned_as_by_second_moments(monkeypatch):
    torch.manual_seed(0)
    whole, used = Flattened().eval(), []
    images = list(torch.randn(40, 1, 8, 8).split(8))
    wanted = infoprune.prune(whole, images, macs=0.6, effort="quick")

    def few(samples, features):
        used.append(features)
        return features > 100

    for room in (reader_moments, walks):
        monkeypatch.setattr(room, "are_few", few)
    found = infoprune.prune(whole, images, macs=0.6, effort="quick")
    assert 384 in used
    assert found.plan.kept == wanted.plan.kept
    # With fewer samples than features the least ridge decides, which the rounding of single precision limits there.
    rest = torch.randn(200, 1, 8, 8)
    away, limit = ((whole(rest) - one.model(rest)).square().mean() for one in (found, wanted))
    assert 0 < away < 1.05 * limit


def test_second_moments_stay_where_samples_are_many_or_features_few():
    assert few_samples.are_few(2000, 4096)
    assert not few_samples.are_few(2049, 4096)
    assert not few_samples.are_few(10, 4095)
