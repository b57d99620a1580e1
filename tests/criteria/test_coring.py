"""Singular vectors of filters and the order of removal, worked out by hand."""

import numpy as np
import pytest
import torch

from infoprune.criteria import Filters, create, find
from infoprune.criteria.coring import distances, first_vectors, in_order_of_removal, variance_distance
from infoprune.criteria.scoring import filters_of
from infoprune.errors import InputError
from infoprune.network.coupled_groups import find_groups
from infoprune.zoo import build


def scored(weights, **options):
    return create(find("coring"), Filters((torch.as_tensor(weights),)), options=options).compute()


def outer(x, y, z):
    return np.einsum("i,j,k->ijk", x, y, z)


def test_the_variance_distance():
    a = torch.tensor([1.0, 2.0, 3.0])
    found = [float(variance_distance(a, b)) for b in (a, -a, a + 5, 2 * a, a[[0, 2, 1]])]
    assert np.allclose(found, [0, 2, 0, 0.2, 0.5])


def test_multiples_of_one_outer_product_are_the_same():
    x, y, z = (np.random.default_rng(i).normal(size=n) for i, n in enumerate((4, 3, 3)))
    two = torch.from_numpy(np.stack([outer(x, y, z), outer(2 * x, 3 * y, z)]))
    for measure in ("cosine", "vbd", "euclidean"):
        assert distances(two, measure).abs().max() < 1e-7
    found = scored(two)
    assert found.order == (1, 0)  # the smaller norm goes first
    assert found.scores.tolist() == [0.5, 1]


def test_three_filters_by_their_distances():
    distance = torch.tensor([[0.0, 1, 2], [1, 0, 4], [2, 4, 0]], dtype=torch.float64)
    found = in_order_of_removal(distance, torch.ones(3).double(), torch.zeros(3).bool())
    # 0 goes, closer to the rest than 1; of the last two, alike in all, the later goes.
    assert list(found.order)[::-1] == [0, 2, 1]
    assert found.evidence["partner"].tolist() == [1, -1, 1]


def test_against_numpy_mode_by_mode():
    filters = np.random.default_rng(0).normal(size=(5, 4, 3, 2))
    slow = np.zeros((5, 5))
    for mode in range(3):
        vectors = []
        for one in filters:
            u = np.linalg.svd(np.moveaxis(one, mode, 0).reshape(one.shape[mode], -1))[0][:, 0]
            vectors.append(u * np.sign(u[np.abs(u).argmax()]))
        slow += np.array([[np.linalg.norm(a - b) for b in vectors] for a in vectors]) / 3
    assert np.allclose(distances(torch.from_numpy(filters), "euclidean"), slow, atol=1e-9)


def test_the_sign_of_a_filter_does_not_matter_but_to_the_vector_itself():
    filters = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    for mode in (1, 2, 3):
        assert torch.allclose(first_vectors(filters, mode), first_vectors(-3 * filters, mode), atol=1e-9)


def test_one_by_one_kernels_have_one_mode():
    rows = torch.randn(4, 6, dtype=torch.float64)
    units = rows / rows.norm(dim=1, keepdim=True)
    expected = 1 - (units @ units.T).abs()
    for shape in ((6, 1, 1), (6,)):
        assert torch.allclose(distances(rows.reshape(4, *shape), "cosine"), expected, atol=1e-9)


def test_filters_of_a_network_carry_their_shapes():
    model = build("resnet20")
    group = find_groups(model, torch.zeros(2, 3, 32, 32)).groups[0]
    filters = filters_of(model, group)
    assert filters.shapes[0] == (3, 3, 3)
    for layer, weight, shape in zip(group.producers, filters.weights, filters.shapes, strict=True):
        assert torch.equal(weight.reshape(len(weight), *shape), model.get_submodule(layer).weight)


def test_an_unknown_measure_is_refused():
    with pytest.raises(InputError, match="'measure' of the criterion 'coring' takes one of"):
        scored(torch.randn(3, 2, 3, 3), measure="l1")
