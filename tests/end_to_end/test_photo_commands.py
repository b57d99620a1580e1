"""Own photos: of different sizes, few of them, in a folder without a test part; every command that reads images."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from infoprune.data import open_source
from infoprune.storage import checkpoint

MODULE = """
from torch import nn


def network(classes=3):
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, 2), nn.ReLU(), nn.Conv2d(12, 16, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, classes)
    )
"""
SIZES = ("--resize", 28, "--crop", 24, "--interpolation", "bicubic")
OWN = ("--model", "photos_net:network")


def photo(path, kind, seed, size=None):
    rng = np.random.default_rng(seed)
    width, height = size or rng.integers(25, 60, 2)
    values = rng.normal(110, 30, (height, width, 3))
    values[..., kind % 3] += 60
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(path)


def photos(folder, each, classes=3, **words):
    for kind in range(classes):
        for i in range(each):
            photo(folder / f"class{kind:04d}" / f"{i}.png", kind, 1000 * kind + i, **words)
    return ("--data", "folder", "--data-dir", folder)


@pytest.fixture
def net(folder):
    (folder / "photos_net.py").write_text(MODULE)
    return folder


def record_of(path):
    return json.loads(path.read_text())


def words_of(err):
    return " ".join(err.split())


DETECTOR = """

class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 12, 3, 2), nn.ReLU(), nn.Conv2d(12, 16, 3, 2), nn.ReLU())
        self.boxes, self.scores = nn.Conv2d(16, 4, 1), nn.Conv2d(16, 2, 1)

    def forward(self, images):
        maps = self.body(images)
        return {"boxes": self.boxes(maps), "scores": self.scores(maps)}


def detector():
    return Detector()
"""


def test_photos_without_labels_prune_a_detector(infoprune, net):
    (net / "photos_net.py").write_text(MODULE + DETECTOR)
    for i in range(30):
        photo(net / "mine" / f"{i}.png", i, i)
    own = ("--model", "photos_net:detector", "--input-shape", "3,24,24", "--data", "photos", "--data-dir", "mine",
           *SIZES)  # fmt: skip
    done = infoprune("prune", *own, "--macs", 0.6, "--effort", "quick", "--out", "small.safetensors",
                     "--json", "small.json", "--report", "small.html")  # fmt: skip
    assert done.code == 0, done.err
    record = record_of(net / "small.json")
    assert record["pruned"]["macs"] <= 0.6 * record["base"]["macs"]
    assert record["pruned"]["accuracy"] is None
    done = infoprune("prune", *own, "--macs", 0.6, "--criterion", "l1", "--out", "cut.safetensors")
    assert done.code == 0, done.err
    done = infoprune("sweep", *own, "--macs", "0.8,0.6", "--effort", "quick", "--out-dir", "swept")
    assert done.code == 0, done.err
    done = infoprune("sensitivity", *own, "--ratios", "0.5")
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    "command",
    [
        ("train", "--epochs", 1, "--out", "out.safetensors"),
        ("evaluate",),
        ("iterate", "--remove", "0=50%:4", "--epochs", 1, "--out", "out.safetensors"),
        ("bench", "--criteria", "l1", "--out", "board"),
        ("prune", "--criterion", "hrel", "--macs", 0.7, "--out", "out.safetensors"),
        ("prune", "--metric", "accuracy", "--max-loss", 1, "--out", "out.safetensors"),
    ],
)
def test_what_reads_labels_refuses_photos_without_them(infoprune, net, command):
    for i in range(30):
        photo(net / "mine" / f"{i}.png", i, i)
    done = infoprune(command[0], *OWN, "--data", "photos", "--data-dir", "mine", *SIZES, *command[1:])
    assert done.code == 2, done.err
    assert "labels" in words_of(done.err)
    assert not (net / "out.safetensors").exists()


def test_photos_of_different_sizes_go_through_every_command(infoprune, net):
    data = photos(net / "flat", 12)
    own = (*OWN, *SIZES, "--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25")
    said = (
        "Images: shorter side resized to 28 pixels (bicubic), centre crop of 24 pixels, "
        "normalised by mean 0.5, 0.5, 0.5 and std 0.25, 0.25, 0.25."
    )
    done = infoprune("train", *own, *data, "--epochs", 6, "--lr", 0.05, "--batch-size", 9, "--out", "base.safetensors")
    assert done.code == 0, done.err
    assert said in words_of(done.err)
    done = infoprune("prune", *own, "--weights", "base.safetensors", *data, "--macs", 0.7, "--effort", "quick",
                     "--out", "small.safetensors")  # fmt: skip
    assert done.code == 0, done.err
    assert said in words_of(done.err)
    known = checkpoint.describe(net / "small.safetensors").origin.preprocessing
    assert (known.resize, known.crop, known.interpolation) == (28, 24, "bicubic")
    for command in (
        ("evaluate", "small.safetensors", *OWN),
        ("sensitivity", "--weights", "small.safetensors", *OWN, "--ratios", "0.5"),
        ("sweep", "--weights", "small.safetensors", *OWN, "--macs", "0.8", "--effort", "quick", "--out-dir", "swept"),
        ("tune", "small.safetensors", *OWN, "--epochs", 1, "--batch-size", 9, "--out", "tuned.safetensors"),
        ("iterate", "--weights", "base.safetensors", *OWN, "--remove", "0=50%:4", "--epochs", 1,
         "--criterion", "l1", "--out", "rounds.safetensors"),
        ("bench", "--weights", "base.safetensors", *OWN, "--criteria", "l1", "--budgets", "0.7", "--repairs", "none",
         "--seeds", 1, "--sharing", "uniform", "--out", "board"),
    ):  # fmt: skip
        done = infoprune(*command, *data)
        assert done.code == 0, (command, done.err)
        assert said in words_of(done.err), command
    done = infoprune("evaluate", "small.safetensors", *OWN, *data, "--resize", 30, "--quiet", "--json", "other.json")
    assert (done.code, done.err) == (0, "")
    assert record_of(net / "other.json")["settings"]["preprocessing"]["resize"] == 30


def test_photos_of_different_sizes_without_a_size_are_refused_with_the_options(infoprune, net):
    data = photos(net / "flat", 4)
    done = infoprune("prune", *OWN, "--input-shape", "3,24,24", *data, "--macs", 0.7, "--out", "small.safetensors")
    assert done.code == 2
    assert "give them one size by --resize and --crop" in done.err
    done = infoprune("prune", *OWN, *data, "--interpolation", "cubic", "--macs", 0.7, "--out", "small.safetensors")
    assert done.code == 2
    assert "--interpolation takes one of nearest, bilinear, bicubic, lanczos, not 'cubic'" in done.err


def test_an_own_network_without_normalisation_is_told_so(infoprune, net):
    data = photos(net / "flat", 4, size=(24, 24))
    done = infoprune("evaluate", *OWN, "--input-shape", "3,24,24", *data)
    assert done.code == 0, done.err
    assert "not normalised (pixels in [0, 1]). If the weights were trained on normalised" in words_of(done.err)
    assert "pass --mean and --std" in words_of(done.err)


def test_a_network_hardly_better_than_guessing_is_reported_before_the_work(infoprune, base, folder):
    done = infoprune("prune", "--weights", base, "--data", "digits", "--mean", 40, "--std", 0.1, "--macs", 0.7,
                     "--effort", "quick", "--out", "small.safetensors")  # fmt: skip
    assert done.code == 0, done.err
    warning = words_of(done.err).index("Warning: Before pruning the accuracy is")
    assert "--mean, --std" in words_of(done.err)[warning:]
    assert warning < words_of(done.err).index("smallest network")
    good = infoprune("prune", "--weights", base, "--data", "digits", "--macs", 0.7, "--effort", "quick", "--force",
                     "--out", "small.safetensors")  # fmt: skip
    assert "Warning" not in good.err
    bad = infoprune("evaluate", "--weights", base, "--data", "digits", "--mean", 40, "--std", 0.1)
    assert "Warning: The accuracy is" in words_of(bad.err)


def test_one_image_a_class_can_be_pruned_and_trained(infoprune, net):
    """500 photos in 1,000 classes hold out some of all photos: no class has enough of its own."""
    for part, each in (("train", 1), ("test", 1)):
        photos(net / "many" / part, each, classes=50, size=(24, 24))
    data = ("--data", "folder", "--data-dir", net / "many")
    own = (*OWN, "--model-args", '{"classes": 50}', "--input-shape", "3,24,24")
    done = infoprune("prune", *own, *data, "--macs", 0.7, "--effort", "quick", "--out", "small.safetensors",
                     "--json", "out.json")  # fmt: skip
    assert done.code == 0, done.err
    assert record_of(net / "out.json")["settings"]["data"]["calibration"] == 45
    done = infoprune("tune", "small.safetensors", *OWN, "--model-args", '{"classes": 50}', *data, "--epochs", 1,
                     "--out", "tuned.safetensors")  # fmt: skip
    assert done.code == 0, done.err


def test_a_folder_without_a_test_part_is_tuned_and_measured_on_photos_set_aside(infoprune, net):
    data = photos(net / "flat", 20, size=(24, 24))
    own = (*OWN, "--input-shape", "3,24,24")
    done = infoprune("train", *own, *data, "--epochs", 2, "--batch-size", 16, "--held-out-share", 0.2, "--out",
                     "base.safetensors", "--json", "out.json")  # fmt: skip
    assert done.code == 0, done.err
    assert record_of(net / "out.json")["figures"]["images"] == 12
    small = infoprune("prune", *own, "--weights", "base.safetensors", *data, "--macs", 0.8, "--effort", "quick",
                      "--out", "small.safetensors", "--json", "prune.json")  # fmt: skip
    assert small.code == 0, small.err
    record = record_of(net / "prune.json")
    assert (record["settings"]["data"]["calibration"], record["pruned"]["images"]) == (30, 30)
    asked = infoprune("prune", *own, "--weights", "base.safetensors", *data, "--macs", 0.8, "--calibration", 60,
                      "--out", "none.safetensors")  # fmt: skip
    assert asked.code == 2
    assert "leaves none of the 60 to measure on" in asked.err


@pytest.mark.parametrize("command", ["train", "tune"])
def test_fewer_photos_than_a_calibration_set_can_be_trained_on(infoprune, net, command):
    for part in ("train", "val"):
        photos(net / "few" / part, 6, size=(24, 24))
    data = ("--data", "folder", "--data-dir", net / "few")
    made = infoprune("prune", *OWN, "--input-shape", "3,24,24", *data, "--macs", 0.8, "--effort", "quick", "--out",
                     "small.safetensors")  # fmt: skip
    assert made.code == 0, made.err
    model = ("--weights", "small.safetensors", *OWN) if command == "train" else ("small.safetensors", *OWN)
    done = infoprune(command, *model, *data, "--epochs", 1, "--batch-size", 4, "--out", "out.safetensors")
    assert done.code == 0, done.err
    assert torch.isfinite(torch.tensor(checkpoint.describe(net / "out.safetensors").figures["loss"]))
    assert len(open_source("folder", net / "few").train) < 256


def test_the_memory_of_a_step_is_reported_and_a_batch_can_be_computed_in_parts(infoprune, net):
    for part in ("train", "val"):
        photos(net / "few" / part, 8, size=(24, 24))
    data = ("--data", "folder", "--data-dir", net / "few")
    command = ("train", *OWN, "--input-shape", "3,24,24", *data, "--epochs", 2, "--batch-size", 8, "--precision",
               "32-true")  # fmt: skip
    losses, needs = [], []
    for parts in (1, 4):
        done = infoprune(*command, "--accumulate", parts, "--out", f"{parts}.safetensors", "--json", f"{parts}.json")
        assert done.code == 0, done.err
        needs.append(
            re.search(r"A training step needs about (\d+) kB of memory: (.+) for each of (\d) images", done.err)
        )
        losses.append([one["loss"] for one in record_of(net / f"{parts}.json")["epochs"]])
    assert [int(one[3]) for one in needs] == [8, 2]
    assert int(needs[0][1]) > int(needs[1][1])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    refused = infoprune(*command, "--accumulate", 0, "--out", "none.safetensors")
    assert refused.code == 2
    assert "--accumulate takes a whole number of 1 or more, not 0" in refused.err
