"""Batches of every form reach a pruned network; labels are read only by what needs them."""

import pytest
import torch
from torch import nn

import infoprune
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


@pytest.mark.parametrize("form", ["numbers", "masks", "boxes", "alone"])
def test_what_reads_labels_refuses_those_that_are_no_classes(form):
    with pytest.raises(InputError, match="labels"):
        infoprune.prune(network(), [FORMS[form]], criterion="hrel", ratio=0.5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("words", [{"macs": 0.6}, {"max_loss": 100.0}])
def test_what_is_chosen_for_the_network_takes_any(form, words):
    result = infoprune.prune(network(), [FORMS[form]], effort="quick", **words)
    assert result.pruned.macs <= 0.6 * result.base.macs


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


@pytest.mark.parametrize("kind", [torch.int32, torch.uint8, torch.int16])
def test_class_indices_of_any_integer_type_are_read(kind):
    words = {"criterion": "hrel", "ratio": 0.5}
    wide = infoprune.prune(network(), [(IMAGES, CLASSES)], test=[(IMAGES, CLASSES)], **words)
    narrow = infoprune.prune(network(), [(IMAGES, CLASSES.to(kind))], test=[(IMAGES, CLASSES.to(kind))], **words)
    assert narrow.plan.kept == wide.plan.kept
    assert narrow.pruned.accuracy == wide.pruned.accuracy


def test_a_forward_that_objects_is_one_sentence():
    class Particular(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = network()

        def forward(self, x):
            assert x.shape[-1] == 224, "this network wants 224 pixels"
            return self.body(x)

    with pytest.raises(InputError, match=r"cannot read images of shape \(3, 8, 8\).* wants 224 pixels"):
        infoprune.prune(Particular().eval(), [IMAGES], criterion="l1", ratio=0.5)


def test_one_tensor_of_images_is_taken_everywhere():
    images = torch.randn(70, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    loader, whole = [(images[:64]), (images[64:])], network()
    plan = infoprune.plan(whole, images, criterion="variance", ratio=0.5)
    assert plan.kept == infoprune.plan(whole, loader, criterion="variance", ratio=0.5).kept
    small = infoprune.apply(plan, whole)
    repaired = infoprune.repair(small, whole, images, plan, method="bn")
    assert infoprune.repair(small, whole, loader, plan, method="bn").state_dict().keys() == repaired.state_dict().keys()
    with pytest.raises(InputError, match=r"images are \(n, C, H, W\) with n above 0"):
        infoprune.plan(whole, images[:0], criterion="variance", ratio=0.5)
