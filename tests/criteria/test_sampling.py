"""How far second moments are from the true ones, as portions of the images show it."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from infoprune.criteria import find
from infoprune.criteria.reconstruction import reconstruction
from infoprune.criteria.scoring import score
from infoprune.network.coupled_groups import find_groups
from infoprune.regression.normal_equations import NormalEquations
from infoprune.regression.sampling import PortionMoments, sampling_errors
from infoprune.regression.shrinkage import shrinkage


def moments_of(x):
    equations = NormalEquations.of(torch.zeros(1, x.shape[1], 0))
    equations.add(x.mT[None], torch.zeros(1, 0, len(x)))
    return PortionMoments.of(equations)


def mixed(features, drawn):
    return torch.randn(features, features, generator=drawn).double() / features**0.5


@pytest.mark.parametrize("features", [8, 100])
@pytest.mark.parametrize("copies", [1, 5])
def test_the_error_is_that_of_the_samples_that_differ_however_often_each_is_seen(features, copies):
    drawn = torch.Generator().manual_seed(0)
    root, samples = mixed(features, drawn), 320
    true = root.mT @ root
    wanted = (true.square().sum() + true.trace() ** 2) / samples
    found = []
    for _ in range(8):
        x = 3 + torch.randn(samples, features, generator=drawn).double() @ root
        # Portions of several sizes.
        parts = torch.split(x, [10, 30, *[20] * 14])
        found.append(sampling_errors([moments_of(part.repeat_interleave(copies, dim=0)) for part in parts]))
    assert torch.stack(found).mean().item() == pytest.approx(wanted.item(), rel=0.15)


def test_it_is_how_far_the_moments_are_indeed():
    drawn = torch.Generator().manual_seed(0)
    root = mixed(20, drawn)
    errors, found = [], []
    for _ in range(30):
        x = torch.randn(200, 20, generator=drawn).double() @ root
        errors.append((torch.cov(x.mT, correction=0) - root.mT @ root).square().sum())
        found.append(sampling_errors([moments_of(part) for part in torch.split(x, 25)]))
    assert torch.stack(found).mean().item() == pytest.approx(torch.stack(errors).mean().item(), rel=0.2)


def test_one_portion_has_nothing_to_be_compared_with():
    some = moments_of(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)))
    nothing = moments_of(torch.zeros(0, 3))
    assert sampling_errors([]) is None
    assert sampling_errors([some]) is None
    assert sampling_errors([some, nothing]) is None


def test_large_means_do_not_hide_it():
    drawn = torch.Generator().manual_seed(0)
    parts = torch.randn(8, 50, 4, generator=drawn).double()
    near, far = (sampling_errors([moments_of(part + shift) for part in parts]) for shift in (0, 1000))
    assert far.item() == pytest.approx(near.item(), rel=1e-4)


def test_samples_are_never_taken_for_more_than_independent_ones():
    usual = shrinkage(10, size=1.0, spread=0.5, count=100)
    assert shrinkage(10, size=1.0, spread=0.5, count=100, error=0.0) == usual
    # The distance from the identity is 40 of all pairs together.
    assert shrinkage(10, size=1.0, spread=0.5, count=100, error=20.0) == pytest.approx(0.5)
    assert shrinkage(10, size=1.0, spread=0.5, count=100, error=1000.0) == 1.0


def test_a_thousand_positions_of_a_few_images_are_not_taken_for_a_thousand_images():
    """Where all positions of an image are alike, the filters are worth what they are worth with one position."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(48, 48, 1), nn.Conv2d(48, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    images = torch.randn(32, 48, 1, 1)

    def cheapest_half(size):
        batches = list(images.expand(-1, -1, size, size).contiguous().split(4))
        found = reconstruction(model, find_groups(model, batches[0]).groups[:1], batches)["0"]
        return found.scores.sort().values[:24].sum().item()

    # With each position as a sample it would be a tenth.
    assert cheapest_half(6) == pytest.approx(cheapest_half(1), rel=0.1)


@pytest.mark.parametrize("read", [list, lambda batches: DataLoader(TensorDataset(torch.cat(batches)), batch_size=200)])
def test_images_in_one_batch_are_compared_too(read):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    images = torch.randn(200, 3, 6, 6)
    groups = find_groups(model, images[:2]).groups[:1]
    small, one = (
        score(model, groups, batches, find("reconstruction"))["0"].scores
        for batches in (list(images.split(13)), read([images]))
    )
    assert torch.equal(small, one)
