"""The sum of distances, against numbers worked out by hand and a loop over pairs."""

import numpy as np
import pytest
import torch

from infoprune.criteria import Filters, create, find
from infoprune.errors import InputError

PLANE = [[0.0, 0], [3, 4], [6, 8], [0, 1]]
SQUARE = [[0.0, 0], [1, 0], [0, 1], [1, 1], [0.5, 0.5]]


def scored(*weights, **options):
    filters = Filters(tuple(torch.as_tensor(weight, dtype=torch.float64) for weight in weights))
    return create(find("fpgm"), filters, options=options).compute()


def test_four_filters_of_a_plane():
    found = scored(PLANE)
    assert np.allclose(found.scores, [16, 14.242641, 24.219544, 14.462185], atol=2e-6)
    assert list(found.order) == [2, 0, 3, 1]


def test_the_centre_of_a_square_goes_first_and_its_corners_are_equal():
    found = scored(SQUARE)
    assert np.allclose(found.scores, [4.121320] * 4 + [2.828427], atol=2e-6)
    assert len(set(found.scores[:4].tolist())) == 1
    assert list(found.order) == [0, 1, 2, 3, 4]


def test_a_common_offset_changes_nothing_and_a_factor_is_a_factor():
    weights = torch.randn(7, 5, dtype=torch.float64)
    plain = scored(weights).scores
    assert torch.allclose(scored(weights + torch.randn(5, dtype=torch.float64)).scores, plain, rtol=1e-12)
    assert torch.allclose(scored(-2.5 * weights).scores, 2.5 * plain, rtol=1e-12)


def test_the_layers_of_a_group_are_side_by_side():
    weights = torch.randn(6, 3, 2, 2, dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64)
    rows = np.concatenate([weight.flatten(1).numpy() for weight in weights], axis=1)
    slow = [sum(np.sqrt(((a - b) ** 2).sum()) for b in rows) for a in rows]
    assert np.allclose(scored(*weights).scores, slow, rtol=1e-12)


def test_the_mix_takes_small_norms_first():
    weights = torch.randn(10, 4, dtype=torch.float64)
    norms = weights.norm(dim=1)
    found = scored(weights, mix=0.3)
    small = norms.argsort()[:3].tolist()
    assert list(found.order[-3:]) == small[::-1]
    rest = [i for i in range(10) if i not in small]
    slow = torch.tensor([sum((weights[i] - weights[j]).norm() for j in rest) for i in rest])
    assert torch.allclose(found.scores[rest], slow, rtol=1e-12)
    ranked = found.scores[list(found.order)]
    assert (ranked[:-1] >= ranked[1:]).all()


def test_a_mix_of_everything_is_refused():
    with pytest.raises(InputError, match="mix is the share"):
        scored(PLANE, mix=1.0)
