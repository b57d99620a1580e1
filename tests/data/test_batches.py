"""What a batch is, and how many there are."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from infoprune.data import batches as module
from infoprune.data.batches import (
    Batch,
    EveryNth,
    FirstImages,
    check_repeatable,
    example_of,
    examples_of,
    images_of,
    labelled,
    number_of_batches,
    number_of_images,
    parse,
    parsed,
    regrouped,
)
from infoprune.errors import InputError


def numbered(*sizes, labels=True):
    """Return batches whose images and labels count on from 0."""
    numbers = torch.arange(sum(sizes)).split(list(sizes))
    return [(some.float().view(-1, 1, 1, 1), some) if labels else some.float().view(-1, 1, 1, 1) for some in numbers]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(torch.arange(7.0).view(-1, 1, 1, 1))


@pytest.mark.parametrize("kind", [tuple, list])
def test_a_batch_is_images_or_images_and_labels(kind):
    images, labels = torch.randn(3, 1, 2, 2), torch.tensor([0, 1, 1])
    for batch, expected in ((images, None), (kind([images]), None), (kind([images, labels]), labels)):
        found = parse(batch)
        assert found.images is images
        assert found.classes() is expected
        assert len(found) == 3
        assert parse(found) is found


def test_labels_are_checked_only_where_they_are_read():
    odd = parse((torch.randn(3, 1, 2, 2), torch.rand(3, 4)))
    assert len(odd.first(2).images) == len(odd.first(2).labels) == 2
    with pytest.raises(InputError, match=r"one class index per image: 3 images came with torch.float32 labels"):
        odd.classes()
    with pytest.raises(InputError, match="one class index per image, as a tensor, not list"):
        Batch(torch.randn(2, 1), ["cat", "dog"]).classes()
    assert Batch(torch.randn(2, 1), [3, 4]).classes().tolist() == [3, 4]


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ("images", "not str"),
        ({"labels": torch.zeros(1)}, "or a dict with 'pixel_values' or 'images', as tensors, not dict"),
        ((1, torch.zeros(1, 1)), "not tuple of int, Tensor"),
        ([], "not list of nothing"),
        (torch.zeros(3), r"not a tensor of shape \(3,\)"),
        (torch.zeros(0, 1), "a batch has no images"),
    ],
)
def test_anything_else_is_refused(batch, words):
    with pytest.raises(InputError, match=words):
        parse(batch)


def test_dicts_hold_images_and_labels_and_what_else_is_in_a_batch_is_not_read():
    images, labels = torch.randn(3, 1, 2, 2), torch.tensor([0, 1, 1])
    for batch in ({"pixel_values": images, "labels": labels}, {"id": 5, "image": images, "y": labels}):
        assert parse(batch).images is images
        assert parse(batch).classes() is labels
    assert parse({"x": images}).labels is None
    assert parse((images, labels, torch.arange(3), "more")).classes() is labels


def test_labels_of_any_form_stay_with_their_images():
    images = torch.arange(6.0)[:, None]
    for labels in (torch.rand(6, 4), [f"class {number}" for number in range(6)]):
        third = [one for batch in EveryNth([(images, labels)], 3, chosen=True) for one in batch.labels]
        assert len(third) == 2
        assert all(one is labels[at] or torch.equal(one, labels[at]) for one, at in zip(third, (2, 5), strict=True))
        assert len(parse((images, labels)).first(4).labels) == 4
    assert parse((images, {"boxes": 1})).first(4).labels is None
    assert parse((images, torch.rand(6))).known_classes() is None


def test_there_is_one_example_of_every_size_and_random_numbers_stay():
    small, large = torch.zeros(3, 3, 8, 8), torch.zeros(3, 3, 16, 16)
    loader = DataLoader(TensorDataset(torch.cat([small, small])), batch_size=3, shuffle=True)
    model, numbers = nn.Conv2d(3, 1, 1), torch.rand(3)
    state = torch.get_rng_state()
    found = examples_of([small, (large, numbers), small], model)
    assert [tuple(one.shape) for one in found] == [(2, 3, 8, 8), (2, 3, 16, 16)]
    assert [tuple(one.shape) for one in examples_of(loader, model)] == [(2, 3, 8, 8)]
    assert torch.equal(torch.get_rng_state(), state)
    assert len(examples_of([torch.zeros(1, 3, side, 4) for side in range(1, 20)], model)) == 8
    with pytest.raises(InputError, match="more than once"):
        examples_of(iter([small]), model)


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6), limit=st.one_of(st.none(), st.integers(1, 40)))
def test_the_first_images_are_the_first_ones_and_counted_without_reading(sizes, limit):
    batches = FirstImages(numbered(*sizes), limit)
    read = list(batches)
    expected = sum(sizes) if limit is None else min(limit, sum(sizes))
    assert torch.cat([one.classes() for one in read]).tolist() == list(range(expected))
    assert torch.equal(torch.cat([one.images for one in read]).flatten(), torch.arange(expected).float())
    assert [len(one) for one in list(batches)] == [len(one) for one in read]  # again the same
    assert batches.most_images() >= expected
    if len(set(sizes[:-1])) <= 1 and sizes[-1] <= sizes[0]:  # batches of one size but the last
        assert batches.number_of_batches() == len(read)


def test_no_more_batches_are_read_than_needed():
    def endless():
        while True:
            yield torch.zeros(4, 1)

    assert [len(one) for one in FirstImages(endless(), 10)] == [4, 4, 2]


def test_batches_and_images_of_loaders_are_counted():
    loader = DataLoader(TensorDataset(torch.randn(10, 1, 2, 2), torch.arange(10)), batch_size=4)
    stream = DataLoader(Stream(), batch_size=3)
    assert (number_of_batches(loader), number_of_images(loader)) == (3, 10)
    assert (number_of_batches(stream), number_of_images(stream)) == (0, 7)
    assert FirstImages(loader, 5).number_of_batches() == 2
    assert FirstImages(loader).most_images() == 10
    dropping = DataLoader(loader.dataset, batch_size=4, drop_last=True)
    assert (number_of_batches(dropping), number_of_images(dropping)) == (2, 8)


def test_images_go_where_the_network_is_and_whole_numbers_stay_whole():
    model = nn.Linear(2, 1).double()
    assert next(images_of([torch.zeros(1, 2)], model)).dtype == torch.float64
    assert next(images_of([torch.zeros(1, 2).long()], model)).dtype == torch.int64
    assert next(images_of([torch.zeros(1, 2)], nn.ReLU())).dtype == torch.float32
    assert len(example_of(numbered(1, 5), model)) == 1
    assert len(example_of(numbered(5, 1), model)) == 2


def test_empty_single_use_and_unlabelled_batches_are_refused():
    with pytest.raises(InputError, match="the loader is empty"):
        next(parsed([]))
    with pytest.raises(InputError, match="more than once"):
        check_repeatable(iter(numbered(2)))
    with pytest.raises(InputError, match="images alone"):
        list(labelled(numbered(2, labels=False)))
    with pytest.raises(InputError, match="images and"):
        list(labelled([(torch.zeros(2, 6), torch.zeros(2).long())]))
    assert [labels.tolist() for _, labels in labelled(numbered(2, 1))] == [[0, 1], [2]]


def test_the_number_of_batches_of_the_first_images_is_known():
    """Processes divide the batches by their number, before they are read."""
    images = [torch.zeros(8, 1, 2, 2)] * 4
    loader = DataLoader(torch.zeros(32, 1, 2, 2), batch_size=8)
    for batches in (images, loader):
        assert [number_of_batches(FirstImages(batches, limit)) for limit in (None, 17, 16, 40)] == [4, 3, 2, 4]
    assert number_of_batches(FirstImages(iter(images))) == 0


def test_large_images_come_in_parts_with_their_labels(monkeypatch):
    monkeypatch.setattr(module, "_VALUES_AT_A_TIME", 3 * 8 * 8 * 4)
    images = torch.arange(10.0)[:, None, None, None].expand(10, 3, 8, 8)
    several = [
        (images, torch.arange(10)),
        {"images": images[:5], "labels": {"classes": torch.arange(5), "names": list("abcde")}},
        images[:3],
    ]
    found = [module.parse(batch) for batch in module.for_processor(several, images)]
    assert [len(batch) for batch in found] == [4, 4, 2, 4, 1, 3]
    assert torch.equal(torch.cat([batch.labels for batch in found[:3]]), torch.arange(10))
    assert found[4].labels["classes"].tolist() == [4]
    assert found[4].labels["names"] == ["e"]
    assert torch.equal(torch.cat([batch.images for batch in found[:3]]), images)


def test_an_image_above_the_limit_comes_alone():
    huge = torch.zeros(2, 3, 1200, 1200)
    assert [len(part) for part in module.in_parts(huge)] == [1, 1]


def test_a_loader_of_large_images_reads_fewer_at_a_time(monkeypatch):
    monkeypatch.setattr(module, "_VALUES_AT_A_TIME", 3 * 8 * 8 * 4)
    images = torch.arange(10.0)[:, None, None, None].expand(10, 3, 8, 8)
    pairs = torch.utils.data.TensorDataset(images, torch.arange(10))
    loader = torch.utils.data.DataLoader(pairs, batch_size=8)
    found = module.for_processor(loader, images)
    batches = [module.parse(batch) for batch in found]
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert torch.equal(torch.cat([batch.labels for batch in batches]), torch.arange(10))
    assert number_of_batches(FirstImages(found, 5)) == 2
    assert module.for_processor(found, images) is found


@pytest.mark.parametrize("how", [{"batch_size": 8, "drop_last": True}, {"batch_sampler": [[0, 1, 2], [3, 4]]}])
def test_a_loader_that_chooses_its_batches_itself_is_read_as_it_is(how):
    images = [torch.zeros(3, 224, 224)] * 8
    loader = torch.utils.data.DataLoader(images, **how)
    assert module.for_processor(loader, torch.stack(images[:2])) is loader


@pytest.mark.parametrize("size", [1, 3, 40, 50, 200])
def test_regrouped_batches_hold_the_same_images_in_their_order(size):
    images = torch.arange(200.0).reshape(-1, 1)
    found = list(regrouped(torch.split(images, size), lambda images: 64, least=32))
    assert torch.equal(torch.cat(found), images)
    assert all(32 <= len(some) <= 64 for some in found[:-1])


def test_images_of_other_shapes_are_not_put_together():
    images = [torch.zeros(3, 2), torch.zeros(5, 2), torch.zeros(3, 4)]
    assert [tuple(some.shape) for some in regrouped(images, lambda images: 64, 32)] == [(8, 2), (3, 4)]
