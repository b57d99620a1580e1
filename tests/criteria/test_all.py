"""What holds for every registered criterion, whatever it measures."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import infoprune.criteria as criteria
from infoprune.criteria import Filters, create
from infoprune.criteria.fsim import two_dimensional_entropy
from infoprune.entropy.ties import rounding, snapped
from infoprune.errors import InputError

NAMES = [info.name for info in criteria.all_criteria() if info.kind == "maps"]
READING = [name for name in NAMES if criteria.find(name).needs_maps]
ANY_SHAPE = [name for name in READING if not criteria.find(name).by_layer]
PICTURES = [name for name in READING if criteria.find(name).by_layer]
RANKING = [name for name in NAMES if name != "random"]
IMAGES, CLASSES = 24, 3


def draw(seed, filters=6, size=3):
    """Maps with a class signal of its own strength in every filter, weights, scales and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (IMAGES,), generator=generator)
    labels[:CLASSES] = torch.arange(CLASSES)
    patterns = torch.randn(filters, CLASSES, size, size, generator=generator)
    strength = torch.rand(filters, 1, 1, generator=generator) * 2
    noise = torch.randn(IMAGES, filters, size, size, generator=generator)
    maps = (noise + strength * patterns[:, labels].movedim(0, 1)).relu()
    weights = torch.randn(filters, 2, 3, 3, generator=generator)
    scales = torch.randn(filters, generator=generator)
    return maps, labels, Filters((weights, weights[:, :1] * 2), (scales, scales * 2), "layer")


def scored(name, maps, labels, filters, sizes=(IMAGES,), **options):
    criterion = create(criteria.find(name), filters, seed=1, options=options)
    for some, classes in zip(maps.split(list(sizes)), labels.split(list(sizes)), strict=True):
        criterion.update(some, classes)
    return criterion.compute()


def picked(filters, index):
    return Filters(
        tuple(weight[index] for weight in filters.weights), tuple(s[index] for s in filters.scales), filters.name
    )


def close(a, b):
    return torch.allclose(a.scores, b.scores, rtol=1e-9, atol=1e-12) and a.order == b.order


splits = st.lists(st.integers(1, IMAGES), min_size=1, max_size=6).map(
    lambda sizes: [*(cut := _capped(sizes)), IMAGES - sum(cut)] if sum(_capped(sizes)) < IMAGES else _capped(sizes)
)


def _capped(sizes):
    capped, left = [], IMAGES
    for size in sizes:
        size = min(size, left)
        if size:
            capped.append(size)
        left -= size
    return capped


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), sizes=splits)
def test_any_split_into_batches_scores_alike(name, seed, sizes):
    maps, labels, filters = draw(seed)
    assert close(scored(name, maps, labels, filters, sizes), scored(name, maps, labels, filters))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), sizes=splits, cut=st.integers(0, IMAGES))
def test_two_halves_merged_equal_the_whole(name, seed, sizes, cut):
    maps, labels, filters = draw(seed)
    first, second = (create(criteria.find(name), filters, seed=1) for _ in range(2))
    for half, part in ((first, slice(None, cut)), (second, slice(cut, None))):
        if len(maps[part]):
            half.update(maps[part], labels[part])
    first.merge(second)
    assert close(first.compute(), scored(name, maps, labels, filters, sizes))


@pytest.mark.parametrize("name", RANKING)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), order=st.permutations(range(6)))
def test_a_permutation_of_the_filters_permutes_the_scores(name, seed, order):
    maps, labels, filters = draw(seed)
    if name == "fsim":
        # Of a pair the map with less entropy goes. Where counts of levels are equal the index decides, and it changes.
        richness = torch.stack([two_dimensional_entropy(image) for image in maps]).mean(dim=0)
        assume(len(snapped(richness).unique()) == len(richness))
    plain = scored(name, maps, labels, filters)
    permuted = scored(name, maps[:, order], labels, picked(filters, order))
    # Of pairs whose similarity differs by less than the precision of the maps QSFM takes the one with the lower index.
    largest = {"qsfm-psnr": 100.0, "qsfm-ssim": 1.0, "qsfm": 1.0}.get(name, 0.0)
    near = max(largest * rounding(maps.dtype, 1), 1e-12)
    assert torch.allclose(permuted.scores, plain.scores[list(order)], rtol=1e-9, atol=near)
    found = [order[i] for i in permuted.order]
    assert torch.allclose(plain.scores[found], plain.scores[list(plain.order)], rtol=1e-9, atol=near)
    # Equal scores, as of counts, go by the index, which a permutation changes.
    assert found == list(plain.order) or plain.scores.sort().values.diff().min() <= near


@pytest.mark.parametrize("name", RANKING)
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000), dead=st.sets(st.integers(0, 5), min_size=1, max_size=5), value=st.sampled_from([0, 0.7])
)
def test_dead_filters_are_finite_and_last(name, seed, dead, value):
    maps, labels, filters = draw(seed)
    dead = sorted(dead)
    maps[:, dead] = value
    for tensor in (*filters.weights, *filters.scales):
        tensor[dead] = 0
    found = scored(name, maps, labels, filters)
    assert torch.isfinite(found.scores).all()
    assert list(found.order[-len(dead) :]) == dead
    assert found.scores[dead].max() < min(found.scores[[i for i in range(6) if i not in dead]])


@pytest.mark.parametrize("name", READING)
def test_a_layer_of_dead_filters_only_has_an_order(name):
    maps, labels, filters = draw(0)
    for value in (0, 3.0):
        found = scored(name, torch.full_like(maps, value), labels, filters)
        assert torch.isfinite(found.scores).all()
        assert found.order == tuple(range(6))


@pytest.mark.parametrize("name", RANKING)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), twins=st.permutations(range(6)).map(lambda order: sorted(order[:2])))
def test_of_duplicated_filters_the_lowest_index_is_kept(name, seed, twins):
    maps, labels, filters = draw(seed)
    low, high = twins
    for tensor in (maps.mT.movedim(0, 1), *filters.weights, *filters.scales):
        tensor[high] = tensor[low]
    order = scored(name, maps, labels, filters).order
    assert order.index(low) < order.index(high)


@pytest.mark.parametrize("name", NAMES)
def test_the_answer_is_as_agreed(name):
    maps, labels, filters = draw(0)
    found = scored(name, maps, labels, filters)
    assert found.scores.shape == (6,)
    assert found.scores.dtype == torch.float64
    assert sorted(found.order) == list(range(6))
    ranked = found.scores[list(found.order)]
    assert (ranked[:-1] >= ranked[1:]).all()


@pytest.mark.parametrize("name", ANY_SHAPE)
def test_a_coupled_group_of_several_layers_is_scored(name):
    maps, labels, filters = draw(0)
    flat = maps.flatten(2)[:, :, None]
    assert close(scored(name, flat, labels, filters), scored(name, maps, labels, filters))


@pytest.mark.parametrize("name", READING)
def test_a_single_filter_is_scored(name):
    maps, labels, filters = draw(0, filters=1)
    assert scored(name, maps, labels, filters).order == (0,)


@pytest.mark.parametrize("name", PICTURES)
def test_what_looks_at_pictures_refuses_single_rows(name):
    maps, labels, filters = draw(0)
    for some in (maps.flatten(2)[:, :, None], maps[:, :, :1, :1]):
        with pytest.raises(InputError, match=f"the criterion '{name}' needs feature maps of several rows and columns"):
            scored(name, some, labels, filters)


@pytest.mark.parametrize("name", ANY_SHAPE)
def test_maps_of_one_position_are_scored(name):
    maps, labels, filters = draw(0, size=1)
    assert torch.isfinite(scored(name, maps, labels, filters).scores).all()


@pytest.mark.parametrize("name", READING)
def test_without_maps_the_layer_is_named(name):
    with pytest.raises(InputError, match="layer 'layer' cannot be scored: there are no feature maps"):
        create(criteria.find(name), draw(0)[2]).compute()


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_option_is_named(name):
    with pytest.raises(InputError, match=f"unknown option of the criterion '{name}' 'colour'"):
        create(criteria.find(name), draw(0)[2], options={"colour": 1})


def test_what_a_criterion_is_made_of_is_no_option():
    for name, settled in (("l1", "power"), ("qsfm", "measure"), ("random", "seed")):
        with pytest.raises(InputError, match=f"unknown option of the criterion '{name}' '{settled}'"):
            create(criteria.find(name), draw(0)[2], options={settled: 1})


def test_every_criterion_says_what_it_is():
    for info in criteria.all_criteria():
        assert info.description
        assert info.cost or info.holds_maps or info.needs_maps
    assert {"random", "l1", "l2", "bn-scale", "variance", "cmi", "hrel", "qsfm", "qsfm-ssim", "qsfm-psnr"} <= set(NAMES)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", READING)
def test_a_gpu_gives_the_same_scores(name):
    maps, labels, filters = draw(0)
    on_gpu = scored(name, maps.cuda(), labels.cuda(), filters)
    assert on_gpu.scores.device.type == "cpu"
    assert torch.allclose(on_gpu.scores, scored(name, maps, labels, filters).scores, rtol=1e-6, atol=1e-8)
