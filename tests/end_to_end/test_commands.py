"""Each command does the whole of what it promises, on a real network and real digits."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import infoprune as package
from infoprune import pipeline, zoo
from infoprune.experiment import images as run_images
from infoprune.experiment.options import DataOptions
from infoprune.network.cost import Latency, count
from infoprune.selection import calibration
from infoprune.storage import checkpoint
from infoprune.training.duration import Duration

CUT = ("prune", "--no-repair", "--weights")
DIGITS = ("--data", "digits")


def record_of(path):
    return json.loads(path.read_text())


def logits(model, images):
    with torch.no_grad():
        return model(images)


def test_evaluate_writes_accuracy_cost_and_settings(infoprune, base, folder):
    done = infoprune("evaluate", base, *DIGITS, "--json", "out.json")
    assert done.code == 0
    record = record_of(folder / "out.json")
    assert record["figures"]["accuracy"] > 95
    assert record["figures"]["images"] == 359
    assert record["figures"]["macs"] > record["figures"]["parameters"] > 0
    assert record["figures"]["latency_ms"] > 0
    assert record["settings"]["versions"]["torch"] == torch.__version__
    assert f"{record['figures']['accuracy']:.2f}" in done.out


@pytest.mark.parametrize(
    "criterion", ["cmi", "hrel", "qsfm", "qsfm-psnr", "l1", "l2", "bn-scale", "variance", "random"]
)
def test_prune_meets_a_budget_and_says_all_of_it(infoprune, base, folder, criterion):
    done = infoprune("prune", "--no-repair", "--weights", base, *DIGITS, "--criterion", criterion, "--macs", 0.5,
                     "--out", "small.safetensors", "--json", "out.json")  # fmt: skip
    assert done.code == 0, done.err
    record = record_of(folder / "out.json")
    share = record["pruned"]["macs"] / record["base"]["macs"]
    assert 0.49 <= share <= 0.5
    for figures in (record["base"], record["pruned"]):
        assert {"accuracy", "loss", "macs", "parameters", "latency_ms"} <= set(figures)
    assert set(record["plan"]) == {"features.0", "features.3", "features.7", "features.10"}
    assert record["settings"]["criterion"] == criterion
    assert {"seed", "versions", "data", "network", "calibration_images"} <= set(record["settings"])
    assert sum(record["seconds"].values()) > 0
    small = package.load(folder / "small.safetensors")
    assert small.features[0].out_channels == len(record["plan"]["features.0"])
    assert sum(p.numel() for p in small.parameters()) == record["pruned"]["parameters"]


def test_both_budgets_are_met_when_both_are_given(infoprune, base, folder):
    assert infoprune(*CUT, base, *DIGITS, "--criterion", "l1", "--macs", 0.6, "--parameters", 0.3,
                     "--out", "small.safetensors", "--json", "out.json").code == 0  # fmt: skip
    record = record_of(folder / "out.json")
    assert record["pruned"]["macs"] <= 0.6 * record["base"]["macs"]
    assert record["pruned"]["parameters"] <= 0.3 * record["base"]["parameters"]


def test_every_layer_keeps_the_share_it_is_promised(infoprune, base, folder):
    budget = (
        "prune",
        "--no-repair",
        "--weights",
        base,
        *DIGITS,
        "--criterion",
        "l1",
        "--keep-share",
        0.6,
        "--json",
        "out.json",
    )
    done = infoprune(*budget, "--macs", 0.5, "--out", "small.safetensors")
    assert done.code == 0, done.err
    record = record_of(folder / "out.json")
    filters = {"features.0": 16, "features.3": 32, "features.7": 64, "features.10": 64}
    assert all(len(record["plan"][layer]) >= 0.6 * count for layer, count in filters.items())
    assert record["settings"]["keep_share"] == 0.6
    refused = infoprune(*budget, "--macs", 0.2, "--out", "other.safetensors", "--force")
    assert (refused.code, (folder / "other.safetensors").exists()) == (2, False)


def test_a_latency_budget_is_of_networks_that_are_run(infoprune, base, folder, monkeypatch):
    def milliseconds(models, example, rounds=3):
        return [Latency(count(model, example).macs / 1e6, 0.0) for model in models]

    monkeypatch.setattr(calibration, "latencies", milliseconds)
    monkeypatch.setattr(pipeline, "latencies", milliseconds)
    done = infoprune("prune", "--no-repair", "--weights", base, *DIGITS, "--criterion", "l1", "--latency", 0.95,
                     "--out", "small.safetensors", "--json", "out.json")  # fmt: skip
    assert done.code == 0, done.err
    record = record_of(folder / "out.json")
    assert record["pruned"]["latency_ms"] <= 0.95 * record["base"]["latency_ms"]
    assert record["pruned"]["macs"] < record["base"]["macs"]


def test_the_same_seed_gives_the_same_plan(infoprune, base, folder):
    plans = []
    for seed in (3, 3, 4):
        infoprune(*CUT, base, *DIGITS, "--criterion", "random", "--ratio", 0.5, "--seed", seed,
                  "--out", "small.safetensors", "--json", "out.json", "--force", "--quiet")  # fmt: skip
        plans.append(record_of(folder / "out.json")["plan"])
    assert plans[0] == plans[1] != plans[2]


def test_counts_lists_records_and_plans_can_be_kept(infoprune, base, folder):
    def prune(keep, *criterion):
        (folder / "keep.json").write_text(json.dumps(keep))
        done = infoprune("prune", "--no-repair", "--weights", base, *DIGITS, *criterion, "--keep", "keep.json",
                         "--out", "small.safetensors", "--json", "out.json", "--force")  # fmt: skip
        assert done.code == 0, done.err
        return record_of(folder / "out.json")

    counts = prune({"features.0": 5, "features.3": 7}, "--criterion", "l2")
    assert {name: len(kept) for name, kept in counts["plan"].items()} == {"features.0": 5, "features.3": 7}
    listed = prune({"features.0": [0, 2, 3]})
    assert listed["plan"] == {"features.0": [0, 2, 3]}
    again = prune(counts)
    assert again["plan"] == counts["plan"]
    assert again["pruned"]["accuracy"] == counts["pruned"]["accuracy"]
    plan = checkpoint.describe(folder / "small.safetensors").origin.plan
    assert prune(plan.to_dict())["plan"] == counts["plan"]


def test_layers_can_be_chosen_and_skipped(infoprune, base, folder):
    assert infoprune(*CUT, base, *DIGITS, "--criterion", "l1", "--ratio", 0.5, "--layers", "features.*",
                     "--skip", "features.0", "--out", "small.safetensors", "--json", "out.json").code == 0  # fmt: skip
    record = record_of(folder / "out.json")
    assert "features.0" not in record["plan"]
    assert "not chosen" in record["left_alone"]["features.0"]
    assert "outputs" in record["left_alone"]["classifier"]


def test_pruning_twice_is_one_plan_and_one_checkpoint(infoprune, base, folder):
    for source, out in ((base, "once.safetensors"), ("once.safetensors", "twice.safetensors")):
        assert infoprune("prune", "--no-repair", "--weights", source, *DIGITS, "--criterion", "l1", "--ratio", 0.4,
                         "--out", out).code == 0  # fmt: skip
    origin = checkpoint.describe(folder / "twice.safetensors").origin
    images = torch.rand(4, 1, 8, 8)
    twice = package.load(folder / "twice.safetensors")
    direct = package.apply(origin.plan, package.load(base))
    assert origin.plan.decisions["features.0"].filters == 16
    torch.testing.assert_close(logits(direct, images), logits(twice, images), atol=1e-5, rtol=1e-5)


def test_a_checkpoint_gives_the_same_outputs_in_a_fresh_process(infoprune, base, folder):
    assert infoprune("prune", "--no-repair", "--weights", base, *DIGITS, "--criterion", "variance", "--ratio", 0.5,
                     "--out", "small.safetensors").code == 0  # fmt: skip
    script = """
import os, sys, torch
import infoprune
# Python tells its audit hooks of every class that any unpickler looks up.
sys.addaudithook(lambda event, values: os._exit(9) if event == "pickle.find_class" else None)
model = infoprune.load("small.safetensors")
torch.manual_seed(1)
with torch.no_grad():
    print(model(torch.rand(3, 1, 8, 8)).double().sum().item().hex())
"""
    fresh = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=folder)
    small = package.load(folder / "small.safetensors")
    torch.manual_seed(1)
    here = logits(small, torch.rand(3, 1, 8, 8)).double().sum().item()
    assert fresh.stdout.strip() == here.hex()


def test_tuning_brings_accuracy_back(infoprune, base, folder):
    infoprune(*CUT, base, *DIGITS, "--criterion", "random", "--macs", 0.2, "--out", "small.safetensors",
              "--json", "pruned.json")  # fmt: skip
    done = infoprune("tune", "small.safetensors", *DIGITS, "--epochs", 4, "--lr", 0.05, "--precision", "32-true",
                     "--teacher", base, "--temperature", 2, "--out", "tuned.safetensors",
                     "--json", "tuned.json")  # fmt: skip
    assert done.code == 0, done.err
    before, after = record_of(folder / "pruned.json")["pruned"], record_of(folder / "tuned.json")["figures"]
    assert after["accuracy"] > before["accuracy"]
    assert after["macs"] == before["macs"]
    assert "epoch 4 of 4" in done.err
    assert record_of(folder / "tuned.json")["settings"]["recipe"]["attention"] == 10
    held_out = record_of(folder / "tuned.json")["held_out_before"]
    assert f"before the training: held-out accuracy {held_out:.2f} %" in done.err
    assert "No epoch reached" not in done.err
    assert not (folder / "tuned.safetensors.resume").exists()
    assert package.load(folder / "tuned.safetensors").features[0].out_channels < 16


def test_a_tuning_that_does_harm_says_so_and_what_to_try(infoprune, base, folder):
    done = infoprune("tune", base, *DIGITS, "--epochs", 1, "--lr", 0.6, "--precision", "32-true", "--teacher", base,
                     "--out", "tuned.safetensors", "--json", "tuned.json")  # fmt: skip
    assert done.code == 0, done.err
    record = record_of(folder / "tuned.json")
    assert record["epochs"][0]["held_out"] < record["held_out_before"]
    assert "No epoch reached the held-out accuracy from before the training" in done.err
    assert "--lr 0.2" in done.err


def test_two_teachers_and_minutes_in_place_of_epochs(infoprune, base, folder):
    command = ("tune", base, *DIGITS, "--precision", "32-true", "--minutes", 0.0001, "--distillation", 1)
    done = infoprune(*command, "--teacher", base, "--teacher", base, "--out", "two.safetensors", "--json", "two.json")
    assert done.code == 0, done.err
    assert "An epoch takes about" in done.err
    assert "epoch 1 of 1:" in done.err
    settings = record_of(folder / "two.json")["settings"]
    assert settings["teacher"] == [str(base)] * 2
    assert settings["recipe"]["epochs"] == 1
    one = infoprune(*command, "--teacher", base, "--out", "one.safetensors")
    assert one.code == 0, one.err
    pairs = zip(*(package.load(folder / f"{name}.safetensors").parameters() for name in ("one", "two")), strict=True)
    assert all(torch.allclose(first, second, atol=1e-5) for first, second in pairs)


def test_of_a_teacher_of_another_form_the_answers_alone_are_learned(infoprune, base, folder, monkeypatch):
    from infoprune.experiment import train as commands

    other = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    monkeypatch.setattr(commands, "_teacher", lambda *_: other.eval())
    done = infoprune("tune", base, *DIGITS, "--epochs", 1, "--precision", "32-true", "--teacher", base,
                     "--out", "tuned.safetensors", "--json", "tuned.json")  # fmt: skip
    assert done.code == 0, done.err
    assert "its answers are learned, its attention maps are not" in " ".join(done.err.split())
    recipe = record_of(folder / "tuned.json")["settings"]["recipe"]
    assert (recipe["attention"], recipe["distillation"]) == (0, 0.7)


@pytest.mark.parametrize("command", [("train", "--model", "digits"), ("tune", "small.safetensors")])
def test_epochs_and_minutes_together_are_refused(infoprune, command):
    done = infoprune(*command, *DIGITS, "--epochs", 2, "--minutes", 2, "--out", "x.safetensors")
    assert done.code == 2
    assert "--epochs and --minutes both say how long" in " ".join(done.err.split())


def test_a_teacher_of_other_classes_is_refused(infoprune, base, folder):
    origin = package.Origin("digits", (1, 8, 8), {"classes": 7})
    package.save(zoo.build("digits", classes=7), folder / "seven.safetensors", origin=origin)
    done = infoprune("tune", base, *DIGITS, "--epochs", 1, "--teacher", "seven.safetensors", "--out", "x.safetensors")
    assert done.code == 2
    assert "the teacher 'seven.safetensors' has 7 classes, the network 10" in " ".join(done.err.split())


def test_a_training_of_minutes_that_goes_on_keeps_its_epochs(infoprune, base, folder, monkeypatch):
    from infoprune.experiment import train as commands

    def found(minutes, *_, **__):
        return Duration(1.0, int(minutes))

    def interrupt(epoch, recipe):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "epochs_within", found)
    command = ("tune", base, *DIGITS, "--precision", "32-true", "--out", "tuned.safetensors", "--minutes")
    with monkeypatch.context() as patch:
        patch.setattr(commands, "_told", interrupt)
        assert infoprune(*command, 2).code == 130
    done = infoprune(*command, 5)
    assert done.code == 0, done.err
    assert "epoch 2 of 2:" in done.err
    assert "epoch 1 of" not in done.err


def test_an_interrupted_training_goes_on(infoprune, folder, monkeypatch):
    command = ("train", "--model", "digits", *DIGITS, "--epochs", 3, "--precision", "32-true", "--clip", 1,
               "--rotation", 5, "--scaling", 0.1, "--out")  # fmt: skip

    from infoprune.experiment import train as commands

    def interrupt(epoch, recipe):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(commands, "_told", interrupt)
        stopped = infoprune(*command, "a.safetensors")
    assert stopped.code == 130
    assert "resumes" in stopped.err
    assert sorted(path.name for path in folder.iterdir()) == ["a.safetensors.resume"]
    assert infoprune(*command, "a.safetensors").code == 0
    assert infoprune(*command, "b.safetensors").code == 0
    one, other = (package.load(folder / name).state_dict() for name in ("a.safetensors", "b.safetensors"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_half_precision_is_stored_and_measured_as_stored(infoprune, folder):
    infoprune("train", "--model", "digits", *DIGITS, "--epochs", 3, "--precision", "32-true", "--half",
              "--out", "half.safetensors", "--json", "half.json")  # fmt: skip
    infoprune("evaluate", "half.safetensors", *DIGITS, "--json", "again.json")
    with safe_open(folder / "half.safetensors", "pt") as file:
        assert file.get_tensor("features.0.weight").dtype == torch.float16
    assert record_of(folder / "half.json")["figures"]["loss"] == record_of(folder / "again.json")["figures"]["loss"]


def test_show_says_what_is_inside(infoprune, base, folder):
    infoprune(
        "prune",
        "--no-repair",
        "--weights",
        base,
        *DIGITS,
        "--criterion",
        "hrel",
        "--ratio",
        0.5,
        "--out",
        "small.safetensors",
    )
    done = infoprune("show", "small.safetensors", "--json", "show.json")
    assert done.code == 0
    for word in ("digits", "features.10", "hrel", "accuracy", "versions"):
        assert word in done.out
    assert record_of(folder / "show.json")["plan"]["layers"]["features.0"]["filters"] == 16


def test_a_users_own_network_and_criterion(infoprune, folder, monkeypatch):
    (folder / "mine.py").write_text(
        """
from torch import nn

def network(width=8):
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.ReLU(), nn.Conv2d(width, 8, 3), nn.ReLU(), nn.Flatten(),
                         nn.Linear(8 * 16, 10))

def energy(maps, labels):
    return maps.pow(2).mean((0, 2, 3))
"""
    )
    done = infoprune("prune", "--no-repair", "--model",
                     "mine:network", "--model-args", '{"width": 12}', "--input-shape", "1,8,8",
                     *DIGITS, "--criterion", "mine:energy", "--ratio", 0.5, "--out", "small.safetensors",
                     "--json", "out.json")  # fmt: skip
    assert done.code == 0, done.err
    assert len(record_of(folder / "out.json")["plan"]["0"]) == 6
    monkeypatch.syspath_prepend(folder)
    network = importlib.import_module("mine").network
    small = package.load(folder / "small.safetensors", build=lambda: network(width=12))
    assert small[0].out_channels == 6


def test_criteria_and_networks_are_listed(infoprune):
    listed = infoprune("criteria").out
    assert all(name in listed for name in ("cmi", "hrel", "qsfm", "l1", "random", "2411.18578"))
    assert "resnet56" in infoprune("networks").out


def test_quiet_prints_nothing(infoprune, base, folder):
    done = infoprune("evaluate", base, *DIGITS, "--quiet", "--json", "out.json")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert (folder / "out.json").exists()


def test_the_demo_prunes_without_options_and_compares_five_criteria(infoprune, folder):
    done = infoprune("demo", "--out", "demo")
    assert done.code == 0, done.err
    record = record_of(folder / "demo" / "record.json")
    assert set(record["criteria"]) == {"cmi", "hrel", "qsfm", "l1", "random"}
    assert record["base"]["figures"]["accuracy"] > 95
    for name, row in record["criteria"].items():
        assert 0.49 <= row["pruned"]["macs"] / row["base"]["macs"] <= 0.5
        assert (folder / "demo" / f"{name}.safetensors").exists()
        of_seeds = [one for one in record["board"]["rows"] if one["criterion"] == name and one["repair"] == "bn"]
        assert [one["seed"] for one in of_seeds] == [0, 1, 2]
        # The run of the pages is the first seed of the board.
        assert (of_seeds[0]["accuracy"], of_seeds[0]["macs"]) == (row["pruned"]["accuracy"], row["pruned"]["macs"])
        assert f"{sum(one['accuracy'] for one in of_seeds) / 3:.2f}" in done.out
        assert (folder / "demo" / name / "record.json").exists()
    default = record["default"]
    assert default["pruned"]["macs"] <= 0.5 * default["base"]["macs"]
    assert default["base"]["accuracy"] - default["pruned"]["accuracy"] <= 1.0
    assert f"-> {default['pruned']['accuracy']:.2f} %" in done.out.splitlines()[-1]
    pytest.importorskip("plotly")
    assert f"report: {Path('demo') / 'report.html'}" in done.out.splitlines()
    assert f"{default['pruned']['accuracy']:.2f} %" in (folder / "demo" / "report.html").read_text()
    assert (folder / "demo" / "compare.html").exists()
    assert (folder / "demo" / "board" / "board.html").exists()


def test_calibration_and_test_images_never_overlap():
    parts = run_images.open_parts(DataOptions("digits", calibration=200))
    named = {
        name: {image.numpy().tobytes() for image in getattr(parts, name).images}
        for name in ("train", "held_out", "calibration", "test")
    }
    assert named["calibration"] <= named["train"]
    assert not named["calibration"] & named["held_out"]
    assert not named["train"] & named["test"]


def test_a_repaired_network_is_recorded_beside_the_cut_one(infoprune, base, folder):
    done = infoprune("prune", "--weights", base, *DIGITS, "--criterion", "random", "--macs", 0.4, "--repair", "bn",
                     "--repair-images", 300, "--out", "small.safetensors", "--json", "out.json")  # fmt: skip
    assert done.code == 0, done.err
    record = record_of(folder / "out.json")
    assert record["pruned"]["loss"] < record["as_cut"]["loss"]
    assert record["settings"]["repair"] == {"method": "bn", "images": 300, "epochs": 20, "rounds": 6}
    assert record["seconds"]["repair"] > 0
    assert "as cut" in done.out
    stored = infoprune("evaluate", folder / "small.safetensors", *DIGITS, "--json", "again.json")
    assert stored.code == 0
    assert record_of(folder / "again.json")["figures"]["loss"] == pytest.approx(record["pruned"]["loss"], rel=1e-5)


def test_an_unknown_repair_is_refused_before_any_work(infoprune, base, folder):
    done = infoprune("prune", "--weights", base, *DIGITS, "--macs", 0.5, "--repair", "bm", "--out", "small.safetensors")
    assert done.code == 2
    assert "did you mean 'bn'" in done.err


def test_two_processes_train_one_network(folder):
    command = "train --model digits --data digits --epochs 2 --lr 0.1 --precision 32-true --device cpu --devices 2"
    script = Path(sys.executable).with_name("infoprune")
    done = subprocess.run(
        [script, *command.split(), "--out", "a.safetensors", "--json", "a.json"],
        capture_output=True, text=True, cwd=folder, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert record_of(folder / "a.json")["settings"]["processes"] == 2
    assert done.stderr.count("epoch 2 of 2") == 1
    assert package.load(folder / "a.safetensors")
