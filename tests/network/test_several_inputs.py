"""Networks that take several inputs, or inputs by keyword, are pruned as they are."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

import infoprune
from infoprune.errors import InputError

SAMPLES = 24


def drawn():
    return torch.Generator().manual_seed(0)


class Pair(nn.Module):
    """Two images of different sizes by position, and an index by keyword only."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.left = nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU())
        self.right = nn.Sequential(nn.Conv2d(2, 12, 3), nn.ReLU(), nn.Conv2d(12, 16, 3), nn.ReLU())
        self.place = nn.Embedding(4, 32)
        self.head = nn.Linear(32, 5)

    def forward(self, left, right, *, which):
        maps = torch.cat([self.left(left).mean((2, 3)), self.right(right).mean((2, 3))], 1)
        return self.head(maps + self.place(which))


class Keyword(nn.Module):
    """One image, by keyword only."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.ReLU())
        self.head = nn.Linear(8, 5)

    def forward(self, *, pixel_values):
        return self.head(self.body(pixel_values).mean((2, 3)))


class Positions(nn.Module):
    """Two images of one size, by position."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.ReLU())
        self.head = nn.Linear(8, 5)

    def forward(self, a, b):
        return self.head((self.body(a) - self.body(b)).mean((2, 3)))


def images(channels, height, width):
    return torch.randn(SAMPLES, channels, height, width, generator=drawn())


LABELS = torch.arange(SAMPLES) % 5
CASES = {
    "keywords": (Pair, {"left": images(1, 10, 10), "right": images(2, 8, 12), "which": LABELS % 4, "labels": LABELS}),
    "one keyword": (Keyword, {"pixel_values": images(3, 9, 9), "labels": LABELS}),
    "positions": (Positions, ((images(3, 9, 9), images(3, 9, 9).flip(0)), LABELS)),
    "a dict and labels": (Positions, ({"a": images(3, 9, 9), "b": images(3, 9, 9).flip(0)}, LABELS)),
}


def call(model, batch):
    if isinstance(batch, dict):
        return model(**{name: one for name, one in batch.items() if name != "labels"})
    inputs = batch[0]
    return model(**inputs) if isinstance(inputs, dict) else model(*inputs)


@pytest.fixture(params=CASES)
def case(request):
    build, batch = CASES[request.param]
    return build().eval(), batch


@pytest.mark.filterwarnings("ignore:layer .* is not repaired")
def test_the_result_takes_what_the_network_took(case):
    model, batch = case
    before = call(model, batch)
    result = infoprune.prune(model, [batch, batch], macs=0.6, test=[batch], effort="quick")
    assert result.pruned.macs <= 0.6 * result.base.macs
    assert result.pruned.images == SAMPLES
    assert call(result.model, batch).shape == before.shape
    assert torch.equal(call(model, batch), before)
    assert not model._forward_pre_hooks
    assert not result.model._forward_pre_hooks


@pytest.mark.filterwarnings("ignore:layer .* is not repaired")
def test_every_step_alone(case):
    model, batch = case
    plan = infoprune.plan(model, [batch], criterion="hrel", ratio=0.5)
    assert infoprune.verify(plan, model) < 1e-4
    small = infoprune.apply(plan, model)
    repaired = infoprune.repair(small, model, [batch], plan, method="least-squares")
    whole = call(model, batch)
    # A layer that runs twice in a forward pass is not refitted.
    share = 1.0 if isinstance(model, Positions) else 0.99
    assert (call(repaired, batch) - whole).square().mean() <= share * (call(small, batch) - whole).square().mean()
    assert infoprune.evaluate(repaired, [batch]).images == SAMPLES
    again = infoprune.Plan.from_dict(plan.to_dict())
    assert torch.equal(call(infoprune.apply(again, model), batch), call(small, batch))


@pytest.mark.filterwarnings("ignore:layer .* is not repaired")
def test_sensitivity_and_sweep(case):
    model, batch = case
    assert len(infoprune.sensitivity(model, [batch], (0.5,))) > 0
    points = infoprune.sweep(model, [batch], (0.8, 0.6), effort="quick")
    assert [call(point.model, batch).shape for point in points] == [call(model, batch).shape] * 2


def test_a_masked_input_counts_as_the_cut_says(case):
    # The independent check: the removed filters of the first layer are zeroed by hand, the cut network agrees.
    model, batch = case
    plan = infoprune.plan(model, [batch], criterion="l1", ratio=0.5)
    small = infoprune.apply(plan, model)
    handles = []
    for name, decision in plan.decisions.items():
        gone = list(decision.removed)
        after = dict(model.named_modules())[f"{name.rpartition('.')[0]}.{int(name.rpartition('.')[2]) + 1}"]
        after = after if isinstance(after, nn.ReLU) else model.left[2]

        def zero(module, args, output, gone=gone):
            output = output.clone()
            output[:, gone] = 0
            return output

        handles.append(after.register_forward_hook(zero))
    masked = call(model, batch)
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(call(small, batch), masked, atol=1e-5, rtol=1e-5)


def test_batches_of_other_inputs_are_refused():
    model, batch = Positions().eval(), CASES["positions"][1]
    smaller = (tuple(one[..., :8, :8] for one in batch[0]), LABELS)
    with pytest.raises(InputError, match="the inputs of a batch have shapes"):
        infoprune.prune(model, [batch, smaller], macs=0.6)
    named = ({"a": batch[0][0], "b": batch[0][1]}, LABELS)
    with pytest.raises(InputError, match="a batch has the inputs"):
        infoprune.prune(model, [batch, named], macs=0.6)


@pytest.mark.parametrize("noted", [3, [{}], [{"name": "a", "shape": "x", "type": "float32"}], [{"name": "a"}]])
def test_a_damaged_note_of_inputs_is_refused(noted):
    model, batch = Positions().eval(), CASES["positions"][1]
    plan = infoprune.plan(model, [batch], criterion="l1", ratio=0.5)
    damaged = infoprune.Plan.from_dict({**plan.to_dict(), "settings": {**plan.settings, "inputs": noted}})
    with pytest.raises(InputError, match="inputs"):
        infoprune.apply(damaged, model)


class ForALoss(nn.Module):
    """As the models of Transformers: labels by keyword make it return a loss too, and an output holds the logits."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.ReLU())
        self.head = nn.Linear(8, 5)

    def forward(self, pixel_values, labels=None):
        assert labels is None
        return Output(logits=self.head(self.body(pixel_values).mean((2, 3))))


class Output(OrderedDict):
    """A dict whose entries are attributes too."""

    def __init__(self, **entries):
        super().__init__(entries)
        self.__dict__.update(entries)


def test_labels_that_a_forward_takes_for_a_loss_are_labels():
    batches = [{"pixel_values": images(3, 12, 12), "labels": torch.arange(SAMPLES) % 5}]
    model = ForALoss().eval()
    found = infoprune.prune(model, batches, criterion="fisher", macs=0.5, test=batches)
    pairs = [(batches[0]["pixel_values"], batches[0]["labels"])]
    assert found.plan.kept == infoprune.plan(model, pairs, criterion="fisher", macs=0.5).kept
    assert found.pruned.accuracy == infoprune.evaluate(found.model, pairs).accuracy
