"""A sample of a stream: balanced, uniform, repeatable, and no more in memory than asked for."""

import weakref

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

import infoprune
from infoprune.data.given import as_batches
from infoprune.data.streams import sample_of
from infoprune.errors import InputError


def stream(images, classes=None, batch=10):
    """Images that hold their number, and their class."""
    for first in range(0, images, batch):
        numbers = torch.arange(first, min(first + batch, images))
        values = numbers.float()[:, None, None, None].expand(-1, 1, 2, 2).clone()
        yield values if classes is None else (values, numbers % classes)


def numbers(sample):
    return [int(image[0, 0, 0]) for batch in sample for image in (batch if torch.is_tensor(batch) else batch[0])]


def labels(sample):
    return torch.cat([some for _, some in sample])


@pytest.mark.parametrize(("classes", "count"), [(7, 70), (10, 33), (3, 100), (50, 20)])
def test_every_class_has_its_share(classes, count):
    sample = sample_of(stream(997, classes), count)
    counts = torch.bincount(labels(sample), minlength=classes)
    assert counts.sum() == count
    assert counts.max() - counts.min() <= 1


def test_labels_stay_with_their_images_and_the_order_is_that_of_the_stream():
    sample = sample_of(stream(300, 7), 50, batch_size=16)
    found = numbers(sample)
    assert found == sorted(set(found))
    assert [number % 7 for number in found] == labels(sample).tolist()
    assert [len(some) for some, _ in sample] == [16, 16, 16, 2]


def test_a_class_that_comes_late_has_its_share_and_a_rare_one_has_all_it_has():
    late = [(torch.zeros(10, 1, 2, 2), torch.zeros(10, dtype=torch.long))] * 50
    rare = [(torch.ones(2, 1, 2, 2), torch.ones(2, dtype=torch.long))]
    counts = torch.bincount(labels(sample_of(iter(late + rare), 40)))
    assert counts.tolist() == [20, 2]
    counts = torch.bincount(labels(sample_of(iter(late + rare * 30), 40)))
    assert counts.tolist() == [20, 20]


def test_every_image_is_drawn_as_often_as_any_other():
    """5,000 draws of 10 of 40 images: each is expected 1,250 times, with a standard deviation of 31."""
    for classes in (None, 2):
        times = torch.zeros(40)
        for seed in range(5000):
            times[numbers(sample_of(stream(40, classes), 10, seed=seed))] += 1
        assert (times - 1250).abs().max() < 5 * 31


def test_a_seed_repeats_the_sample():
    once, again, other = (numbers(sample_of(stream(500, 5), 20, seed=seed)) for seed in (0, 0, 1))
    assert once == again != other


def test_images_that_are_not_in_the_sample_are_let_go():
    alive = []

    def watched():
        for batch in stream(400, 4):
            alive.append(weakref.ref(batch[0]))
            yield batch

    sample = sample_of(watched(), 20)
    assert len(labels(sample)) == 20
    assert sum(one() is not None for one in alive) <= 1


def test_images_of_several_sizes_come_in_batches_of_one_size():
    mixed = [(torch.zeros(4, 1, size, size), torch.arange(4)) for size in (8, 8, 6)]
    assert [tuple(some.shape[2:]) for some, _ in sample_of(mixed, 12)] == [(8, 8), (6, 6)]


def test_nothing_and_too_few():
    with pytest.raises(InputError, match="the stream is empty"):
        sample_of(iter([]), 10)
    with pytest.raises(InputError, match="1 image or more"):
        sample_of(stream(10), 0)
    assert len(numbers(sample_of(stream(7), 10))) == 7


class Single(IterableDataset):
    """A stream of single images, as WebDataset yields them."""

    def __iter__(self):
        drawn = torch.Generator().manual_seed(0)
        for number in range(70):
            yield torch.rand(1, 8, 8, generator=drawn), number % 10


class Examples:
    """Examples by name, as Hugging Face datasets yield them with the format of PyTorch."""

    def with_format(self, kind):
        assert kind == "torch"
        return [{"image": image, "label": label} for image, label in Single()]


@pytest.mark.parametrize("images", [Single(), Examples()], ids=["stream", "examples by name"])
def test_data_sets_of_single_images_are_batched(images):
    first = next(iter(as_batches(images)))
    values = first["image"] if isinstance(first, dict) else first[0]
    assert values.shape == (64, 1, 8, 8)
    model = infoprune.zoo.build("digits").eval()
    direct = infoprune.prune(model, images, criterion="variance", macs=0.5, repair=None)
    loader = infoprune.prune(model, DataLoader(Single(), batch_size=64), criterion="variance", macs=0.5, repair=None)
    assert direct.plan.kept == loader.plan.kept
