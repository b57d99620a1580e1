"""Haar bands and how alike they are, worked out by hand and with numpy."""

import numpy as np
import torch

from infoprune.criteria import Filters, create, find
from infoprune.criteria.wavelet import haar, likeness


def scored(maps):
    criterion = create(find("wavelet"), Filters((), (), "conv1"))
    criterion.update(torch.as_tensor(maps), torch.zeros(len(maps), dtype=torch.long))
    return criterion.compute()


def test_four_values():
    low, high = haar(torch.tensor([[1.0, 2], [3, 4]], dtype=torch.float64))
    assert low.tolist() == [5]
    assert high.tolist() == [-1, -2, 0]
    assert (low.square().sum(), high.square().sum()) == (25, 5)


def test_energy_is_kept():
    maps = torch.randn(2, 3, 6, 4, dtype=torch.float64)
    low, high = haar(maps)
    assert torch.allclose(low.square().sum(-1) + high.square().sum(-1), maps.square().sum((2, 3)))


def test_a_constant_map_has_no_high_bands():
    low, high = haar(torch.full((4, 4), 3.0))
    assert (low == 6).all()
    assert (high == 0).all()


def test_two_multiples_are_alike():
    one = torch.randn(3, 1, 4, 4, dtype=torch.float64)
    assert scored(torch.cat([one, 2 * one], dim=1)).scores.abs().max() < 1e-12


def cosine(a, b):
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


def test_against_numpy():
    maps = np.random.default_rng(0).normal(size=(2, 4, 4, 6))
    slow = np.zeros(4)
    for image in maps:
        bands = [[b.numpy() for b in haar(torch.from_numpy(one))] for one in image]
        for f in range(4):
            share = (bands[f][0] ** 2).sum() / (image[f] ** 2).sum()
            others = [share * cosine(bands[f][0], bands[g][0]) + (1 - share) * cosine(bands[f][1], bands[g][1])
                      for g in range(4) if g != f]  # fmt: skip
            slow[f] += (1 - np.mean(others)) / 2
    assert np.allclose(scored(maps).scores, slow, rtol=1e-9)


def test_an_odd_row_is_repeated():
    maps = torch.randn(1, 2, 5, 3, dtype=torch.float64)
    padded = torch.cat([maps, maps[:, :, -1:]], dim=2)
    padded = torch.cat([padded, padded[..., -1:]], dim=3)
    assert torch.equal(likeness(maps), likeness(padded))
