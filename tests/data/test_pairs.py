"""Any batch is read as a pair, or as images alone where nobody reads the labels."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import infoprune
from infoprune.data.pairs import Pairs, as_pairs, examples_of, number_of_images
from infoprune.errors import InputError

IMAGES = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
CLASSES = torch.arange(6) % 3

FORMS = {
    "alone": IMAGES,
    "in a tuple": (IMAGES,),
    "class indices": (IMAGES, CLASSES),
    "numbers": (IMAGES, torch.rand(6)),
    "several numbers": [IMAGES, torch.rand(6, 4)],
    "masks": (IMAGES, torch.zeros(6, 8, 8).long()),
    "with an index": (IMAGES, CLASSES, torch.arange(6)),
    "a dict": {"pixel_values": IMAGES, "labels": torch.rand(6)},
    "boxes": {"image": IMAGES, "target": [{"boxes": torch.zeros(0, 4)}]},
}


def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)]
    return nn.Sequential(*layers).eval()


@pytest.mark.parametrize("form", FORMS)
def test_what_reads_no_labels_takes_any(form):
    expected = infoprune.plan(network(), [(IMAGES, CLASSES)], criterion="variance", ratio=0.5)
    result = infoprune.prune(network(), [FORMS[form]], criterion="variance", ratio=0.5)
    assert result.plan.kept == expected.kept
    assert result.plan.settings["calibration_images"] == 6


@pytest.mark.parametrize("form", ["numbers", "masks", "alone"])
def test_what_reads_labels_refuses_those_that_are_no_classes(form):
    with pytest.raises(InputError, match="labels"):
        infoprune.prune(network(), [FORMS[form]], criterion="hrel", ratio=0.5)


@pytest.mark.parametrize("batch", ["images", {"labels": CLASSES}, [], torch.zeros(3), (CLASSES, IMAGES)])
def test_what_holds_no_images_is_refused(batch):
    with pytest.raises(InputError, match="each batch must be images"):
        list(Pairs([batch], labels=False))


def test_a_loader_keeps_its_length_and_its_data():
    loader = DataLoader(TensorDataset(IMAGES, CLASSES), batch_size=4)
    pairs = as_pairs(loader, labels=True)
    assert (len(pairs), pairs.batch_size, len(pairs.dataset)) == (2, 4, 6)
    assert number_of_images(pairs) == 6
    assert as_pairs(pairs, labels=False) is pairs
    once = iter([IMAGES])
    assert as_pairs(once, labels=False) is once


def test_there_is_one_example_of_every_size_and_random_numbers_stay():
    small, large = torch.zeros(3, 3, 8, 8), torch.zeros(3, 3, 16, 16)
    state = torch.get_rng_state()
    assert [tuple(one.shape) for one in examples_of([small, large, small])] == [(2, 3, 8, 8), (2, 3, 16, 16)]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("kind", "pool", "shape"),
    [(nn.Conv1d, nn.AdaptiveAvgPool1d, (4, 2, 32)), (nn.Conv3d, nn.AdaptiveAvgPool3d, (4, 2, 6, 8, 8))],
)
def test_inputs_of_other_ranks(kind, pool, shape):
    model = nn.Sequential(kind(2, 8, 3), nn.ReLU(), kind(8, 6, 3), pool(1), nn.Flatten(), nn.Linear(6, 3)).eval()
    batch = (torch.randn(shape), torch.arange(4) % 3)
    result = infoprune.prune(model, [batch], criterion="variance", ratio=0.5, test=[batch])
    assert result.pruned.macs < result.base.macs
    assert result.pruned.images == 4
