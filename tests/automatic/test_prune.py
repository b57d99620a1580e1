"""One line without options: a smaller network within the budget, its plan checked, whatever form the images have."""

import copy
import dataclasses
import json

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import infoprune
from infoprune import pipeline, zoo
from infoprune.automatic import descent
from infoprune.data import Preprocessing, held_out_split, loader, open_source, random_sample
from infoprune.data.batches import EveryNth, images_of
from infoprune.errors import InputError
from infoprune.measure.divergence import divergence_between
from infoprune.network.cost import count
from infoprune.repair import repaired
from infoprune.training.recipe import Recipe
from infoprune.training.train import train

IMAGES = torch.randn(60, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Residual(nn.Module):
    """A stem, two residual blocks and a head."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.bn = nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.inner = nn.ModuleList(nn.Conv2d(12, 16, 3, padding=1) for _ in range(2))
        self.back = nn.ModuleList(nn.Conv2d(16, 12, 3, padding=1) for _ in range(2))
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = torch.relu(self.bn(self.stem(x)))
        for inner, back in zip(self.inner, self.back, strict=True):
            x = torch.relu(x + back(torch.relu(inner(x))))
        return self.head(x.mean((2, 3)))


class Mixer(nn.Module):
    """Patches, then linear layers that run at every position."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.norm = nn.Conv2d(3, 8, 2, 2), nn.LayerNorm(8)
        self.up, self.down, self.head = nn.Linear(8, 24), nn.Linear(24, 8), nn.Linear(8, 5)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.down(self.up(self.norm(x)).relu())
        return self.head(x.mean(1))


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same_outputs(one, other, images=IMAGES):
    with torch.no_grad():
        return torch.equal(one.eval()(images), other.eval()(images))


@pytest.fixture(scope="module")
def residual():
    """The network with each effort's result, made from one tensor."""
    model = Residual().eval()
    return model, {effort: infoprune.prune(model, IMAGES, macs=0.5, effort=effort) for effort in ("quick", "normal")}


@pytest.mark.parametrize("effort", ["quick", "normal"])
def test_the_budget_is_met_and_the_plan_is_right(residual, effort):
    model, results = residual
    result = results[effort]
    assert result.base.macs == count(model, IMAGES).macs
    assert count(result.model, IMAGES).macs == result.pruned.macs <= 0.5 * result.base.macs
    assert infoprune.verify(result.plan, model) < 1e-4
    cut = infoprune.apply(result.plan, model)
    assert count(cut, IMAGES) == count(result.model, IMAGES)
    assert result.model(IMAGES).shape == (60, 5)


@pytest.mark.parametrize("effort", ["quick", "normal"])
def test_the_repair_comes_nearer_to_the_original_than_the_cut(residual, effort):
    model, results = residual
    cut = infoprune.apply(results[effort].plan, model).eval()
    with torch.no_grad():
        whole = model(IMAGES)
        before, after = (float((small(IMAGES) - whole).square().mean()) for small in (cut, results[effort].model))
    assert after < before


def test_what_was_compared_and_chosen_is_recorded(residual):
    _, results = residual
    quick, normal = results["quick"].automatic, results["normal"].automatic
    assert quick["ways"][0]["held_out"] is None  # nothing was compared
    assert {way["way"] for way in normal["ways"]} == {"every layer", "layers inside blocks"}
    divergences = [way["held_out"]["divergence"] for way in normal["ways"]]
    assert divergences == sorted(divergences)
    # The way that was chosen, first in the list, is the one that the plan follows.
    whole = set(normal["ways"][0]["whole_layers"])
    assert not whole & {name for name, one in results["normal"].plan.decisions.items() if one.removed}
    for effort, repair in (("quick", "least-squares"), ("normal", "alternating")):
        result = results[effort]
        assert result.repair == result.automatic["repair"] == repair
        assert result.automatic["repairs"][repair]["images"] == 12  # every fifth of 60 judges
        assert json.loads(json.dumps(result.record()))["automatic"] == result.automatic


@pytest.mark.parametrize("training", [True, False])
def test_the_given_network_is_unchanged(training):
    model = Residual().train(training)
    before, hooks = state_of(model), [len(module._forward_hooks) for module in model.modules()]
    result = infoprune.prune(model, IMAGES, macs=0.5, effort="quick")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    assert all(module.training is training for module in (*model.modules(), *result.model.modules()))
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_a_tensor_a_list_and_a_loader_give_the_same_network(residual):
    model, results = residual
    batches = [IMAGES[:32], IMAGES[32:]]
    by_loader = DataLoader(TensorDataset(IMAGES), batch_size=32)
    labelled = [(some, torch.rand(len(some), 3)) for some in batches]  # labels that no one reads
    found = [infoprune.prune(model, images, macs=0.5, effort="quick") for images in (batches, by_loader, labelled)]
    assert found[0].plan.kept == found[1].plan.kept == found[2].plan.kept == results["quick"].plan.kept
    assert same_outputs(found[0].model, found[1].model)
    assert same_outputs(found[0].model, found[2].model)


@pytest.mark.parametrize(
    "words", [{"ratio": 0.5}, {"parameters": 0.6}, {"keep": {"inner.*": 8}}, {"macs": 0.7, "skip": "stem"}]
)
def test_other_amounts(words):
    model = Residual().eval()
    result = infoprune.prune(model, IMAGES, effort="quick", **words)
    assert result.automatic is not None
    assert infoprune.verify(result.plan, model) < 1e-4
    if "ratio" in words:
        assert result.model.inner[0].out_channels == result.model.inner[1].out_channels == 8
        assert result.model.stem.out_channels == 6
    if "keep" in words:
        assert result.model.inner[0].out_channels == result.model.inner[1].out_channels == 8
        assert result.model.stem.out_channels == 12
    if "skip" in words:
        assert result.model.stem.out_channels == 12
    if "parameters" in words:
        assert result.pruned.parameters <= 0.6 * result.base.parameters


def test_a_criterion_without_repair_gives_the_cut():
    model = Residual().eval()
    result = infoprune.prune(model, IMAGES, criterion="l1", ratio=0.5, repair=None)
    assert result.automatic is result.repair is result.as_cut is None
    assert same_outputs(result.model, infoprune.apply(result.plan, model))


def test_linear_layers_at_every_position_are_cut_and_repaired():
    model = Mixer().eval()
    result = infoprune.prune(model, IMAGES, macs=0.7)
    assert result.plan.decisions["up"].removed
    assert result.model.down.in_features == result.model.up.out_features < 24
    cut = infoprune.apply(result.plan, model).eval()
    with torch.no_grad():
        whole = model(IMAGES)
        assert (result.model(IMAGES) - whole).square().mean() < (cut(IMAGES) - whole).square().mean()


def test_images_of_several_sizes():
    model, large = Residual().eval(), torch.randn(20, 3, 12, 12)
    result = infoprune.prune(model, [IMAGES[:40], large], macs=0.5, effort="quick")
    assert result.pruned.macs <= 0.5 * result.base.macs
    assert result.plan.settings["input_shapes"] == [[3, 8, 8], [3, 12, 12]]
    assert infoprune.verify(result.plan, model) < 1e-4


class BySize(nn.Module):
    """A layer that only large images run through."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.big = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.last, self.head = nn.Conv2d(8, 7, 3, padding=1), nn.Linear(7, 5)

    def forward(self, x):
        x = self.conv(x).relu()
        return self.head(self.last(self.big(x).relu() if x.shape[-1] > 8 else x).relu().mean((2, 3)))


def test_layers_that_only_large_images_run_through():
    model, large = BySize().eval(), torch.randn(20, 3, 12, 12)
    result = infoprune.prune(model, [IMAGES[:20], large], macs=0.6, effort="quick")
    assert result.plan.decisions["conv"].coupled == ("big",)
    assert result.pruned.macs <= 0.6 * result.base.macs
    assert result.model(large).shape == result.model(IMAGES[:20]).shape == (20, 5)
    assert infoprune.verify(result.plan, model) < 1e-4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"macs": 0.001}, "macs|MACs"),
        ({"macs": 0.5, "criterion": "l1", "max_loss": 1.0}, "a limit on the loss finds its own criterion"),
        ({"macs": 0.5, "criterion": "l1", "effort": "quick"}, "an effort and minutes are of runs where"),
        ({"macs": 0.5, "repair": "bn", "minutes": 3}, "an effort and minutes are of runs where"),
        ({"macs": 0.5, "effort": "quick", "minutes": 3}, "both say how much time may be spent: pass one"),
        ({"macs": 0.5, "max_loss": 1.0}, "leave out macs"),
        ({"macs": 0.5, "effort": "much"}, "effort takes"),
        ({}, "how much"),
    ],
)
def test_what_cannot_be_is_refused(words, message):
    with pytest.raises(InputError, match=message):
        infoprune.prune(Residual(), IMAGES[:10], **words)


@pytest.fixture(scope="module")
def digits():
    """The trained digits network, unlabelled and labelled calibration images, and test images."""
    source, plain = open_source("digits"), Preprocessing((0.0,), (1.0,))
    training, held_out = held_out_split(source.train)
    torch.manual_seed(0)
    model = zoo.build("digits")
    recipe = Recipe(epochs=12, learning_rate=0.1, precision="32-true", seed=0)
    trained = train(
        model, loader(training, plain, batch_size=64, shuffle=True), loader(held_out, plain, batch_size=64), recipe
    )
    labelled = list(loader(random_sample(training, 300, 0), plain, batch_size=64))
    return trained.model.eval(), labelled, list(loader(source.test, plain, batch_size=64))


@pytest.mark.parametrize("effort", ["quick", "normal"])
def test_half_of_the_digits_network_names_most_digits_right(digits, effort):
    model, labelled, test = digits
    before = copy.deepcopy(model)
    images = torch.cat([some for some, _ in labelled])
    result = infoprune.prune(model, images, macs=0.5, effort=effort, test=test)
    assert result.pruned.macs <= 0.5 * result.base.macs
    assert infoprune.verify(result.plan, model) < 1e-4
    assert result.base.accuracy > 90
    assert result.pruned.accuracy > result.as_cut.accuracy
    assert result.pruned.accuracy > result.base.accuracy - 5
    assert same_outputs(model, before, images)


@pytest.mark.parametrize("with_labels", [True, False])
def test_the_smallest_network_within_a_loss(digits, with_labels):
    model, labelled, _ = digits
    batches = labelled if with_labels else [images for images, _ in labelled]
    result = infoprune.prune(model, batches, max_loss=5.0, effort="quick")
    tried = result.automatic["tried"]
    assert any(one["allowed"] for one in tried)
    assert all((one["loss"] <= 5.0) is one["allowed"] for one in tried)
    assert result.pruned.macs <= min(one["macs"] for one in tried if one["allowed"]) * result.base.macs
    # Every fifth image judged: counted again on them, the returned network keeps what was allowed.
    seen, right = 0, {"whole": 0, "small": 0}
    for some, classes in labelled:
        chosen = (torch.arange(len(some)) + seen) % 5 == 4
        seen += len(some)
        with torch.no_grad():
            named = model(some[chosen]).argmax(1)
            wanted = classes[chosen] if with_labels else named
            right["whole"] += int((named == wanted).sum())
            right["small"] += int((result.model(some[chosen]).argmax(1) == wanted).sum())
    assert 100 * (right["whole"] - right["small"]) / (seen // 5) <= 5.0
    assert infoprune.verify(result.plan, model) < 1e-4


def test_the_networks_of_a_sweep_are_repaired_without_the_images_that_judge_them(monkeypatch):
    seen = []

    def spied(small, original, images, *others, **more):
        seen.append(torch.cat(list(images_of(images, small))))
        return repaired(small, original, images, *others, **more)

    monkeypatch.setattr(descent, "repaired", spied)
    points = infoprune.sweep(Residual().eval(), [IMAGES], (0.7, 0.5), effort="quick")
    assert [point.held_out.images for point in points] == [12, 12]
    judges = IMAGES[4::5]
    assert len(seen) == 2
    assert all(not (some[:, None] == judges[None]).flatten(2).all(2).any() for some in seen)


def test_few_images_are_repaired_by_alternating_least_squares_as_well():
    images = DataLoader(IMAGES, batch_size=16, shuffle=True)
    result = infoprune.prune(Residual().eval(), images, macs=0.5, minutes=8)
    assert "alternating" in result.automatic["repairs"]


class Counted(torch.utils.data.Dataset):
    """Images in the order of their classes, which note what is read."""

    def __init__(self, images):
        self.images, self.read = images, set()

    def __len__(self):
        return len(self.images)

    def __getitem__(self, number):
        self.read.add(number)
        return self.images[number]


@pytest.mark.parametrize("shuffle", [True, False])
def test_of_a_whole_training_set_a_sample_is_read(monkeypatch, shuffle):
    monkeypatch.setattr(pipeline, "_MOST_IMAGES", 40)
    images = Counted(torch.cat([IMAGES] * 3))
    result = infoprune.prune(Residual().eval(), DataLoader(images, batch_size=16, shuffle=shuffle), macs=0.6)
    assert 40 <= len(images.read) <= 56  # the form of the first batch is looked at
    assert max(images.read) > 100
    assert result.plan.settings["calibration_images"] == 40


def test_the_gradient_reads_all_images_and_holds_out_those_that_judge(monkeypatch):
    monkeypatch.setattr(pipeline, "_MOST_IMAGES", 40)
    trained = []

    def spied(small, original, images, *others, how, **more):
        if how.method == "distil":
            trained.append(torch.cat(list(images_of(EveryNth(images, 5, chosen=False), small))))
            how = dataclasses.replace(how, method="bn")
        return repaired(small, original, images, *others, how=how, **more)

    judged = []

    def judge(one, other, images):
        judged.append(torch.cat(list(images)))
        return divergence_between(one, other, images)

    monkeypatch.setattr(descent, "repaired", spied)
    monkeypatch.setattr(descent, "divergence_between", judge)
    generator = torch.Generator().manual_seed(1)
    images = DataLoader(torch.randn(150, 3, 8, 8, generator=generator), batch_size=16, shuffle=True)
    result = infoprune.prune(Residual().eval(), images, macs=0.5, minutes=20)
    assert {"least-squares", "distil"} == set(result.automatic["repairs"])
    (seen,) = trained
    assert len(seen) == 120
    assert all(len(one) == 8 for one in judged)
    assert all(not (seen[:, None] == one[None]).flatten(2).all(2).any() for one in judged)
