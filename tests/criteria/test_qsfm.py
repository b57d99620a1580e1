"""Similarity and removal against the definitions, written out pair by pair."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from infoprune.criteria import Filters, create, find
from infoprune.criteria.qsfm import eliminate
from infoprune.errors import InputError


def computed(maps, name="qsfm", sizes=None):
    criterion = create(find(name), Filters((), (), "conv"))
    for part in maps.split(sizes or len(maps)):
        criterion.update(part, torch.zeros(len(part)))
    return criterion.compute()


def plain_ssim(x, y, L):
    c1, c2 = (0.01 * L) ** 2, (0.03 * L) ** 2
    cov = (x * y).mean() - x.mean() * y.mean()
    return ((2 * x.mean() * y.mean() + c1) * (2 * cov + c2)) / (
        (x.mean() ** 2 + y.mean() ** 2 + c1) * (x.var() + y.var() + c2)
    )


def plain_psnr(x, y, L):
    return 10 * math.log10(L**2 / max(((x - y) ** 2).mean(), 1e-10 * L**2))


def plain_similarity(maps, pairwise):
    x = maps.double().numpy()
    L = x.max() - x.min()
    filters = range(x.shape[1])
    return np.array([[np.mean([pairwise(i[a], i[b], L) for i in x]) for a in filters] for b in filters])


def plain_removal(similarity, magnitude):
    """The definition of the method, searched anew for every removal."""
    left, gone = list(range(len(similarity))), []
    while len(left) > 1:
        i, j = max(((i, j) for i in left for j in left if i < j), key=lambda pair: similarity[pair])
        others = [k for k in left if k not in (i, j)]
        drop = max((i, j), key=lambda f: (similarity[f, others].sum(), -magnitude[f], f))
        gone.append((drop, i + j - drop, similarity[i, j]))
        left.remove(drop)
    return [*gone, (left[0], None, None)]


def draw(seed, filters=7, size=4, images=5):
    generator = torch.Generator().manual_seed(seed)
    mixture = torch.randn(filters, filters, generator=generator).abs()
    maps = torch.randn(images, filters, size, size, generator=generator)
    return torch.einsum("fg,nghw->nfhw", mixture, maps).relu()


@pytest.mark.parametrize(("name", "pairwise"), [("qsfm-ssim", plain_ssim), ("qsfm-psnr", plain_psnr)])
@pytest.mark.parametrize("size", [2, 5, 12])  # maps are kept, maps are kept, moments are kept
def test_similarity_is_the_mean_over_images(name, pairwise, size):
    maps = draw(3, size=size)
    found = computed(maps, name, sizes=2).evidence["similarity"].numpy()
    assert np.allclose(found, plain_similarity(maps, pairwise), atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10000), filters=st.integers(1, 12))
def test_the_most_similar_pair_loses_its_more_replaceable_filter(seed, filters):
    generator = torch.Generator().manual_seed(seed)
    similarity = torch.rand(filters, filters, generator=generator, dtype=torch.float64)
    similarity = (similarity + similarity.T) / 2
    magnitude = torch.rand(filters, generator=generator, dtype=torch.float64)
    expected = plain_removal(similarity.numpy(), magnitude.numpy())
    found = eliminate(similarity, magnitude)
    assert [step[:2] for step in found] == [step[:2] for step in expected]
    assert np.allclose([step[2] for step in found[:-1]], [step[2] for step in expected[:-1]])


def test_of_a_pair_alike_to_all_others_the_weaker_goes():
    similarity = torch.full((3, 3), 0.5, dtype=torch.float64)
    assert [step[0] for step in eliminate(similarity, torch.tensor([2.0, 1.0, 3.0]))] == [1, 0, 2]
    assert [step[0] for step in eliminate(similarity, torch.ones(3))] == [1, 2, 0]


@pytest.mark.parametrize("name", ["qsfm-ssim", "qsfm-psnr"])
def test_the_order_follows_the_removal(name):
    maps = draw(0)
    found = computed(maps, name)
    magnitude = maps.abs().mean(dim=(0, 2, 3)).double()
    steps = plain_removal(found.evidence["similarity"].numpy(), magnitude.numpy())
    largest = 1 if name == "qsfm-ssim" else 100
    assert list(found.order) == [step[0] for step in reversed(steps)]
    for gone, partner, similarity in steps[:-1]:
        assert found.evidence["partner"][gone] == partner
        assert found.scores[gone] == pytest.approx(largest - similarity)
    assert found.evidence["partner"][steps[-1][0]] == -1
    assert found.scores[steps[-1][0]] == (2 if name == "qsfm-ssim" else 100)


@pytest.mark.parametrize("name", ["qsfm-ssim", "qsfm-psnr"])
def test_equal_maps_are_as_alike_as_can_be_and_go_first(name):
    maps = draw(1)
    maps[:, 5] = maps[:, 2]
    found = computed(maps, name)
    assert found.evidence["similarity"][2, 5].item() == pytest.approx(1 if name == "qsfm-ssim" else 100, abs=1e-9)
    assert found.order[-1] == 5
    assert found.evidence["partner"][5] == 2
    assert found.scores[5].item() == pytest.approx(0, abs=1e-9)


def test_the_range_is_the_layers_over_all_images_however_they_are_split():
    maps = draw(2)
    maps[4] *= 50
    whole = computed(maps)
    for sizes in (1, 2, 4):
        assert torch.allclose(computed(maps, sizes=sizes).scores, whole.scores, rtol=1e-12, atol=1e-13)
    assert np.allclose(whole.evidence["similarity"].numpy(), plain_similarity(maps, plain_ssim), atol=1e-9)


def test_a_single_dead_filter_goes_before_the_most_similar_pair():
    maps = draw(4)
    maps[:, 5] = maps[:, 2]
    maps[:, 3] = 0
    found = computed(maps)
    assert list(found.order[-2:]) == [5, 3]
    assert found.evidence["partner"][3] == -1


def test_only_what_is_smaller_is_kept():
    few, many = (create(find("qsfm"), Filters(())) for _ in range(2))
    few.update(torch.randn(3, 4, 16, 16), torch.zeros(3))
    many.update(torch.randn(3, 64, 2, 2), torch.zeros(3))
    assert few.kept[0].covariance.shape == (3, 4, 4)
    assert many.kept[0].shape == (3, 64, 4)


def test_qsfm_is_ssim():
    maps = draw(5)
    assert torch.equal(computed(maps, "qsfm").scores, computed(maps, "qsfm-ssim").scores)


def plain_windowed(maps, window):
    """SSIM of all pairs as it is defined for images: local moments by a convolution with a Gaussian."""
    x = maps.double()
    L = float(x.max() - x.min())
    away = torch.arange(window).double() - (window - 1) / 2
    line = torch.exp(-(away**2) / (2 * (1.5 * window / 11) ** 2))
    kernel = (line[:, None] * line / line.sum() ** 2)[None, None]

    def local(values):
        return torch.nn.functional.conv2d(values.flatten(0, 1)[:, None], kernel).unflatten(0, values.shape[:2])

    c1, c2 = (0.01 * L) ** 2, (0.03 * L) ** 2
    mean = local(x)
    similarity = torch.zeros(x.shape[1], x.shape[1]).double()
    for i in range(x.shape[1]):
        for j in range(x.shape[1]):
            a, b = mean[:, i], mean[:, j]
            cov, va, vb = (local(x[:, [p]] * x[:, [q]])[:, 0] for p, q in ((i, j), (i, i), (j, j)))
            luminance = (2 * a * b + c1) / (a**2 + b**2 + c1)
            ssim = luminance * (2 * (cov - a * b) + c2) / (va - a**2 + vb - b**2 + c2)
            similarity[i, j] = ssim.mean()
    return similarity


@pytest.mark.parametrize("window", [5, 11])
def test_a_window_is_the_ssim_of_images_where_it_fits(window):
    maps = draw(6, filters=4, size=13, images=3)
    criterion = create(find("qsfm-ssim"), Filters(()), options={"window": window})
    for part in maps.split(2):
        criterion.update(part, torch.zeros(len(part)))
    assert torch.allclose(criterion.compute().evidence["similarity"], plain_windowed(maps, window), atol=1e-9)


def test_a_window_that_does_not_fit_is_the_whole_map():
    maps = draw(7, size=8)
    criterion = create(find("qsfm-ssim"), Filters(()), options={"window": 11})
    criterion.update(maps, torch.zeros(len(maps)))
    assert torch.equal(criterion.compute().evidence["similarity"], computed(maps).evidence["similarity"])


@pytest.mark.parametrize(("name", "window"), [("qsfm-psnr", 11), ("qsfm-ssim", 1)])
def test_a_window_that_means_nothing_is_refused(name, window):
    with pytest.raises(InputError, match="the side of a square of SSIM"):
        create(find(name), Filters(()), options={"window": window})


def test_a_window_is_a_whole_number():
    with pytest.raises(InputError, match="option 'window' of the criterion 'qsfm-ssim' takes a whole number, not 2.5"):
        create(find("qsfm-ssim"), Filters(()), options={"window": 2.5})
