"""What is claimed of the feature maps of a trained network, on the feature maps of a trained network."""

import pytest
import torch

from infoprune.entropy import gram, greedy_order, relevance, variables

SAMPLES = 60


def read_maps(weights_dir, data_dir, samples, seed=0):
    """``(n, C, H, W)`` after each ReLU of VGG-16, by depth, and the labels."""
    from infoprune.data import balanced_sample, open_source
    from infoprune.zoo import load_network

    network, preprocessing = load_network("vgg16", weights=weights_dir / "vgg16_bn_cifar10.safetensors")
    images = balanced_sample(open_source("cifar10", data_dir).train, samples, seed)
    outputs = []
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output.clone()))
        for module in network.modules()
        if isinstance(module, torch.nn.ReLU)
    ]
    with torch.no_grad():
        network(images.read(range(samples), preprocessing, random_crop=False))
    for hook in hooks:
        hook.remove()
    return outputs, images.labels


@pytest.fixture(scope="module")
def maps(weights_dir, data_dir):
    return read_maps(weights_dir, data_dir, SAMPLES)


@pytest.mark.parametrize("depth", [0, 2, 5, 8, 11])
def test_fast_and_exact_orders_agree_as_far_as_anything_is_resolved(maps, depth):
    outputs, labels = maps
    x = variables(outputs[depth])[:160]
    exact, hybrid = (greedy_order(x, labels, method=method) for method in ("exact", "hybrid"))
    resolved = min(exact.saturated_at, hybrid.saturated_at)
    assert resolved > 15
    assert hybrid.order[:resolved] == exact.order[:resolved]
    assert hybrid.evaluations < exact.evaluations / 2


@pytest.mark.parametrize(("seed", "steps"), [(0, 20), (1, None)])
def test_a_screen_must_not_be_narrow_nor_near_ties_be_few(weights_dir, data_dir, seed, steps):
    # Half as wide a screen goes wrong at the fifth and nineteenth step, half as many near ties at the 127th.
    outputs, labels = read_maps(weights_dir, data_dir, 100, seed)
    x = variables(outputs[11])[:160]
    exact, hybrid = (greedy_order(x, labels, method=m, width="mean", max_steps=steps) for m in ("exact", "hybrid"))
    assert exact.saturated_at >= (steps or 130)
    assert hybrid.order[: exact.saturated_at] == exact.order[: exact.saturated_at]


@pytest.mark.parametrize("depth", [0, 5, 11])
def test_relevance_is_that_of_the_full_matrices(maps, depth):
    outputs, labels = maps
    x = variables(outputs[depth])[:40]
    same = (labels[:, None] == labels[None, :]).double()

    def renyi(K):
        shares = torch.linalg.eigvalsh(K / SAMPLES).clamp(min=0)
        return shares.pow(1.01).sum(dim=-1).log2() / (1 - 1.01)

    K = gram(x)
    assert torch.allclose(relevance(x, labels), renyi(K) + renyi(same) - renyi(K * same), atol=1e-10)


def test_the_product_of_a_layer_saturates_and_says_where(maps):
    outputs, labels = maps
    found = greedy_order(variables(outputs[5]), labels)
    assert found.saturated_at < 60
    assert found.label_entropy - found.information[found.saturated_at] < 1e-9
