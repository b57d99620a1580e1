"""The relevance against the formulas, written out plainly with full eigen-problems."""

import numpy as np
import pytest
import torch

from infoprune.criteria import Filters, create, find
from infoprune.entropy.distances import Distances
from infoprune.errors import InputError


def entropy(K):
    eigenvalues = np.linalg.eigvalsh(K / np.trace(K))
    eigenvalues = eigenvalues[eigenvalues > 1e-14]
    return -(eigenvalues * np.log2(eigenvalues)).sum()


def distances(x):
    return ((x[:, None] - x[None]) ** 2).sum(-1)


def best_width(x, labels, points):
    same, d2 = labels[:, None] == labels[None], distances(x)
    grid = np.linspace(0.3, 10 * np.sqrt(d2).mean(), points)
    alignments = []
    for s in grid:
        K = np.exp(-d2 / s**2)
        alignments.append((K * same).sum() / np.sqrt((K**2).sum() * same.sum()))
    return grid[int(np.argmax(alignments))]


def plain_relevance(maps, labels, s):
    same = (labels[:, None] == labels[None]).astype(float)
    found = []
    for c in range(maps.shape[1]):
        K = np.exp(-distances(maps[:, c].reshape(len(maps), -1)) / s**2)
        found.append(entropy(K) + entropy(same) - entropy(K * same))
    return np.array(found)


def smoothed(best):
    """The published moving average: 0.9 of the past and 0.1 of the present."""
    found = best[:1]
    for width in best[1:]:
        found.append(0.9 * found[-1] + 0.1 * width)
    return found


def draw(n=36, filters=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (n,), generator=generator)
    strength = torch.linspace(0, 1.5, filters)[:, None, None]
    patterns = torch.randn(4, filters, 3, 3, generator=generator)
    return torch.randn(n, filters, 3, 3, generator=generator) + strength * patterns[labels], labels


def computed(maps, labels, sizes=None, **options):
    criterion = create(find("hrel"), Filters((), (), "conv"), options=options)
    for part, some in zip(maps.split(sizes or len(maps)), labels.split(sizes or len(maps)), strict=True):
        criterion.update(part, some)
    return criterion.compute()


@pytest.mark.parametrize("of", ["layer", "filter"])
@pytest.mark.parametrize("rule", ["average", "moving", "batch", 2.5])
def test_it_is_the_mean_over_batches_of_the_information_about_the_labels(rule, of):
    maps, labels = draw()
    pieces = [(maps[i : i + 12].double().numpy(), labels[i : i + 12].numpy()) for i in (0, 12, 24)]
    seen = [slice(None)] if of == "layer" else [slice(c, c + 1) for c in range(maps.shape[1])]
    best = [
        np.squeeze([best_width(x[:, part].reshape(12, -1), y, 100 if i else 300) for part in seen])
        for i, (x, y) in enumerate(pieces)
    ]
    widths = {"average": [np.mean(best, axis=0)] * 3, "moving": smoothed(best), "batch": best, 2.5: [2.5] * 3}[rule]
    each = [
        np.concatenate([
            plain_relevance(x[:, c : c + 1], y, s) for c, s in enumerate(np.broadcast_to(width, maps.shape[1]))
        ])
        for (x, y), width in zip(pieces, widths, strict=True)
    ]  # fmt: skip
    expected = np.mean(each, axis=0)
    found = computed(maps, labels, sizes=7, batch=12, width=rule, width_of=of)
    assert np.allclose(found.evidence["widths"].numpy(), widths, rtol=1e-9)
    assert np.allclose(found.scores.numpy(), expected, atol=1e-9)
    assert found.order == tuple(np.argsort(-expected, kind="stable"))
    assert np.allclose(found.evidence["relevance"].mean(dim=0).numpy(), expected, atol=1e-9)


def test_order_two_is_the_log_of_squared_norms():
    maps, labels = draw()
    x, y = maps.double().numpy(), labels.numpy()
    same = (y[:, None] == y[None]).astype(float)
    expected = []
    for c in range(maps.shape[1]):
        K = np.exp(-distances(x[:, c].reshape(36, -1)) / 2.0**2)
        alone, both = (-np.log2((M**2).sum() / 36**2) for M in (K, K * same))
        expected.append(alone - np.log2((same**2).sum() / 36**2) - both)
    found = computed(maps, labels, batch=36, width=2.0, alpha=2.0)
    assert np.allclose(found.scores.numpy(), expected, atol=1e-5)
    assert found.order == tuple(np.argsort(-np.array(expected), kind="stable"))


def test_the_published_settings_are_the_default():
    maps, labels = draw(n=200)
    published = computed(maps, labels, batch=100, width="average", width_of="layer", alpha=1.0, stable=None)
    plain = computed(maps, labels)
    assert torch.equal(plain.scores, published.scores)
    assert len(plain.evidence["widths"]) == 2


def test_only_whole_batches_count_unless_there_is_none():
    maps, labels = draw()
    assert torch.equal(computed(maps, labels, batch=15).scores, computed(maps[:30], labels[:30], batch=15).scores)
    assert torch.equal(computed(maps, labels, batch=100).scores, computed(maps, labels, batch=36).scores)


def test_halves_of_whole_batches_merge_to_the_whole():
    maps, labels = draw()
    halves = [create(find("hrel"), Filters(()), options={"batch": 6}) for _ in range(2)]
    halves[0].update(maps[:18], labels[:18])
    halves[1].update(maps[18:], labels[18:])
    halves[0].merge(halves[1])
    assert torch.equal(halves[0].compute().scores, computed(maps, labels, batch=6).scores)


@pytest.mark.parametrize(("side", "kept", "bytes_of_an_image"), [(2, torch.Tensor, 3 * 4 * 4), (20, Distances, 3 * 80)])
def test_distances_of_images_are_held_where_they_are_smaller_than_maps(side, kept, bytes_of_an_image):
    drawn = torch.Generator().manual_seed(0)
    maps, labels = torch.rand(40, 3, side, side, generator=drawn), torch.arange(40) % 3
    criterion = create(find("hrel"), Filters(()), options={"batch": 10})
    criterion.update(maps, labels)
    held = [x for x, _ in criterion.held]
    assert [type(x) for x in held] == [kept] * 4
    assert sum(getattr(x, "values" if kept is Distances else "data").nbytes for x in held) == 40 * bytes_of_an_image
    found = criterion.compute().evidence
    of_batches = zip(maps.double().numpy().reshape(4, 10, 3, -1), labels.numpy().reshape(4, 10), strict=True)
    by_hand = [plain_relevance(some, of, float(found["widths"][0])) for some, of in of_batches]
    assert np.allclose(found["relevance"].numpy(), by_hand, atol=1e-6)


@pytest.mark.parametrize("sizes", [7, 6, 64, 90])
def test_after_ten_batches_their_mean_width_is_the_layers_and_no_more_than_theirs_are_held(sizes):
    maps, labels = draw(n=90)
    best = [
        best_width(maps[i : i + 6].reshape(6, -1).double().numpy(), labels[i : i + 6].numpy(), 100 if i else 300)
        for i in range(0, 60, 6)
    ]
    criterion = create(find("hrel"), Filters(()), options={"batch": 6, "stable": None})
    most = 0
    for part, some in zip(maps.split(sizes), labels.split(sizes), strict=True):
        criterion.update(part, some)
        most = max(most, sum(len(some) for _, some in [*criterion.waiting, *criterion.held]))
    found = criterion.compute()
    assert most < 60
    assert np.allclose(found.evidence["widths"].numpy(), np.mean(best), rtol=1e-9)
    assert found.evidence["relevance"].shape == (15, 5)


def test_it_stops_once_half_of_the_batches_rank_like_all_of_them():
    maps, labels = draw(n=640, filters=12)
    every = computed(maps, labels, sizes=10, batch=10, width=3.0, stable=None).evidence["relevance"]
    assert len(every) == 64
    correlations = {
        b: np.corrcoef(*(np.argsort(np.argsort(every[:part].mean(dim=0).numpy())) for part in (b // 2, b)))[0, 1]
        for b in (4, 8, 16, 32, 64)
    }
    stable = sorted(correlations.values())[2]
    criterion = create(find("hrel"), Filters(()), options={"batch": 10, "width": 3.0, "stable": stable - 1e-9})
    read = 0
    for part, some in zip(maps.split(10), labels.split(10), strict=True):
        if not criterion.settled:
            criterion.update(part, some)
            read += 1
    first = next(b for b, correlation in correlations.items() if correlation >= stable - 1e-9)
    assert read == first < 64
    assert torch.equal(criterion.compute().scores, every[:first].mean(dim=0))


def test_what_tells_the_classes_apart_is_relevant():
    maps, labels = draw(n=100)
    order = computed(maps, labels).order
    assert order[0] == 4
    assert set(order[-2:]) == {0, 1}


def test_wrong_options_are_named():
    maps, labels = draw()
    with pytest.raises(InputError, match="option 'width' of the criterion 'hrel' .* not 'averages'.* mean 'average'"):
        computed(maps, labels, width="averages")
    with pytest.raises(
        InputError,
        match="option 'width_of' of the criterion 'hrel' takes one of layer, filter, not 'layers'",
    ):
        computed(maps, labels, width_of="layers")
    with pytest.raises(InputError, match="above 0 and at most 1, not 1.5"):
        computed(maps, labels, stable=1.5)
    with pytest.raises(InputError, match="at least 2 images, not 1"):
        computed(maps, labels, batch=1)
    with pytest.raises(InputError, match="width must be a positive number"):
        computed(maps, labels, width=-1.0)


def test_images_of_one_class_are_refused():
    found = find("hrel").factory(Filters((torch.zeros(4, 3),), (), "conv"))
    found.update(torch.randn(20, 4, 3, 3), torch.full((20,), 7))
    with pytest.raises(InputError, match="all calibration images are of class 7"):
        found.compute()
