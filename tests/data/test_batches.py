"""What a batch is, and how many there are."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from infoprune.data.batches import (
    Batch,
    FirstImages,
    check_repeatable,
    example_of,
    images_of,
    labelled,
    number_of_batches,
    number_of_images,
    parse,
    parsed,
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
        ({"image": torch.zeros(1, 1)}, "not dict"),
        ((torch.zeros(1, 1), 1, 2), "not tuple of Tensor, int, int"),
        ([], "not list of nothing"),
        (torch.zeros(3), r"not a tensor of shape \(3,\)"),
        (torch.zeros(0, 1), "a batch has no images"),
    ],
)
def test_anything_else_is_refused(batch, words):
    with pytest.raises(InputError, match=words):
        parse(batch)


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
    assert [labels.tolist() for _, labels in labelled(numbered(2, 1))] == [[0, 1], [2]]
