"""Pruning in rounds and its information plane, as a user calls them; killed for real, too."""

import json

import pytest
import torch

import infoprune as package

DIGITS = ("--data", "digits", "--batch-size", 128)
ROUNDS = ("--remove", "features.0=5:6", "--remove", "features.7=40%+1:0.25", "--epochs", 1, "--lr", 0.05,
          "--calibration", 100)  # fmt: skip


def same(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_iterate_prunes_in_rounds_and_says_all_of_it(infoprune, base, folder):
    done = infoprune("iterate", "--weights", base, *DIGITS, *ROUNDS, "--last-epochs", 2, "--distillation", 0.3,
                     "--no-augmentation", "--plane", "plane.csv", "--plane-every", 5,
                     "--out", "small.safetensors", "--json", "out.json")  # fmt: skip
    assert done.code == 0, done.err
    record = json.loads((folder / "out.json").read_text())
    widths = [tuple(one["filters"].values()) for one in record["rounds"]]
    assert widths == [(16, 64), (11, 38), (6, 22), (6, 16)]
    small = package.load(folder / "small.safetensors")
    assert (small.features[0].out_channels, small.features[7].out_channels) == widths[-1]
    assert record["ended"] == "every layer is at its limit"
    assert [one["epochs"] for one in record["rounds"]] == [0, 1, 1, 2]
    assert record["figures"]["macs"] == record["rounds"][-1]["macs"]
    assert record["figures"]["accuracy"] == record["rounds"][-1]["test"]
    assert record["settings"]["schedule"]["last"]["distillation"] == 0.3
    assert record["settings"]["schedule"]["augmentation"] is False
    assert {"seed", "versions", "data", "network", "machine"} <= set(record["settings"])
    assert "round 2 of 3" in done.err
    assert "every layer is at its limit" in done.out
    assert sorted(path.name for path in folder.iterdir()) == ["out.json", "plane.csv", "small.safetensors"]

    drawn = infoprune("plane", "plane.csv", "--figures", "figures", "--window", 2, "--out", "means.csv")
    assert drawn.code == 0, drawn.err
    assert len(list((folder / "figures").glob("plane*.svg"))) == 3
    assert len((folder / "means.csv").read_text().splitlines()) < len((folder / "plane.csv").read_text().splitlines())


def test_a_schedule_from_a_file_and_a_floor(infoprune, base, folder):
    schedule = {"layers": [{"layers": "features.*", "pace": "25%", "limit": 0.5}], "criterion": "l1",
                "retraining": {"epochs": 1, "learning_rate": 0.01, "schedule": "cosine"}}  # fmt: skip
    (folder / "mine.json").write_text(json.dumps(schedule))
    done = infoprune("iterate", "--weights", base, *DIGITS, "--schedule", "mine.json", "--floor", 100,
                     "--out", "small.safetensors", "--json", "out.json", "--state", "kept")  # fmt: skip
    assert done.code == 0, done.err
    record = json.loads((folder / "out.json").read_text())
    assert len(record["rounds"]) == 2 or all(one["held_out"] == 100 for one in record["rounds"][1:-1])
    assert record["settings"]["schedule"]["floor"] == 100
    assert (folder / "kept" / "state.json").exists()


def test_the_schedules_are_listed(infoprune):
    done = infoprune("schedules")
    assert all(name in done.out for name in ("hrel-lenet5", "hrel-vgg16-short", "hrel-resnet50"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "name what is removed each round"),
        (("--remove", "features.0"), "--remove takes LAYERS=PACE:LIMIT"),
        (("--remove", "features.0=x"), "'2', '5%' or '5%+1', not 'x'"),
        (("--remove", "features.0=1:x"), "the limit of 'features.0=1:x'"),
        (("--remove", "featurs.0=1"), "did you mean 'features.0'"),
        (("--schedule", "hrel-vgg"), "did you mean 'hrel-vgg16'"),
        (("--schedule", "none.json"), "'none.json' does not exist"),
        (("--remove", "features.0=1", "--initial"), "no initial training"),
        (("--remove", "features.0=1", "--plane", "x.txt"), ".csv or .parquet"),
        (("--remove", "features.0=1", "--tap", "pool"), "--tap takes one of"),
    ],
)
def test_mistakes_are_one_sentence_and_nothing_is_written(infoprune, base, folder, words, message):
    done = infoprune("iterate", "--weights", base, *DIGITS, "--out", "small.safetensors", *words)
    assert done.code == 2
    assert message in done.err
    assert done.err.count("Error:") == 1
    assert list(folder.iterdir()) == []
