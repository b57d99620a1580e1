"""Networks that return several tensors, pruned with a metric of the user's: what is measured and what may be lost."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchmetrics import MeanSquaredError
from torchmetrics.classification import MulticlassJaccardIndex

import infoprune
from infoprune.errors import InputError


class Segmenter(nn.Module):
    """A class for every pixel, in a dict, as torchvision's segmentation networks return them."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())
        self.classifier, self.count = nn.Conv2d(16, 3, 1), nn.Linear(16, 1)

    def forward(self, images):
        maps = self.body(images)
        return {"out": self.classifier(maps), "count": self.count(maps.mean((2, 3)))}


class Detector(nn.Module):
    """A class and a box for every image."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()
        )
        self.kind, self.box = nn.Linear(16 * 36, 2), nn.Linear(16 * 36, 4)

    def forward(self, images):
        maps = self.body(images).flatten(1)
        return self.kind(maps), self.box(maps)


def drawn(count, seed):
    """Return images of one rectangle each, its mask and its box; bright ones are of class 2, dark ones of class 1."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.1 * torch.randn(count, 1, 12, 12, generator=generator)
    masks, boxes = torch.zeros(count, 12, 12, dtype=torch.long), torch.zeros(count, 4)
    kinds = torch.arange(count) % 2
    for i in range(count):
        top, left = torch.randint(0, 7, (2,), generator=generator).tolist()
        height, width = torch.randint(3, 6, (2,), generator=generator).tolist()
        place = slice(top, top + height), slice(left, left + width)
        images[i, 0][place] += 1.0 if kinds[i] else -1.0
        masks[i][place] = 1 + kinds[i]
        boxes[i] = torch.tensor([top, left, top + height, left + width]) / 12
    return images, masks, kinds, boxes


def fitted(model, loss, targets, images, steps=150):
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model(images), targets).backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def segmentation():
    torch.manual_seed(0)
    images, masks, _, _ = drawn(96, 1)
    model = fitted(Segmenter(), lambda found, wanted: F.cross_entropy(found["out"], wanted), masks, images)
    more, wanted, _, _ = drawn(64, 2)
    return model, [(images[i : i + 32], masks[i : i + 32]) for i in (0, 32, 64)], [(more, wanted)]


@pytest.fixture(scope="module")
def detection():
    torch.manual_seed(0)
    images, _, kinds, boxes = drawn(96, 1)

    def loss(found, wanted):
        return F.cross_entropy(found[0], wanted["kinds"]) + 10 * F.mse_loss(found[1], wanted["boxes"])

    model = fitted(Detector(), loss, {"kinds": kinds, "boxes": boxes}, images)
    more, _, others, places = drawn(64, 2)
    parts = [(images[i : i + 32], {"kinds": kinds[i : i + 32], "boxes": boxes[i : i + 32]}) for i in (0, 32, 64)]
    return model, parts, [(more, {"kinds": others, "boxes": places})]


def out(found):
    return found["out"]


def mean_iou(model, batches):
    """Return the mean over the classes of intersection over union, by counting pixels."""
    with torch.no_grad():
        named = torch.cat([model(images)["out"].argmax(1) for images, _ in batches])
    wanted = torch.cat([masks for _, masks in batches])
    shares = [((named == k) & (wanted == k)).sum() / ((named == k) | (wanted == k)).sum() for k in range(3)]
    return float(sum(shares) / 3)


def box_overlap(outputs, targets):
    """Return the mean intersection over union of the boxes, 0 where the class is wrong."""
    kinds, boxes = outputs
    low = torch.maximum(boxes[:, :2], targets["boxes"][:, :2])
    high = torch.minimum(boxes[:, 2:], targets["boxes"][:, 2:])
    area = lambda some: (some[:, 2:] - some[:, :2]).clamp(min=0).prod(1)  # noqa: E731
    both = (high - low).clamp(min=0).prod(1)
    shares = both / (area(boxes) + area(targets["boxes"]) - both)
    return (shares * (kinds.argmax(1) == targets["kinds"])).mean()


@pytest.mark.parametrize("metric", ["miou", MulticlassJaccardIndex(3)], ids=["name", "torchmetrics"])
def test_a_segmentation_network_is_pruned_and_measured_by_mean_iou(segmentation, metric):
    model, batches, test = segmentation
    result = infoprune.prune(model, batches, macs=0.6, metric=metric, output=out, test=test, effort="quick")
    assert result.pruned.macs <= 0.6 * result.base.macs
    assert result.base.metric == pytest.approx(mean_iou(model, test), abs=1e-5)
    assert result.pruned.metric == pytest.approx(mean_iou(result.model, test), abs=1e-5)
    assert result.base.metric > 0.7
    assert result.pruned.accuracy is None
    assert result.record()["pruned"]["metric_name"] in ("miou", "MulticlassJaccardIndex")
    assert result.automatic["repairs"]["least-squares"]["images"] > 0


def test_a_segmentation_network_loses_no_more_mean_iou_than_allowed(segmentation):
    model, batches, _ = segmentation
    found = {}
    for most in (1.0, 15.0):
        result = infoprune.prune(model, batches, max_loss=most, metric="miou", output=out, effort="quick")
        judges = [(torch.cat([x for x, _ in batches])[4::5], torch.cat([y for _, y in batches])[4::5])]
        assert 100 * (mean_iou(model, judges) - mean_iou(result.model, judges)) <= most + 1e-4
        allowed = [one for one in result.automatic["tried"] if one["allowed"]]
        assert all(one["loss"] <= most for one in allowed)
        found[most] = result.pruned.macs / result.base.macs
    assert found[15.0] < found[1.0] < 1


def test_a_detector_with_two_outputs_is_pruned_by_a_function_of_the_user(detection):
    model, batches, test = detection
    before = copy.deepcopy(model.state_dict())
    result = infoprune.prune(model, batches, max_loss=5, metric=box_overlap, test=test, effort="quick")
    with torch.no_grad():
        value = float(box_overlap(result.model(test[0][0]), test[0][1]))
        whole = float(box_overlap(model(test[0][0]), test[0][1]))
    assert (result.base.metric, result.pruned.metric) == (pytest.approx(whole), pytest.approx(value))
    assert result.base.metric > 0.5
    assert result.pruned.macs < result.base.macs
    assert result.pruned.metric_name == "box_overlap"
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_of_an_error_less_is_better(detection):
    model, batches, _ = detection
    boxes = [(images, targets["boxes"]) for images, targets in batches]
    result = infoprune.prune(
        model, boxes, max_loss=0.5, metric=MeanSquaredError(), output=lambda found: found[1], effort="quick"
    )
    images, wanted = (torch.cat(parts)[4::5] for parts in zip(*boxes, strict=True))
    with torch.no_grad():
        errors = [float(F.mse_loss(one(images)[1], wanted)) for one in (model, result.model)]
    assert 100 * (errors[1] - errors[0]) <= 0.5
    assert result.pruned.macs < result.base.macs


def test_sensitivity_and_sweep_measure_the_metric_as_well(segmentation):
    model, batches, _ = segmentation
    found = infoprune.sensitivity(model, batches, (0.25, 0.75), metric="miou", output=out)
    assert {one.layer for one in found} == {"body.0", "body.2"}
    assert all(one.divergence > 0 for one in found)
    lost = {(one.layer, one.ratio): one.loss for one in found}
    assert lost["body.0", 0.25] < lost["body.0", 0.75] <= 100
    points = infoprune.sweep(model, batches, (0.5, 0.8), effort="quick", metric="miou", output=out)
    judges = [(torch.cat([x for x, _ in batches])[4::5], torch.cat([y for _, y in batches])[4::5])]
    assert [point.metric for point in points] == pytest.approx([mean_iou(p.model, judges) for p in points], abs=1e-5)
    assert infoprune.sweep(model, batches, (0.8,), effort="quick")[0].metric is None


def test_without_an_output_all_tensors_are_compared(segmentation):
    model, batches, _ = segmentation
    images = [images for images, _ in batches]
    result = infoprune.prune(model, images, macs=0.7, effort="normal")
    assert result.automatic["repairs"]["alternating"]["divergence"] > 0
    assert result.pruned.metric is None


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"macs": 0.5, "metric": "miou", "output": out}, "pass one of them with it"),
        ({"max_loss": 1.0}, "choose the .n, classes. outputs by 'output'"),
        ({"max_loss": 1.0, "metric": "miou"}, "needs .n, classes, .... outputs"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_the_work(segmentation, words, sentence):
    model, batches, _ = segmentation
    stages = []
    with pytest.raises(InputError, match=sentence):
        infoprune.prune(model, batches, progress=lambda stage, done, total: stages.append(stage), **words)
    assert "scoring" not in " ".join(stages)


def test_images_without_targets_are_refused_and_pixels_can_agree(segmentation):
    model, batches, _ = segmentation
    images = [images for images, _ in batches]
    with pytest.raises(InputError, match="needs targets"):
        infoprune.prune(model, images, max_loss=1, metric="miou", output=out)
    result = infoprune.prune(model, images, max_loss=5, output=out, effort="quick")
    held = torch.cat(images)[4::5]
    with torch.no_grad():
        same = (model(held)["out"].argmax(1) == result.model(held)["out"].argmax(1)).double().mean()
    assert 100 * same >= 95
    assert result.pruned.macs < result.base.macs
