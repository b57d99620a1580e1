"""What is claimed of the feature maps of a trained network, on a few that are stored with the tests."""

import pytest
import torch
from safetensors.torch import load_file

from infoprune.entropy import gram, greedy_order, pairwise_redundancy, relevance, variables


@pytest.fixture(scope="module")
def stored(golden_dir):
    return load_file(golden_dir / "vgg16_maps.safetensors")


@pytest.fixture(scope="module", params=["block4", "block5"])
def maps(request, stored):
    return variables(stored[request.param].float()), stored["labels"].long()


def renyi(K, alpha=1.01):
    shares = torch.linalg.eigvalsh(K / K.shape[-1]).clamp(min=0)
    return shares.pow(alpha).sum(dim=-1).log2() / (1 - alpha)


def test_fast_and_exact_orders_agree_as_far_as_anything_is_resolved(maps):
    exact, hybrid = (greedy_order(*maps, method=method) for method in ("exact", "hybrid"))
    resolved = min(exact.saturated_at, hybrid.saturated_at)
    assert resolved > 15
    assert hybrid.order[:resolved] == exact.order[:resolved]
    assert hybrid.evaluations < exact.evaluations / 2


def test_pairs_is_exact_at_order_two(maps):
    exact, fast = (greedy_order(*maps, method=method, alpha=2.0) for method in ("exact", "pairs"))
    resolved = min(exact.saturated_at, fast.saturated_at)
    assert resolved > 15
    assert fast.order[:resolved] == exact.order[:resolved]


def test_relevance_is_that_of_the_full_matrices(maps):
    x, labels = maps
    same = (labels[:, None] == labels[None, :]).double()
    K = gram(x)
    assert torch.allclose(relevance(x, labels), renyi(K) + renyi(same) - renyi(K * same), atol=1e-10)


def test_redundancy_is_that_of_the_full_matrices(maps):
    x = maps[0][:24]
    K = gram(x).square().flatten(1)
    alone, together = -(K.sum(dim=1) / 60**2).log2(), -((K @ K.mT) / 60**2).log2()
    assert torch.allclose(pairwise_redundancy(x), alone[:, None] + alone - together, atol=1e-5)


def test_the_product_of_a_layer_saturates_and_says_where(maps):
    found = greedy_order(*maps)
    assert found.saturated_at < 60
    assert found.label_entropy - found.information[found.saturated_at] < 1e-9
