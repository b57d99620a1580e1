"""Whatever a user does wrong is answered by one sentence and exit code 2, and leaves no file behind."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

DIGITS = ("--data", "digits")


@pytest.fixture
def refused(infoprune, folder):
    """Run a command that must be refused, and return its sentence."""

    def call(*arguments):
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        done = infoprune(*arguments)
        assert done.code == 2, (done.out, done.err)
        assert done.out == ""
        # Progress and what is within reach may stand before the sentence, nothing after it.
        lines = done.err.strip().splitlines()
        assert lines[-1].startswith("Error: ")
        assert sum(line.startswith("Error") for line in lines) == 1, done.err
        assert "Traceback" not in done.err
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
        return lines[-1]

    return call


@pytest.fixture
def prune(refused, base):
    def call(*arguments, weights=base, data=DIGITS):
        return refused("prune", "--weights", weights, *data, "--out", "small.safetensors", *arguments)

    return call


def test_a_missing_weights_file(prune):
    assert "'none.safetensors' does not exist" in prune("--model", "digits", "--ratio", 0.5, weights="none.safetensors")


def test_a_missing_checkpoint(refused):
    assert "does not exist" in refused("show", "none.safetensors")
    assert "does not exist" in refused("evaluate", "none.safetensors", *DIGITS)


def test_a_truncated_checkpoint(refused, base, folder):
    (folder / "cut.safetensors").write_bytes(base.read_bytes()[:-100])
    assert "not a whole safetensors file" in refused("show", "cut.safetensors")
    assert "not a whole safetensors file" in refused("evaluate", "cut.safetensors", *DIGITS)


def test_a_truncated_weights_file(prune, folder):
    torch.save({"a": torch.zeros(1000)}, folder / "w.pt")
    (folder / "w.pt").write_bytes((folder / "w.pt").read_bytes()[:500])
    assert "w.pt" in prune("--model", "digits", "--ratio", 0.5, weights="w.pt")


def test_the_weights_of_another_architecture(prune, base, folder):
    weights = load_file(base)
    weights["features.3.weight"] = torch.zeros(20, 16, 3, 3)
    save_file(weights, folder / "other.safetensors")
    sentence = prune("--model", "digits", "--ratio", 0.5, weights="other.safetensors")
    for part in ("features.3.weight", "(20, 16, 3, 3)", "(32, 16, 3, 3)"):
        assert part in sentence


def test_a_checkpoint_of_another_architecture(prune):
    assert "a checkpoint of 'digits', not of 'vgg16'" in prune("--model", "vgg16", "--ratio", 0.5)


@pytest.mark.parametrize(("option", "value"), [("--resize", 12), ("--crop", 8), ("--interpolation", "bicubic")])
def test_a_size_for_images_that_are_no_files(prune, refused, base, option, value):
    assert f"{option} is for image files" in prune("--ratio", 0.5, option, value)
    assert f"{option} is for image files" in refused("evaluate", base, *DIGITS, option, value)


def test_weights_that_are_not_finite(prune, base, folder):
    weights = load_file(base)
    weights["features.3.weight"][0, 0, 0, 0] = torch.nan
    save_file(weights, folder / "nan.safetensors")
    sentence = prune("--model", "digits", "--ratio", 0.5, weights="nan.safetensors")
    assert "features.3.weight" in sentence
    assert "NaN" in sentence


def test_activations_that_are_not_finite(refused, folder):
    (folder / "explodes.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Log(nn.Module):\n    def forward(self, x):\n        return torch.log(x * 0 - 1)\n"
        "def network():\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 3), Log(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 10))\n"
    )
    sentence = refused("prune", "--model", "explodes:network", "--input-shape", "1,8,8", *DIGITS, "--ratio", 0.5,
                       "--out", "small.safetensors")  # fmt: skip
    assert "not finite" in sentence


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--macs", 0), "--macs takes a number above 0 and at most 1, not 0.0"),
        (("--macs", 1.2), "--macs takes a number above 0 and at most 1, not 1.2"),
        (("--parameters", -1), "--parameters takes a number above 0"),
        (("--latency", 2), "--latency takes a number above 0 and at most 1"),
        (("--ratio", 0.5, "--macs", 0.5), "a cut-off or a threshold, not by ratio and budget"),
        ((), "one of a ratio, explicit counts, a budget, a cut-off or a threshold, not by nothing"),
        (("--ratio", 1), "ratio"),
        (("--ratio", -0.1), "ratio"),
        (("--ratio", 0.5, "--criterion", "hrell"), "did you mean 'hrel'"),
        (("--ratio", 0.5, "--criterion", "no.module:function"), "no.module"),
        (("--ratio", 0.5, "--layers", "features.4"), "layer 'features.4'"),
        (("--ratio", 0.5, "--layers", "classifier"), "its outputs are the network's outputs"),
        (("--ratio", 0.5, "--skip", "featurs.0"), "did you mean 'features.0'"),
        (("--ratio", 0.5, "--tap", "pool"), "--tap takes one of"),
        (("--ratio", 0.5, "--criterion-options", "[1]"), "--criterion-options takes a JSON object"),
        (("--ratio", 0.5, "--criterion-options", '{"order": 2}'), "order"),
        (("--ratio", 0.5, "--device", "abacus"), "there is no device 'abacus'"),
        (("--ratio", 0.5, "--calibration", 10_000), "calibration set"),
        (("--ratio", "half"), "--ratio"),
        (("--macs", 0.0001), "cannot be met"),
    ],
)
def test_impossible_options(prune, options, sentence):
    assert sentence in prune(*options)


@pytest.mark.parametrize(
    ("keep", "sentence"),
    [
        ("nonsense", "is not JSON"),
        ("[1]", "must hold a plan"),
        ('{"features.0": "all"}', "must hold a plan"),
        ('{"features.00": 3}', "did you mean 'features.0'"),
        ('{"features.0": 17}', "features.0"),
        ('{"features.0": 0}', "features.0"),
        ('{"features.0": [3, 99]}', "99"),
    ],
)
def test_counts_that_do_not_fit(prune, folder, keep, sentence):
    (folder / "keep.json").write_text(keep)
    assert sentence in prune("--keep", "keep.json")


def test_the_plan_of_another_network_names_the_layer(prune, folder):
    layer = {"layer": "features.0", "filters": 99, "kept": [0, 98]}
    (folder / "plan.json").write_text(json.dumps({"format": 1, "layers": {"features.0": layer}}))
    sentence = prune("--keep", "plan.json")
    assert "features.0" in sentence
    assert "99" in sentence


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--ratio", 0.5), "ratio"),
        (("--macs", 0.5), "macs"),
        (("--criterion", "l1"), "criterion"),
        (("--cutoff", "scree"), "cutoff"),
        (("--layers", "features.*"), "layers"),
        (("--reselect",), "reselect"),
        (("--criterion-options", '{"alpha": 2}'), "criterion_options"),
        (("--stability", 3), "stability"),
    ],
)
def test_a_plan_with_words_that_choose_filters(prune, folder, words, named):
    (folder / "plan.json").write_text(json.dumps({"format": 1, "layers": {}}))
    sentence = prune("--keep", "plan.json", *words)
    assert "a plan" in sentence
    assert f"leave out {named}" in sentence.replace("the stability", "stability")


def test_a_largest_loss_with_words_that_choose_filters(prune, folder):
    (folder / "plan.json").write_text(json.dumps({"format": 1, "layers": {}}))
    for words in (("--criterion", "l1"), ("--keep", "plan.json"), ("--repair", "bn")):
        assert "a limit on the loss finds its own criterion" in prune("--max-loss", 1, *words)


def test_options_that_would_be_ignored(prune):
    assert "both say how much time" in prune("--macs", 0.5, "--effort", "quick", "--minutes", 3)
    for choice in (("--criterion", "l1"), ("--repair", "bn"), ("--no-repair",)):
        assert "leave them out, or what you chose" in prune("--macs", 0.5, "--effort", "quick", *choice)
    assert "has no minutes to choose" in prune("--macs", 0.5, "--repair", "bn", "--repair-minutes", 3)
    assert "has no epochs to choose" in prune("--macs", 0.5, "--repair-epochs", 3)
    assert "there is none" in prune("--macs", 0.5, "--criterion", "l1", "--held-out", 100)


def test_a_record_does_not_replace_what_is_read(prune, base):
    assert "is named twice" in prune("--macs", 0.5, "--json", base, "--force")


def test_weights_of_no_checkpoint(refused, folder):
    save_file({"weight": torch.zeros(2)}, folder / "plain.safetensors")
    assert refused("show", "plain.safetensors").endswith("it does not say of which network")
    assert "need the network they are of, --model" in refused("evaluate", "plain.safetensors", *DIGITS)


def test_unknown_networks_and_data(refused):
    assert "did you mean 'vgg16'" in refused("evaluate", "--model", "vgg61", *DIGITS)
    assert "did you mean 'digits'" in refused("evaluate", "--model", "digits", "--data", "digit")
    assert "needs its directory" in refused("evaluate", "--model", "digits", "--data", "mnist")
    assert "does not exist" in refused("evaluate", "--model", "digits", "--data", "mnist", "--data-dir", "none")
    assert "name a network with --model" in refused("evaluate", *DIGITS)
    assert "vgg17" in refused("evaluate", "--model", "nowhere:vgg17", *DIGITS)


def test_images_that_the_network_cannot_read(refused):
    assert "channels" in refused("evaluate", "--model", "vgg16", *DIGITS)


def test_labels_out_of_range(prune, refused):
    sentence = refused("evaluate", "--model", "digits", "--model-args", '{"classes": 4}', *DIGITS)
    assert "4 outputs (classes 0 to 3)" in sentence


def test_a_model_without_convolutions(refused, folder):
    (folder / "flat.py").write_text(
        "from torch import nn\ndef network():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    sentence = refused("prune", "--model", "flat:network", "--input-shape", "1,8,8", *DIGITS, "--ratio", 0.5,
                       "--out", "small.safetensors")  # fmt: skip
    assert "no convolutions" in sentence


def test_unreadable_images(refused, folder):
    for split in ("train", "test"):
        for name in "ab":
            (folder / "images" / split / name).mkdir(parents=True)
            for i in range(12):
                noise = np.random.default_rng(i).integers(0, 255, (8, 8), np.uint8)
                Image.fromarray(noise).save(folder / "images" / split / name / f"{i}.png")
    (folder / "images" / "test" / "a" / "3.png").write_bytes(b"broken")
    sentence = refused("evaluate", "--model", "digits", "--model-args", '{"classes": 2}', "--data", "folder",
                       "--data-dir", "images")  # fmt: skip
    assert "3.png' is not an image" in sentence


def test_an_empty_folder(refused, folder):
    (folder / "images").mkdir()
    sentence = refused("evaluate", "--model", "digits", "--data", "folder", "--data-dir", "images")
    assert "no folders" in sentence


@pytest.mark.parametrize("command", ["prune", "train", "evaluate"])
def test_outputs_that_exist_are_kept(refused, base, folder, command):
    (folder / "there").write_text("precious")
    out = ("--json", "there") if command == "evaluate" else ("--out", "there")
    extra = ("--ratio", 0.5) if command == "prune" else ()
    assert "use --force" in refused(command, "--weights", base, *DIGITS, *out, *extra)


def test_one_file_for_two_outputs(refused, base, folder):
    (folder / "x").write_text("precious")
    for words in (("prune", "--ratio", 0.5), ("train",), ("iterate", "--remove", "features.0=1")):
        sentence = refused(*words, "--weights", base, *DIGITS, "--out", "x", "--json", "x", "--force")
        assert "is named twice" in sentence
    assert "is named twice" in refused("prune", "--ratio", 0.5, "--weights", base, *DIGITS, "--out", "x",
                                       "--run", "run", "--report", "run/record.json")  # fmt: skip
    assert "is named twice" in refused("export", base, "--onnx", base, "--force")
    assert (folder / "x").read_text() == "precious"
    assert [path.name for path in folder.iterdir() if path.name != "run"] == ["x"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--no-repair", "--repair", "bn"), "--no-repair and --repair bn contradict each other"),
        (("--mean", 123, "--std", 58), "divide them by 255"),
    ],
)
def test_words_that_cannot_be_meant(refused, base, folder, words, sentence):
    assert sentence in refused("prune", "--macs", 0.5, "--weights", base, *DIGITS, "--out", "x", *words)
    assert not list(folder.iterdir())


@pytest.mark.parametrize("command", ["prune", "train", "iterate"])
def test_seeds_that_no_generator_takes(refused, base, folder, command):
    extra = {"prune": ("--ratio", 0.5), "iterate": ("--remove", "features.0=1"), "train": ()}[command]
    for seed in (2**31, -1, 10**30):
        sentence = refused(command, "--weights", base, *DIGITS, "--out", "o", *extra, "--seed", seed)
        assert "--seed takes a whole number of 0 or more" in sentence
    assert list(folder.iterdir()) == []


def test_sizes_that_no_image_has(refused, base, folder):
    for size in ("0", "-4", "8,0"):
        assert "--sizes takes" in refused("train", "--weights", base, *DIGITS, "--out", "o", "--sizes", size)
    assert "cannot read images of shape (1, 1, 1)" in refused("train", "--weights", base, *DIGITS, "--out", "o",
                                                              "--sizes", "1,8")  # fmt: skip
    assert list(folder.iterdir()) == []


def test_devices_and_links_to_nothing_are_no_outputs(prune, folder):
    (folder / "link").symlink_to("nowhere")
    assert "which does not exist" in prune("--ratio", 0.5, "--json", "link", "--force")
    assert "a device" in prune("--ratio", 0.5, "--json", "/dev/null", "--force")
    assert "300 bytes" in prune("--ratio", 0.5, "--json", "x" * 300)


def test_outputs_that_cannot_be_written(prune, folder):
    (folder / "file").touch()
    assert "cannot be written" in prune("--ratio", 0.5, "--json", "file/below.json")
    assert "is a folder" in prune("--ratio", 0.5, "--json", folder)


def test_a_full_disk(prune, monkeypatch):
    def full(tensors, path, metadata=None):
        path.write_text("half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("infoprune.storage.checkpoint.save_file", full)
    assert "no space is left on the disk" in prune("--ratio", 0.5)


def test_numbers_that_are_none(refused):
    assert "--mean takes numbers" in refused("evaluate", "--model", "digits", "--mean", "a", "--std", "1", *DIGITS)
    assert "needed together" in refused("evaluate", "--model", "digits", "--mean", "0.5", *DIGITS)
    assert "--input-shape" in refused("evaluate", "--model", "digits", "--input-shape", "8,8", *DIGITS)
    assert "--model-args" in refused("evaluate", "--model", "digits", "--model-args", "{", *DIGITS)
    assert "--schedule takes" in refused("train", "--model", "digits", "--schedule", "x", *DIGITS, "--out", "o")
    assert "--devices" in refused("train", "--model", "digits", "--devices", "x", *DIGITS, "--out", "o")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--sizes", 0), "--sizes takes whole numbers from 1 to 16384"),
        (("--seed", 10**30), "--seed takes a whole number of 0 or more up to 2147483647"),
        (("--momentum", "nan"), "--momentum takes a number from 0 to below 1, not nan"),
        (("--schedule", "one-cicle"), "did you mean 'one-cycle'"),
        (("--lr", "inf"), "--lr takes a number above 0, not inf"),
        (("--epochs", 1.5), "--epochs takes a whole number of 0 or more, not '1.5'"),
        (("--batch-size", 10**12), "--batch-size takes a whole number of 1 or more up to"),
        (("--step-at", "0.5,2"), "--step-at takes numbers above 0 and at most 1 with commas between them"),
        (("--device", ""), "there is no device ''"),
    ],
)
def test_recipes_that_cannot_be(refused, options, sentence):
    assert sentence in refused("train", "--model", "digits", *DIGITS, "--out", "o", *options)


def test_words_the_command_line_does_not_know(refused):
    assert "No such command" in refused("prun")
    assert "No such option" in refused("prune", "--ration", 0.5)
    assert "Missing option" in refused("prune", "--out", "small.safetensors")
