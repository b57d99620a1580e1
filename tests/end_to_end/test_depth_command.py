"""``infoprune depth`` on a residual network for the digits, from a checkpoint to a smaller one."""

import json
import sys

import pytest

from infoprune import load

DIGITS = ("--data", "digits", "--calibration", 120)
MODEL = ("--model", "own_blocks:network")
OWN = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x):
        return torch.relu(x + self.norm(self.conv(x)))

def network():
    torch.manual_seed(0)
    stem = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()
    return nn.Sequential(*stem, Block(8), Block(8), Block(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
"""


@pytest.fixture
def trained(infoprune, folder):
    (folder / "own_blocks.py").write_text(OWN)
    done = infoprune("train", *MODEL, "--input-shape", "1,8,8", *DIGITS[:2], "--epochs", 3, "--lr",
                     0.1, "--out", "base.safetensors")  # fmt: skip
    assert done.code == 0, done.err
    yield (*MODEL, "--weights", "base.safetensors")
    sys.modules.pop("own_blocks", None)


@pytest.mark.parametrize("criterion", ["cka", "divergence", "layer-scale"])
def test_blocks_are_removed_and_the_checkpoint_measures_as_recorded(infoprune, trained, folder, criterion):
    done = infoprune("depth", *trained, *DIGITS, "--count", 1, "--criterion", criterion, "--out", "small.safetensors",
                     "--json", "out.json")  # fmt: skip
    assert done.code == 0, done.err
    record = json.loads((folder / "out.json").read_text())
    assert len(record["blocks"]) == 3
    assert len(record["removed"]) == 1
    assert record["pruned"]["macs"] < record["base"]["macs"]
    again = infoprune("evaluate", *MODEL, "--weights", "small.safetensors", *DIGITS[:2], "--json",
                      "again.json")  # fmt: skip
    assert again.code == 0, again.err
    found = json.loads((folder / "again.json").read_text())["figures"]
    assert found["accuracy"] == pytest.approx(record["pruned"]["accuracy"], abs=0.1)
    assert found["macs"] == record["pruned"]["macs"]


def test_filters_of_the_shallower_network_are_pruned(infoprune, trained, folder, monkeypatch):
    done = infoprune("depth", *trained, *DIGITS, "--macs", 0.5, "--no-repair", "--out", "a.safetensors", "--quiet")
    assert done.code == 0, done.err
    assert done.out == ""
    done = infoprune("prune", *MODEL, "--weights", "a.safetensors", *DIGITS, "--criterion", "l1",
                     "--ratio", 0.5, "--out", "b.safetensors", "--quiet")  # fmt: skip
    assert done.code == 0, done.err
    monkeypatch.syspath_prepend(str(folder))
    own = __import__("own_blocks")
    assert load("b.safetensors", build=own.network)[0].out_channels == 4


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "say how many blocks are removed by one of count and macs"),
        (("--count", 4), "the network has 3 blocks that can be removed, not 4"),
        (("--count", 1, "--criterion", "ckaa"), "did you mean 'cka'"),
        (("--macs", 0.001), "macs is the share of the multiply-adds that is left"),
    ],
)
def test_mistakes_are_one_sentence(infoprune, trained, folder, words, sentence):
    done = infoprune("depth", *trained, *DIGITS, *words, "--out", "small.safetensors")
    assert done.code == 2
    assert sentence in " ".join(done.err.split())
    assert not (folder / "small.safetensors").exists()
