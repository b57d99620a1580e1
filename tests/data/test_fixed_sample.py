"""A sample is the same in every pass, and comes first among all images."""

from functools import partial
from importlib import import_module

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    SequentialSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import infoprune
from infoprune.data.batches import FirstImages, parse
from infoprune.data.fixed_sample import fixed_sample, read_once

run = import_module("infoprune.repair.run")
NUMBERS = torch.arange(23.0)[:, None]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(NUMBERS)


def read(batches):
    return torch.cat([parse(batch).images for batch in batches]).flatten().tolist()


LOADERS = {
    "in order": lambda: DataLoader(NUMBERS, batch_size=4),
    "shuffled": lambda: DataLoader(NUMBERS, batch_size=4, shuffle=True),
    "without the last": lambda: DataLoader(NUMBERS, batch_size=4, shuffle=True, drop_last=True),
    "with labels": lambda: DataLoader(TensorDataset(NUMBERS, torch.arange(23)), batch_size=4, shuffle=True),
    "a list": lambda: list(NUMBERS.split(5)),
}


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("most", [1, 5, 10, 22, 23, 100])
def test_a_sample_is_fixed_and_all_images_begin_with_it(name, most):
    few, every = fixed_sample(LOADERS[name](), most)
    found = read(few)
    assert found == read(few)
    assert len(found) == min(most, 23)
    assert read(every)[: len(found)] == found
    assert read(every) == read(every)
    assert sorted(read(every)) == NUMBERS.flatten().tolist()


def test_few_images_in_order_stay_as_they_are():
    loader = LOADERS["in order"]()
    assert fixed_sample(loader, 23) == (loader, loader)


def test_of_a_set_sorted_by_class_every_class_is_drawn():
    labels = torch.arange(1000) // 100
    few, _ = fixed_sample(DataLoader(TensorDataset(torch.zeros(1000, 1), labels), batch_size=50), 100)
    assert set(torch.cat([batch[1] for batch in few]).tolist()) == set(range(10))


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(Stream(), batch_size=4),
        DataLoader(NUMBERS, batch_size=4, sampler=WeightedRandomSampler([1.0] * 23, 12)),
        DataLoader(NUMBERS, batch_sampler=[[3, 1], [2]] * 6),
        DataLoader(NUMBERS, batch_size=None, sampler=BatchSampler(SequentialSampler(NUMBERS), 4, drop_last=False)),
    ],
    ids=["a stream", "a sampler", "a batch sampler", "batches as items"],
)
def test_what_draws_its_images_itself_gives_the_first(loader):
    few, every = fixed_sample(loader, 6)
    assert isinstance(few, FirstImages)
    assert len(read(few)) == 6
    assert every is loader


@pytest.mark.parametrize(("labels", "sizes"), [("tensor", [4, 3]), ("mapping", [4, 3]), ("list", [1] * 7)])
def test_the_sample_of_a_list_has_batches_as_large_as_the_list(labels, sizes):
    """A few images of each of many batches would take a forward pass each."""
    forms = {
        "tensor": lambda some: some[:, 0],
        "mapping": lambda some: {"of": some[:, 0]},
        "list": lambda some: [*some],
    }
    batches = [(some, forms[labels](some)) for some in torch.arange(28.0)[:, None].split(4)]
    few, _ = fixed_sample(batches, 7)
    assert [len(batch) for batch in few] == sizes
    for batch in few:
        kept = batch.labels["of"] if labels == "mapping" else batch.labels
        assert torch.equal(torch.as_tensor(kept).flatten(), batch.images.flatten())


@pytest.mark.parametrize("method", [info.name for info in infoprune.all_repairs()])
def test_images_that_are_read_in_every_pass_repair_alike(monkeypatch, method):
    """As many photos as memory does not hold, here small ones and no memory."""
    torch.manual_seed(0)
    model = infoprune.zoo.build("digits").eval()
    images = TensorDataset(torch.rand(60, 1, 8, 8), torch.arange(60) % 10)
    loader = DataLoader(images, batch_size=16)
    plan = infoprune.plan(model, loader, criterion="l1", macs=0.5)
    small = infoprune.apply(plan, model)
    how = {"epochs": 1} if method == "distil" else {}

    def repaired():
        torch.manual_seed(0)
        return infoprune.repair(small, model, loader, plan, method=method, **how).state_dict()

    kept = repaired()
    monkeypatch.setattr(run, "read_once", partial(read_once, most=0))
    again = repaired()
    assert all(torch.equal(kept[name], again[name]) for name in kept)
