"""From a network and images to a smaller network, in Python: what comes out, and that what went in is untouched."""

import copy
import json

import pytest
import torch
from torch import nn

import infoprune
from infoprune import pipeline
from infoprune.errors import InputError
from infoprune.network.cost import Latency, count
from infoprune.selection import calibration


class Small(nn.Module):
    """A stem, a residual block and a head, as users write them: no origin, functional activations."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(12)
        self.conv1 = nn.Conv2d(12, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 12, 3, padding=1)
        self.hidden = nn.Linear(12 * 4, 20)
        self.head = nn.Linear(20, 5)

    def forward(self, x):
        x = torch.relu(self.bn(self.stem(x)))
        x = torch.relu(x + self.conv2(torch.relu(self.conv1(x))))
        return self.head(torch.relu(self.hidden(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Small()


@pytest.fixture
def batches():
    return [(torch.randn(n, 3, 8, 8), torch.randint(0, 5, (n,))) for n in (20, 20, 7)]


def test_everything_comes_out_and_the_given_network_is_untouched(network, batches):
    network.train()
    network.bn.eval()
    network.conv1.weight.requires_grad_(False)
    before, modes = copy.deepcopy(network), [module.training for module in network.modules()]
    rng = torch.get_rng_state()
    result = infoprune.prune(
        network, batches, criterion="variance", budget=infoprune.Budget(macs=0.5), test=batches, repair=None
    )
    assert torch.equal(torch.get_rng_state(), rng)
    assert [module.training for module in network.modules()] == modes
    after = network.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert [module.training for module in result.model.modules()] == modes
    assert not result.model.conv1.weight.requires_grad
    assert result.model.conv2.weight.requires_grad
    assert result.pruned.macs <= 0.5 * result.base.macs
    example = batches[0][0]
    assert (result.pruned.macs, result.pruned.parameters) == (lambda c: (c.macs, c.parameters))(
        count(result.model, example)
    )
    record = json.loads(json.dumps(result.record()))
    assert record["plan"] == {name: list(kept) for name, kept in result.plan.kept.items()}
    assert record["base"]["images"] == 47


def test_single_steps_are_the_whole(network, batches):
    plan = infoprune.plan(network, batches, criterion="l1", ratio=0.5)
    small = infoprune.apply(plan, network)
    assert infoprune.verify(plan, network) < 1e-4
    whole = infoprune.prune(network, batches, criterion="l1", ratio=0.5, repair=None)
    assert whole.plan.kept == plan.kept
    images = batches[0][0]
    small.eval(), whole.model.eval()
    torch.testing.assert_close(small(images), whole.model(images))
    assert whole.base.accuracy is None


def test_only_convolutions_lose_filters_unless_named(network, batches):
    plan = infoprune.plan(network, batches, criterion="l1", ratio=0.5)
    assert set(plan.kept) == {"stem", "conv1"}
    assert plan.decisions["stem"].coupled == ("conv2",)
    assert "not chosen" in plan.left_alone["hidden"]
    assert "network's outputs" in plan.left_alone["head"]
    named = infoprune.plan(network, batches, criterion="l1", ratio=0.5, layers=("hidden",))
    assert set(named.kept) == {"hidden"}


def test_the_plan_says_why(network, batches):
    decision = infoprune.plan(network, batches, criterion="variance", ratio=0.5).decisions["conv1"]
    assert len(decision.scores) == 16
    assert set(decision.order[:8]) == set(decision.kept)
    assert "ratio" in decision.reason


def test_a_plan_reads_back_and_prunes_alike(network, batches):
    plan = infoprune.plan(network, batches, criterion="cmi", ratio=0.3, criterion_options={})
    again = infoprune.Plan.from_dict(json.loads(plan.to_json()))
    one, other = infoprune.apply(plan, network).eval(), infoprune.apply(again, network).eval()
    images = batches[0][0]
    assert torch.equal(one(images), other(images))
    assert again.settings["criterion"] == "cmi"
    assert again.settings["calibration_images"] == 47


def test_dead_filters_are_counted_before_and_after(network, batches):
    with torch.no_grad():
        network.conv1.weight[[2, 5]] = 0
        network.conv1.bias[[2, 5]] = -1
    keep = {"conv1": [i for i in range(16) if i != 5]}
    result = infoprune.prune(network, batches, keep=keep, repair=None)
    assert (result.base.dead_filters, result.pruned.dead_filters) == (2, 1)


@pytest.mark.parametrize(("more", "seen"), [(None, "47"), (200, "200")])
def test_advice_counts_the_images_that_the_repair_saw(network, batches, more, seen):
    network.eval()
    with torch.no_grad():
        network.head.bias -= torch.cat([network(images) for images, _ in batches]).mean(0)  # all classes are named
        test = [(images, network(images).argmax(1)) for images, _ in batches]
    others = None if more is None else torch.randn(more, 3, 8, 8)
    found = infoprune.prune(
        network, batches, criterion="random", ratio=0.9, repair="least-squares", repair_images=others, test=test
    )
    assert f"The repair saw {seen} images" in " ".join(found.advice)


def test_without_labels_the_table_says_how_often_the_class_is_still_the_same(network, batches):
    images = [some for some, _ in batches]
    with torch.no_grad():
        network.head.bias -= torch.cat([network.eval()(some) for some in images]).mean(0)  # all classes are named
    found = infoprune.prune(network, images, criterion="random", ratio=0.9, repair=None)
    held = torch.cat(images)[4::5]
    with torch.no_grad():
        same = (network.eval()(held).argmax(1) == found.model.eval()(held).argmax(1)).float().mean()
    assert found.pruned.agreement == pytest.approx(100 * float(same))
    assert found.pruned.agreement < 95
    assert f"{found.pruned.agreement:.2f}" in repr(found)
    assert "Without labels the accuracy is not known" in found.advice[0]
    assert "Nothing was repaired" in found.advice[1]
    assert found.record()["pruned"]["agreement"] == found.pruned.agreement
    with_labels = infoprune.prune(network, batches, criterion="random", ratio=0.9, repair=None, test=batches)
    assert (with_labels.pruned.agreement, with_labels.pruned.divergence) == (None, None)
    assert "accuracy (%)" in repr(with_labels)


def test_what_a_notebook_shows_fits_a_screen(network, batches):
    found = infoprune.prune(network, batches, criterion="l1", ratio=0.5)
    assert len(repr(found).splitlines()) < 20
    assert repr(found.plan) == "Plan(stem: 6 of 12, conv1: 8 of 16 filters)"


def test_latency_budgets_are_of_networks_really_built(network, batches, monkeypatch):
    built = []

    def milliseconds(models, example, rounds=3):
        times = [count(model, example).macs / 1e6 for model in models]
        built.extend(times)
        return [Latency(time, 0.0) for time in times]

    monkeypatch.setattr(calibration, "latencies", milliseconds)
    monkeypatch.setattr(pipeline, "latencies", milliseconds)
    result = infoprune.prune(network, batches, criterion="l1", budget=infoprune.Budget(latency=0.6), repair=None)
    assert 0.5 < result.pruned.latency_ms / result.base.latency_ms <= 0.6
    assert len(built) > 4


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        ({}, "not by nothing"),
        ({"ratio": 0.5, "keep": {"conv1": 3}}, "ratio and keep"),
        ({"ratio": 0.5, "criterium": "l1"}, "did you mean 'criterion'"),
        ({"ratio": 0.5, "layers": ("conv9",)}, "unknown layer 'conv9'"),
        ({"ratio": 0.5, "layers": ("head",)}, "its outputs are the network's outputs"),
        ({"ratio": 0.5, "skip": ("*",)}, "can lose filters"),
        ({"keep": {"conv1": 0}}, "conv1"),
    ],
)
def test_impossible_choices_are_refused(network, batches, choice, sentence):
    with pytest.raises(InputError, match=sentence):
        infoprune.plan(network, batches, **choice)


def test_images_that_can_be_read_only_once_are_refused(network, batches):
    with pytest.raises(InputError, match="more than once"):
        infoprune.plan(network, iter(batches), ratio=0.5)
    with pytest.raises(InputError, match="empty"):
        infoprune.plan(network, [], ratio=0.5)


def test_networks_that_cannot_be_pruned_are_refused(batches):
    with pytest.raises(InputError, match="no convolutions"):
        infoprune.plan(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), batches, ratio=0.5)
    with pytest.raises(InputError, match="cannot read images"):
        infoprune.plan(nn.Sequential(nn.Conv2d(4, 4, 3), nn.Flatten()), batches, ratio=0.5)
    alone = nn.Sequential(nn.Conv2d(3, 5, 8), nn.Flatten())
    with pytest.raises(InputError, match=r"'0' its outputs are the network's outputs"):
        infoprune.plan(alone, batches, ratio=0.5)


def test_a_plan_needs_a_shape_to_be_applied(network):
    plan = infoprune.Plan({"conv1": infoprune.LayerDecision("conv1", 16, (0, 1))})
    with pytest.raises(InputError, match="example"):
        infoprune.apply(plan, network)
    assert infoprune.apply(plan, network, torch.zeros(1, 3, 8, 8)).conv1.out_channels == 2


def test_words_beside_a_plan_are_refused(network, batches):
    plan = infoprune.plan(network, batches, criterion="l1", ratio=0.5)
    with pytest.raises(InputError, match="leave out ratio, or leave out the plan"):
        infoprune.prune(network, batches, plan, ratio=0.5)
    with pytest.raises(InputError, match="unknown option of pruning 'nonsense'"):
        infoprune.prune(network, batches, plan, ratio=0.5, nonsense=1)


def test_a_file_that_is_no_state_is_left_alone(network, batches, tmp_path):
    names = ("small", "small.safetensors", "small.json", "small.forward", "small.distil")
    for name in names:
        (tmp_path / name).write_text("precious")
    infoprune.plan(network, batches, criterion="l1", ratio=0.5, resume=tmp_path / "small")
    infoprune.prune(network, batches, criterion="l1", ratio=0.5, resume=tmp_path / "small")
    infoprune.prune(network, batches, macs=0.7, effort="quick", resume=tmp_path / "small")
    with pytest.raises(InputError, match="not the state of a plan"):
        infoprune.plan(network, batches, criterion="cmi", cutoff="scree", resume=tmp_path / "small")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(names, "precious")
