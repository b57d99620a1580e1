"""Channel independence, worked out by hand and row by row with numpy."""

import numpy as np
import pytest
import torch

from infoprune.criteria import Filters, create, find

ONE = [[1.0, 0], [0, 1], [1, 0]]


def scored(maps, **options):
    criterion = create(find("chip"), Filters((), (), "conv1"), options=options)
    maps = torch.as_tensor(np.asarray(maps, dtype=float))
    criterion.update(maps, torch.zeros(len(maps), dtype=torch.long))
    return criterion.compute()


def image(rows):
    return np.asarray(rows, dtype=float)[None, :, None]


def nuclear(matrix):
    return np.linalg.svd(matrix, compute_uv=False).sum()


def test_two_equal_rows_share_their_worth():
    assert np.allclose(scored(image(ONE)).scores, [0.414214, 1, 0.414214], atol=2e-6)
    assert np.allclose(scored(image(ONE), fast=True).scores, [0.707107, 1, 0.707107], atol=2e-6)


def test_magnitude_counts_unless_rows_are_scaled():
    rows = [[3.0, 4, 0], [0, 0, 2], [6, 8, 0]]
    assert np.allclose(scored(image(rows)).scores, [1.180340, 2, 6.180340], atol=2e-6)
    assert np.allclose(scored(image(rows), unit=True).scores, [0.414214, 1, 0.414214], atol=2e-6)


@pytest.mark.parametrize("fast", [True, False])
def test_orthogonal_rows_are_worth_their_norms(fast):
    rows = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 5)))[0].T * np.arange(1, 6)[:, None]
    assert np.allclose(scored(image(rows), fast=fast).scores, np.arange(1, 6))


@pytest.mark.parametrize("places", [3, 9])
def test_against_zeroing_each_row(places):
    maps = np.random.default_rng(1).normal(size=(4, 6, 1, places))
    slow = np.zeros(6)
    for rows in maps[:, :, 0]:
        for f in range(6):
            left = rows.copy()
            left[f] = 0
            slow[f] += (nuclear(rows) - nuclear(left)) / 4
    assert np.allclose(scored(maps).scores, slow, rtol=1e-12)


def test_the_first_order_form_sums_to_the_norm_and_never_underestimates():
    maps = np.random.default_rng(2).normal(size=(3, 7, 2, 5))
    exact, first = scored(maps).scores, scored(maps, fast=True).scores
    assert (first >= exact - 1e-12).all()
    assert np.isclose(first.sum(), np.mean([nuclear(one.reshape(7, -1)) for one in maps]))


def test_wide_layers_take_the_first_order_form():
    maps = np.random.default_rng(3).normal(size=(1, 130, 2, 2))
    assert torch.equal(scored(maps).scores, scored(maps, fast=True).scores)
