"""``--metric`` and ``--output`` on the command line: named metrics, and functions that the user typed."""

import json
import sys

import pytest
import torch
from sklearn.metrics import f1_score

import infoprune as package
from infoprune.data import Preprocessing, loader, open_source
from infoprune.storage import checkpoint

DIGITS = ("--data", "digits")
MODULE = """
from torch import nn
from infoprune import zoo
from torchmetrics.classification import MulticlassF1Score


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = zoo.build("digits")

    def forward(self, images):
        return {"out": self.inner(images), "sum": images.sum()}


def out(found):
    return found["out"]


def named(outputs, targets):
    return (outputs["out"].argmax(1) == targets).double().mean()


def wrong(outputs, targets):
    return (outputs.argmax(1) != targets).double().mean()


wrong.higher_is_better = False
f1 = MulticlassF1Score(10)
"""


@pytest.fixture
def mine(folder, base):
    """The digits network inside one that returns a dict, its weights in a file."""
    (folder / "metric_net.py").write_text(MODULE)
    inner = package.load(base).state_dict()
    torch.save({f"inner.{name}": value for name, value in inner.items()}, folder / "both.pt")
    yield ("--model", "metric_net:Both", "--weights", "both.pt", "--input-shape", "1,8,8")
    sys.modules.pop("metric_net", None)


def record_of(path):
    return json.loads(path.read_text())


def test_prune_and_evaluate_measure_a_named_metric(infoprune, base, folder):
    done = infoprune("prune", "--weights", base, *DIGITS, "--macs", "0.6", "--effort", "quick", "--metric", "f1",
                     "--out", "small.safetensors", "--json", "out.json", "--report", "page.html")  # fmt: skip
    assert done.code == 0, done.err
    record = record_of(folder / "out.json")
    assert record["settings"]["metric"] == "f1"
    source = open_source("digits")
    small = package.load(folder / "small.safetensors")
    with torch.no_grad():
        logits = torch.cat([small(images) for images, _ in loader(source.test, Preprocessing((0.0,), (1.0,)))])
    wanted = f1_score(source.test.labels, logits.argmax(1), average="macro")
    assert record["pruned"]["metric"] == pytest.approx(wanted, abs=1e-6)
    assert (record["pruned"]["metric_name"], record["pruned"]["accuracy"]) == ("f1", None)
    assert "f1" in done.out
    assert "accuracy (%)" not in done.out
    assert "f1" in (folder / "page.html").read_text()
    shown = infoprune("evaluate", "small.safetensors", *DIGITS, "--metric", "f1")
    assert shown.code == 0, shown.err
    assert f"{wanted:.4f}" in shown.out


def test_a_network_that_returns_a_dict_is_pruned_by_an_output_of_the_users(infoprune, mine, folder):
    done = infoprune("prune", *mine, *DIGITS, "--macs", "0.6", "--effort", "quick", "--output", "metric_net:out",
                     "--out", "small.safetensors", "--json", "out.json", "--quiet")  # fmt: skip
    assert done.code == 0, done.err
    record = record_of(folder / "out.json")
    assert record["base"]["accuracy"] > 90
    assert record["settings"]["output"] == "metric_net:out"
    part = infoprune("evaluate", "small.safetensors", "--model", "metric_net:Both", *DIGITS, "--output", "out",
                     "--json", "part.json")  # fmt: skip
    assert part.code == 0, part.err
    assert record_of(folder / "part.json")["figures"]["accuracy"] == record["pruned"]["accuracy"]
    named = ("--model", "metric_net:Both", "--metric", "metric_net:named")
    shown = infoprune("evaluate", "small.safetensors", *named, *DIGITS,
                      "--json", "same.json")  # fmt: skip
    assert shown.code == 0, shown.err
    assert 100 * record_of(folder / "same.json")["figures"]["metric"] == pytest.approx(record["pruned"]["accuracy"])


@pytest.mark.parametrize("metric", ["metric_net:f1", "metric_net:wrong"])
def test_max_loss_limits_the_metric(infoprune, mine, folder, metric):
    done = infoprune("prune", *mine, *DIGITS, "--calibration", 100, "--max-loss", "3", "--effort", "quick",
                     "--output", "metric_net:out", "--metric", metric, "--out", "small.safetensors", "--json",
                     "out.json", "--quiet")  # fmt: skip
    assert done.code == 0, done.err
    record = record_of(folder / "out.json")
    assert record["pruned"]["macs"] < record["base"]["macs"]
    tried = record["automatic"]["tried"]
    assert any(one["allowed"] for one in tried)
    assert all(one["allowed"] == (one["loss"] <= 3) for one in tried)
    assert record["base"]["higher_is_better"] is (metric == "metric_net:f1")
    contents = checkpoint.describe(folder / "small.safetensors")
    assert contents.figures["pruned"]["metric"] == record["pruned"]["metric"]


def test_sensitivity_and_sweep_measure_the_metric(infoprune, base, folder):
    done = infoprune("sensitivity", "--weights", base, *DIGITS, "--calibration", 100, "--ratios", "0.5", "--metric",
                     "miou", "--json", "layers.json")  # fmt: skip
    assert done.code == 0, done.err
    assert "loss (points)" in done.out
    assert all(isinstance(one["loss"], float) for one in record_of(folder / "layers.json")["layers"])
    done = infoprune("sweep", "--weights", base, *DIGITS, "--calibration", 100, "--macs", "0.7", "--effort", "quick",
                     "--metric", "miou", "--out-dir", "swept", "--json", "sweep.json")  # fmt: skip
    assert done.code == 0, done.err
    assert "test miou" in done.out
    record = record_of(folder / "sweep.json")
    assert 0 < record["points"][0]["metric"] <= record["base"]["metric"] + 0.05 <= 1.05


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--metric", "f2"), "Error: unknown metric 'f2': did you mean 'f1'?"),
        (("--metric", "metric_net:nothing"), "unknown metric of module 'metric_net' 'nothing'"),
        (("--output", "nowhere:out"), "the output function 'nowhere:out' cannot be imported"),
        (("--metric", "metric_net:named"), "the metric 'named' fails: IndexError"),
    ],
)
def test_a_metric_that_does_not_work_is_refused_in_one_sentence(infoprune, base, mine, folder, words, sentence):
    done = infoprune("evaluate", base, *DIGITS, *words)
    assert done.code == 2
    assert sentence in done.err
    assert done.err.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in done.err


def test_a_dict_without_an_output_is_refused_with_what_to_do(infoprune, mine, folder):
    done = infoprune("evaluate", *mine, *DIGITS)
    assert done.code == 2
    assert "not dict with the parts out, sum: choose the logits by 'output'" in done.err
