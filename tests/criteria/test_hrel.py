"""The relevance against the formulas, written out plainly with full eigen-problems."""

import numpy as np
import pytest
import torch

from infoprune.criteria import Filters, create, find
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


@pytest.mark.parametrize("rule", ["average", "moving", "batch", 2.5])
def test_it_is_the_mean_over_batches_of_the_information_about_the_labels(rule):
    maps, labels = draw()
    pieces = [(maps[i : i + 12].double().numpy(), labels[i : i + 12].numpy()) for i in (0, 12, 24)]
    best = [best_width(x.reshape(12, -1), y, 100 if i else 300) for i, (x, y) in enumerate(pieces)]
    moving = [best[0], 0.9 * best[0] + 0.1 * best[1]]
    moving.append(0.9 * moving[1] + 0.1 * best[2])
    widths = {"average": [np.mean(best)] * 3, "moving": moving, "batch": best, 2.5: [2.5] * 3}[rule]
    expected = np.mean([plain_relevance(x, y, s) for (x, y), s in zip(pieces, widths, strict=True)], axis=0)
    found = computed(maps, labels, sizes=7, batch=12, width=rule)
    assert np.allclose(found.evidence["widths"].numpy(), widths, rtol=1e-9)
    assert np.allclose(found.scores.numpy(), expected, atol=1e-9)
    assert np.allclose(found.evidence["relevance"].mean(dim=0).numpy(), expected, atol=1e-9)


def test_the_published_settings_are_the_default():
    maps, labels = draw(n=200)
    plain, published = computed(maps, labels), computed(maps, labels, batch=100, width="average", alpha=1.0)
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


def test_what_tells_the_classes_apart_is_relevant():
    maps, labels = draw(n=100)
    order = computed(maps, labels).order
    assert order[0] == 4
    assert set(order[-2:]) == {0, 1}


def test_wrong_options_are_named():
    maps, labels = draw()
    with pytest.raises(
        InputError, match="unknown width rule of the criterion 'hrel' 'averages': did you mean 'average'"
    ):
        computed(maps, labels, width="averages")
    with pytest.raises(InputError, match="at least 2 images, not 1"):
        computed(maps, labels, batch=1)
    with pytest.raises(InputError, match="width must be a positive number"):
        computed(maps, labels, width=-1.0)
