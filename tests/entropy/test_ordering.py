"""The greedy order, against the same written out with full eigenvalues."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from infoprune.entropy import entropy, gram, greedy_order, label_gram, relevance
from infoprune.errors import InputError

from .strategies import SEEDS, class_labels, points


def layer(seed, filters, n=40, d=6, classes=4, signal=0.8):
    """Maps that know something of the labels, each something else."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    prototypes = torch.randn(filters, classes, d, generator=generator, dtype=torch.float64)
    noise = torch.randn(filters, n, d, generator=generator, dtype=torch.float64)
    return torch.relu(signal * prototypes[:, labels] + noise), labels


def brute_force(x, labels, alpha, steps, given=None, **kernel):
    """I(Y; given, selected) written out, every candidate at every step."""
    K, L = gram(x, **kernel), label_gram(labels)
    joint = torch.ones_like(L) if given is None else gram(given, **kernel).prod(dim=0)
    order, information = [], []
    for _ in range(steps):
        values = entropy(joint * K, alpha) + entropy(L, alpha) - entropy(joint * K * L, alpha)
        values[order] = -math.inf
        best = int(values.argmax())
        order.append(best)
        information.append(float(values[best]))
        joint = joint * K[best]
    return order, information


@settings(max_examples=15)
@given(SEEDS, st.sampled_from([1.0, 1.01, 2.0, 3.0]))
def test_exact_is_the_definition(seed, alpha):
    x, labels = layer(seed, 10)
    order, information = brute_force(x, labels, alpha, 5)
    found = greedy_order(x, labels, alpha=alpha, method="exact")
    assert found.order[:5] == tuple(order)
    assert found.information[:5] == pytest.approx(information, abs=1e-10)
    assert found.evaluations == sum(range(1, 11))


@settings(max_examples=15)
@given(SEEDS, st.sampled_from([0.95, 1.0, 1.01, 3.0]), st.sampled_from(["median", "mean", 1.0]))
def test_hybrid_is_exact_as_far_as_anything_is_resolved(seed, alpha, width):
    x, labels = layer(seed, 60)
    exact = greedy_order(x, labels, alpha=alpha, method="exact", width=width)
    hybrid = greedy_order(x, labels, alpha=alpha, width=width)
    resolved = min(exact.saturated_at, hybrid.saturated_at)
    assert abs(exact.saturated_at - hybrid.saturated_at) <= 3
    assert hybrid.order[:resolved] == exact.order[:resolved]
    assert hybrid.information[:resolved] == pytest.approx(exact.information[:resolved], abs=1e-9)
    assert hybrid.evaluations < exact.evaluations


@settings(max_examples=15)
@given(SEEDS)
def test_pairs_is_order_two_without_eigenvalues(seed):
    x, labels = layer(seed, 12)
    order, information = brute_force(x, labels, 2.0, 6)
    found = greedy_order(x, labels, alpha=2.0, method="pairs")
    assert found.order[:6] == tuple(order)
    assert found.information[:6] == pytest.approx(information, abs=1e-9)
    assert found.evaluations == 0


@settings(max_examples=15)
@given(SEEDS)
def test_quadratic_takes_the_map_that_tells_most_pairs_apart(seed):
    x, labels = layer(seed, 12)
    K, L = gram(x), label_gram(labels)
    joint, order = torch.ones_like(L), []
    for _ in range(6):
        alike = ((joint * K).square() * (1 - L)).sum(dim=(1, 2))
        alike[order] = math.inf
        order.append(int(alike.argmin()))
        joint = joint * K[order[-1]]
    assert greedy_order(x, labels, method="quadratic").order[:6] == tuple(order)


def test_the_whole_tail_of_order_two_in_single_precision_is_that_in_double():
    x, labels = layer(3, 80, n=60, d=12)
    found = greedy_order(x, labels, method="pairs").order
    squares = gram(x).square()
    between = torch.triu(1 - label_gram(labels), 1)
    within = torch.triu(label_gram(labels), 1)
    joint, remaining, order = torch.ones_like(between), list(range(80)), []
    for _ in range(80):
        # The joint is scaled freely where that changes no ranking: doubles would underflow too.
        b = (squares[remaining] * (joint * between)).sum(dim=(1, 2))
        a = (squares[remaining] * (joint * within)).sum(dim=(1, 2))
        order.append(remaining.pop(int((b / (60 + 2 * a)).argmin())))
        joint = joint * squares[order[-1]]
        scale = (joint * between).max()
        joint = torch.where(between > 0, joint / scale, joint)
    assert found == tuple(order)


@pytest.mark.parametrize("method", ["exact", "hybrid", "pairs", "quadratic"])
@pytest.mark.parametrize("tail", ["pairs", "quadratic", "relevance", "index"])
def test_every_method_and_tail_orders_all_maps_and_says_how(method, tail):
    x, labels = layer(1, 30)
    found = greedy_order(x, labels, method=method, tail=tail)
    assert sorted(found.order) == list(range(30))
    assert (found.method, found.tail) == (method, tail)
    assert 1 <= found.saturated_at <= 30
    assert len(found.information) == len(found.cmi) == 30
    assert found.cmi[-1] == 0
    assert found.information[-1] == pytest.approx(found.total)
    assert torch.tensor(found.information) + torch.tensor(found.cmi) == pytest.approx(found.total, abs=1e-6)
    rest = found.order[found.saturated_at :]
    assert len(rest) > 3
    if tail == "index":
        assert rest == tuple(sorted(rest))
    if tail == "relevance":
        alone = relevance(x, labels)
        assert [alone[c].item() for c in rest] == sorted((alone[c].item() for c in rest), reverse=True)


def test_the_total_is_that_of_all_maps_whatever_the_order():
    x, labels = layer(2, 9, n=30)
    K, L = gram(x).prod(dim=0), label_gram(labels)
    expected = (entropy(K, 1.01) + entropy(L, 1.01) - entropy(K * L, 1.01)).item()
    for method in ("exact", "hybrid", "pairs", "quadratic"):
        assert greedy_order(x, labels, method=method).total == pytest.approx(expected, abs=1e-10)


def test_the_curve_after_saturation_still_falls_and_has_no_noise():
    x, labels = layer(4, 60, d=20)
    found = greedy_order(x, labels)
    assert found.saturated_at < 60
    assert found.information[found.saturated_at] == pytest.approx(found.label_entropy, abs=1e-9)
    assert all(later <= earlier for earlier, later in itertools.pairwise(found.cmi))


@settings(max_examples=10)
@given(SEEDS, st.sampled_from(["exact", "hybrid"]))
def test_given_maps_are_conditioned_on(seed, method):
    x, labels = layer(seed, 8)
    before, _ = layer(seed + 1, 2, d=3)
    other, _ = layer(seed + 2, 1, d=5)
    order, information = brute_force(x, labels, 1.01, 3, given=before)
    found = greedy_order(x, labels, before, method=method)
    assert found.order[:3] == tuple(order)
    assert found.information[:3] == pytest.approx(information, abs=1e-10)
    several = greedy_order(x, labels, [before, other], method=method)
    assert several.information[0] != pytest.approx(found.information[0], abs=1e-6)


def test_equal_maps_go_by_index_and_do_not_end_the_order():
    x, labels = layer(5, 6)
    doubled = x[[0, 0, 1, 1, 2, 2, 3, 3]]
    for method in ("exact", "hybrid", "pairs"):
        found = greedy_order(doubled, labels, method=method)
        first, second = found.order.index(found.order[0]), found.order.index(found.order[0] + 1)
        assert found.order[0] % 2 == 0
        assert first < second
        assert found.saturated_at > 4


def test_dead_maps_come_after_those_that_tell_something():
    x, labels = layer(6, 5, n=60, signal=0.3)
    x[1], x[3] = 0.0, 2.5
    for method in ("exact", "hybrid", "pairs", "quadratic"):
        assert greedy_order(x, labels, method=method).order[3:] == (1, 3)


def test_no_more_is_chosen_than_was_asked():
    x, labels = layer(7, 20)
    full = greedy_order(x, labels, tail="index")
    for method in ("exact", "hybrid", "pairs"):
        found = greedy_order(x, labels, method=method, max_steps=3, tail="index")
        assert found.saturated_at == 3
        assert found.order[3:] == tuple(sorted(found.order[3:]))
    assert greedy_order(x, labels, max_steps=3, tail="index").order[:3] == full.order[:3]
    assert greedy_order(x, labels, max_steps=99).order == greedy_order(x, labels).order


def test_a_coarse_resolution_ends_the_order_sooner():
    x, labels = layer(8, 40)
    fine, coarse = (greedy_order(x, labels, resolution=resolution) for resolution in (1e-12, 1e-4))
    assert coarse.saturated_at < fine.saturated_at
    assert coarse.order[: coarse.saturated_at] == fine.order[: coarse.saturated_at]


def test_a_narrow_screen_widens_itself():
    x, labels = layer(9, 60)
    assert greedy_order(x, labels, screen=1).evaluations > 60
    assert greedy_order(x, labels, screen=1).order[0] == greedy_order(x, labels, method="exact").order[0]


def test_the_geometric_mean_does_not_saturate():
    x, labels = layer(10, 40, n=30, d=12)
    product, mean = (greedy_order(x, labels, joint=joint, method="exact") for joint in ("product", "mean"))
    assert product.saturated_at < 40
    assert mean.saturated_at == 40
    assert mean.order[0] == product.order[0]
    K = gram(x).log().mean(dim=0).exp()
    L = label_gram(labels)
    expected = (entropy(K, 1.01) + entropy(L, 1.01) - entropy(K * L, 1.01)).item()
    assert mean.total == pytest.approx(expected, abs=1e-9)
    assert greedy_order(x, labels, joint="mean", method="hybrid").order[:10] == mean.order[:10]
    second = greedy_order(x, labels, joint="mean", method="pairs", alpha=2.0)
    assert second.order == greedy_order(x, labels, joint="mean", method="exact", alpha=2.0).order


def test_permuting_the_maps_permutes_the_order():
    x, labels = layer(11, 20)
    permutation = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    found, permuted = greedy_order(x, labels), greedy_order(x[permutation], labels)
    resolved = found.saturated_at
    assert tuple(permutation[list(permuted.order[:resolved])].tolist()) == found.order[:resolved]


def test_works_for_any_kernel_order_and_label_kernel():
    x, labels = layer(12, 12)
    for settings_ in (
        {"kernel": "cosine"},
        {"alpha": math.inf},
        {"alpha": 0.9},
        {"alpha": 40.0},
        {"label_kernel": "silverman", "width": "silverman"},
        {"width": "alignment", "convention": "s2", "label_kernel": 0.1},
        {"width": "layer"},
    ):
        hybrid = greedy_order(x, labels, **settings_)
        exact = greedy_order(x, labels, method="exact", **settings_)
        resolved = min(hybrid.saturated_at, exact.saturated_at)
        assert resolved > 2
        assert hybrid.order[:resolved] == exact.order[:resolved]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_handful_of_samples_is_enough(n):
    x, labels = points(1, n, variables=3), class_labels(1, n)
    for method in ("exact", "hybrid", "pairs", "quadratic"):
        assert sorted(greedy_order(x, labels, method=method).order) == [0, 1, 2]


def test_what_makes_no_sense_is_refused():
    x, labels = layer(1, 4)
    with pytest.raises(InputError, match="did you mean 'hybrid'"):
        greedy_order(x, labels, method="hybird")
    with pytest.raises(InputError, match="tail"):
        greedy_order(x, labels, tail="random")
    with pytest.raises(InputError, match="form of the joint"):
        greedy_order(x, labels, joint="sum")
    with pytest.raises(InputError, match="Gaussian"):
        greedy_order(x, labels, joint="mean", kernel="cosine")
    with pytest.raises(InputError, match="at least one map"):
        greedy_order(x, labels, max_steps=0)
    with pytest.raises(InputError, match="screen"):
        greedy_order(x, labels, screen=0)
    with pytest.raises(InputError, match="labels for 39"):
        greedy_order(x, labels, x[:, :39])
    with pytest.raises(InputError, match="alpha"):
        greedy_order(x, labels, alpha=0.0)
