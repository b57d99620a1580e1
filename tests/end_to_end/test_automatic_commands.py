"""``infoprune sensitivity`` and ``infoprune sweep`` on the digits, from a checkpoint to tables and files."""

import json

import pytest
import torch

import infoprune as package
from infoprune.experiment import images as run_images
from infoprune.experiment.images import open_parts
from infoprune.experiment.options import DataOptions
from infoprune.network.cost import count

DIGITS = ("--data", "digits")


def record_of(path):
    return json.loads(path.read_text())


def numbers_of(line):
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_sensitivity_measures_every_layer_at_every_ratio(infoprune, base, folder):
    done = infoprune("sensitivity", "--weights", base, *DIGITS, "--ratios", "0.25,0.75", "--json", "out.json")
    assert done.code == 0, done.err
    record = record_of(folder / "out.json")
    model = package.load(base)
    filters = {name: model.get_submodule(name).out_channels for name in ("features.0", "features.3", "features.7")}
    rows = {(one["layer"], one["ratio"]): one for one in record["layers"]}
    assert set(rows) == {(layer, ratio) for layer in (*filters, "features.10") for ratio in (0.25, 0.75)}
    for layer, number in filters.items():
        assert rows[layer, 0.25]["filters"] == number
        assert 0 < rows[layer, 0.25]["macs"] < rows[layer, 0.75]["macs"] < 1
        assert 0 <= rows[layer, 0.25]["divergence"] < rows[layer, 0.75]["divergence"]
        assert 0 < rows[layer, 0.75]["agreement"] <= 100
    assert record["settings"]["ratios"] == [0.25, 0.75]
    assert record["settings"]["data"]["calibration"] == 500
    printed = [numbers_of(line) for line in done.out.splitlines() if "features." in line]
    for cells, one in zip(printed, record["layers"], strict=True):
        assert cells == [one["layer"], str(one["filters"]), f"{one['ratio']:g}", f"{one['macs']:.2%}",
                         f"{one['divergence']:.4f}", f"{one['agreement']:.2f} %"]  # fmt: skip


def test_sensitivity_draws_the_chosen_layers(infoprune, base, folder):
    pytest.importorskip("matplotlib")
    command = ("sensitivity", "--weights", base, *DIGITS, "--calibration", 100, "--ratios", "0.5,0.75", "--layers",
               "features.*", "--skip", "features.0", "--skip", "features.10", "--quiet")  # fmt: skip
    assert infoprune(*command, "--plot", "layers.svg").code == 0
    drawn = (folder / "layers.svg").read_text()
    assert drawn.startswith("<?xml")
    assert "<svg" in drawn
    done = infoprune(*command, "--plot", "layers.png", "--json", "out.json")
    assert (done.code, done.out) == (0, "")
    assert (folder / "layers.png").read_bytes().startswith(b"\x89PNG")
    assert {one["layer"] for one in record_of(folder / "out.json")["layers"]} == {"features.3", "features.7"}


def test_sweep_writes_one_checkpoint_for_each_budget(infoprune, base, folder):
    done = infoprune("sweep", "--weights", base, *DIGITS, "--macs", "0.5,0.8", "--effort", "quick",
                     "--out-dir", "small", "--json", "out.json")  # fmt: skip
    assert done.code == 0, done.err
    assert sorted(path.name for path in (folder / "small").iterdir()) == [
        "macs-0.5.safetensors", "macs-0.8.safetensors"]  # fmt: skip
    record = record_of(folder / "out.json")
    assert [one["budget"] for one in record["points"]] == [0.8, 0.5]
    assert record["base"]["accuracy"] > 95
    digits = DataOptions("digits")
    test = open_parts(digits).test
    for one in record["points"]:
        small = package.load(folder / one["file"])
        assert one["macs"] == count(small, torch.rand(1, 1, 8, 8)).macs <= one["budget"] * record["base"]["macs"]
        assert one["parameters"] == sum(p.numel() for p in small.parameters()) < record["base"]["parameters"]
        measured = package.evaluate(small, run_images.batches(test, small, digits))
        assert one["accuracy"] == pytest.approx(measured.accuracy)
        assert one["images"] == measured.images == 359
        assert 0 < one["agreement"] <= 100
        assert package.evaluate(package.load(base), run_images.batches(test, small, digits)).accuracy == pytest.approx(
            record["base"]["accuracy"]
        )
    assert record["points"][0]["accuracy"] > record["base"]["accuracy"] - 5
    printed = [numbers_of(line) for line in done.out.splitlines() if line.startswith("│")]
    assert [cells[0] for cells in printed] == ["1", "0.8", "0.5"]
    for cells, one in zip(printed[1:], record["points"], strict=True):
        assert cells[1] == f"{one['macs']:,}"
        assert cells[-2:] == [f"{one['agreement']:.2f} %", f"{one['accuracy']:.2f} %"]


def test_a_network_of_a_sweep_is_a_checkpoint_for_other_commands(infoprune, base, folder):
    assert infoprune("sweep", "--weights", base, *DIGITS, "--calibration", 100, "--macs", 0.6, "--effort", "quick",
                     "--out-dir", ".", "--quiet").code == 0  # fmt: skip
    shown = infoprune("show", "macs-0.6.safetensors", "--json", "shown.json")
    assert shown.code == 0
    contents = record_of(folder / "shown.json")
    assert contents["settings"]["budget"] == {"macs": 0.6}
    assert contents["figures"]["pruned"]["macs"] <= 0.6 * contents["figures"]["base"]["macs"]
    assert infoprune("evaluate", "macs-0.6.safetensors", *DIGITS, "--quiet").code == 0


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (("sensitivity", "--ratios", "0.5,1"), "--ratios"),
        (("sensitivity", "--ratios", ""), "--ratios"),
        (("sensitivity", "--layers", "nothing*"), "nothing*"),
        (("sensitivity", "--plot", "layers.gif"), "a plot is a .png or .svg file, not 'layers.gif'"),
        (("sweep", "--macs", "0.5,1.5", "--out-dir", "small"), "--macs"),
        (("sweep", "--macs", "0.001", "--out-dir", "small"), "MACs"),
        (("sweep", "--macs", "0.5,0.50000001", "--out-dir", "small"), "is named twice"),
        (("sweep", "--macs", "0.5"), "--out-dir"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_no_file(infoprune, base, folder, command, sentence):
    done = infoprune(*command, "--weights", base, *DIGITS)
    assert (done.code, done.out) == (2, "")
    assert sentence in done.err
    assert "Traceback" not in done.err
    assert not [path for path in folder.rglob("*") if path.is_file()]


def test_a_sweep_replaces_files_only_by_force(infoprune, base, folder):
    (folder / "macs-0.5.safetensors").write_bytes(b"mine")
    command = ("sweep", "--weights", base, *DIGITS, "--calibration", 50, "--macs", "0.5,0.7", "--effort", "quick",
               "--out-dir", ".")  # fmt: skip
    done = infoprune(*command)
    assert done.code == 2
    assert "macs-0.5.safetensors' exists already" in done.err
    assert [path.name for path in folder.iterdir()] == ["macs-0.5.safetensors"]
    assert infoprune(*command, "--force").code == 0
    assert package.load(folder / "macs-0.5.safetensors") is not None
