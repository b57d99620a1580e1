"""Files of a stranger: whatever they name, no command imports or runs it; the refusal says how to build it oneself."""

import json
import pickle
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import infoprune as package
from infoprune.errors import InputError
from infoprune.iterative.schedule import PruningSchedule
from infoprune.zoo.factory import build_from_file

DIGITS = ("--data", "digits")
CUT = {"layers": {"features.0": {"layer": "features.0", "filters": 16, "kept": [0, 1]}}, "format": 1}


class RunsOnLoad:
    """Unpickling it makes a folder."""

    def __reduce__(self):
        return __import__("os").mkdir, ("it_ran",)


FORMS = {
    "os": ("os:mkdir", {"path": "it_ran"}),
    "subprocess": ("subprocess:call", {"args": ["mkdir", "it_ran"]}),
    "runpy": ("runpy:run_path", {"path_name": "stranger_module.py"}),
    "timeit": ("timeit:timeit", {"stmt": "__import__('os').mkdir('it_ran')", "number": 1}),
    "torch": ("torch:load", {"f": "stranger.pt", "weights_only": False}),
    "hub": ("torch.hub:load", {"repo_or_dir": ".", "model": "network", "source": "local"}),
    "builtins": ("builtins:exec", {"source": "__import__('os').mkdir('it_ran')"}),
    "beside": ("stranger_module:network", {}),
    "dotted": ("stranger_package.inner:network", {}),
    "pickle": ("pickle:loads", {"data": "cos\nmkdir\n(S'it_ran'\ntR."}),
    "timm path": ("timm:local-dir:.", {}),
    "timm hub": ("timm:hf-hub:stranger/network", {}),
    "timm file": ("timm:resnet18", {"checkpoint_path": "stranger.pt"}),
    "timm pretrained": ("timm:resnet18", {"pretrained": True}),
    "timm config": ("timm:resnet18", {"pretrained_cfg": {"file": "stranger.pt"}}),
    "torchvision weights": ("torchvision:resnet18", {"weights": "DEFAULT"}),
    "torchvision module": ("torchvision:../stranger_module", {}),
    "zoo arguments": ("digits", {"classes": "__import__('os').mkdir('it_ran')"}),
    "zoo nested": ("digits", {"classes": {"a": [1]}}),
    "zoo memory": ("digits", {"classes": 10**12}),
    "no name": ("", {}),
    "escapes": ("\x1b[2Jos:mkdir", {}),
    "long": ("x" * 10_000 + ":f", {}),
}


class Watch:
    """First on sys.meta_path: notes every import of a module that was not loaded, of the names of a stranger."""

    def __init__(self):
        self.asked = []

    def find_spec(self, name, path=None, target=None):
        self.asked.append(name)


@pytest.fixture
def stranger(infoprune, base, folder, monkeypatch):
    """Run a command on a file of a stranger; nothing is imported, nothing appears in the folder."""
    (folder / "stranger_module.py").write_text("import os\nos.mkdir('it_ran')\ndef network(**_): pass\n")
    (folder / "hubconf.py").write_text("import os\nos.mkdir('it_ran')\ndef network(**_): pass\n")
    (folder / "stranger_package").mkdir()
    (folder / "stranger_package" / "__init__.py").write_text("import os\nos.mkdir('it_ran')\n")
    (folder / "stranger.pt").write_bytes(pickle.dumps(RunsOnLoad()))
    weights = load_file(base)

    def forged(name, architecture, arguments):
        header = {"format": 1, "architecture": architecture, "arguments": arguments, "input_shape": [1, 8, 8],
                  "preprocessing": None, "plan": CUT}  # fmt: skip
        save_file(weights, folder / name, metadata={"infoprune": json.dumps(header)})
        return name

    def call(*arguments):
        infoprune(*arguments)  # what the command itself imports is loaded now
        modules, files = set(sys.modules), sorted(folder.rglob("*"))
        watch = Watch()
        monkeypatch.setattr(sys, "meta_path", [watch, *sys.meta_path])
        done = infoprune(*arguments)
        monkeypatch.setattr(sys, "meta_path", [one for one in sys.meta_path if one is not watch])
        assert set(sys.modules) == modules
        assert [name for name in watch.asked if not name.startswith(("timm", "torchvision"))] == []
        assert sorted(folder.rglob("*")) == files
        assert "Traceback" not in done.err
        return done

    call.forged = forged
    call.folder = folder
    return call


def commands(file, base):
    return {
        "evaluate": ("evaluate", file, *DIGITS),
        "prune": ("prune", "--weights", file, *DIGITS, "--ratio", 0.5, "--out", "out.safetensors"),
        "train": ("train", "--weights", file, *DIGITS, "--epochs", 1, "--out", "out.safetensors"),
        "tune": ("tune", file, *DIGITS, "--epochs", 1, "--out", "out.safetensors"),
        "teacher": ("tune", base, "--teacher", file, *DIGITS, "--epochs", 1, "--out", "out.safetensors"),
        "export": ("export", file, "--program", "out.pt2"),
        "iterate": ("iterate", "--weights", file, *DIGITS, "--remove", "*=1:1", "--out", "out.safetensors"),
    }


@pytest.mark.parametrize("form", FORMS)
def test_no_form_of_header_runs_anything(stranger, form):
    file = stranger.forged("forged.safetensors", *FORMS[form])
    done = stranger("evaluate", file, *DIGITS)
    assert done.code == 2, done.out
    assert done.err.startswith("Error: ")
    assert len(done.err.strip().splitlines()) == 1
    assert done.err.isprintable() or done.err.strip().isprintable()
    with pytest.raises(InputError):
        package.load(stranger.folder / file)
    assert not (stranger.folder / "it_ran").exists()


@pytest.mark.parametrize("form", ["os", "beside", "torch", "timm file"])
@pytest.mark.parametrize("command", ["evaluate", "prune", "train", "tune", "teacher", "export", "iterate"])
def test_no_command_runs_what_a_checkpoint_names(stranger, base, command, form):
    file = stranger.forged("forged.safetensors", *FORMS[form])
    done = stranger(*commands(file, base)[command])
    assert done.code == 2, (done.out, done.err)
    assert "Error: " in done.err


@pytest.mark.parametrize("form", ["os", "beside", "zoo nested"])
def test_show_prints_what_a_checkpoint_names_and_builds_nothing(stranger, form):
    done = stranger("show", stranger.forged("forged.safetensors", *FORMS[form]))
    assert done.code == 0, done.err
    assert FORMS[form][0] in done.out


def test_the_refusal_names_the_command_that_loads_it(stranger):
    done = stranger("evaluate", stranger.forged("forged.safetensors", *FORMS["beside"]), *DIGITS)
    assert "--model stranger_module:network" in done.err
    assert "load(path, build=function)" in done.err


@pytest.mark.parametrize("criterion", ["stranger_module:network", "os:mkdir", "builtins:exec", "nothing"])
def test_a_schedule_names_only_registered_criteria(stranger, base, criterion):
    values = {"layers": [{"layers": "*", "pace": 1}], "retraining": {"epochs": 1}, "criterion": criterion}
    (stranger.folder / "schedule.json").write_text(json.dumps(values))
    done = stranger("iterate", "--weights", base, *DIGITS, "--schedule", "schedule.json", "--out", "out.safetensors")
    assert done.code == 2
    assert "criterion" in done.err
    with pytest.raises(InputError):
        PruningSchedule.from_dict(values)
    assert PruningSchedule.from_dict(values, criterion="mine:typed").criterion == "mine:typed"


def test_plans_and_runs_are_data(stranger, infoprune, base):
    folder = stranger.folder
    made = infoprune("prune", "--weights", base, *DIGITS, "--ratio", 0.5, "--criterion", "l1", "--calibration", 64,
                     "--out", "small.safetensors", "--run", "run")  # fmt: skip
    assert made.code == 0, made.err
    settings = {"criterion": "stranger_module:network", "network": {"architecture": "os:mkdir"},
                "options": {"criterion": "stranger_module:network"}}  # fmt: skip
    for name in ("record.json", "plan.json"):
        values = json.loads((folder / "run" / name).read_text())
        values["settings"] = {**values["settings"], **settings}
        values["architecture"] = "os:mkdir"
        if name == "plan.json":
            del values["architecture"]
        (folder / "run" / name).write_text(json.dumps(values))
    for arguments in (
        ("report", "run", "--out", "page.html", "--force"),
        ("compare", "run", "run", "--out", "page.html", "--force"),
        ("prune", "--weights", base, *DIGITS, "--keep", "run/plan.json", "--calibration", 64, "--force",
         "--out", "out.safetensors"),
    ):  # fmt: skip
        done = stranger(*arguments)
        assert done.code == 0, done.err
    assert not (folder / "it_ran").exists()


def test_a_network_of_ones_own_by_the_name_that_was_typed(infoprune, folder):
    (folder / "own_network_here.py").write_text(
        "from torch import nn\n"
        "def network(width=8):\n"
        "    return nn.Sequential(nn.Conv2d(1, width, 3), nn.ReLU(), nn.Conv2d(width, 8, 3), nn.ReLU(), nn.Flatten(),\n"
        "                         nn.Linear(128, 10))\n"
    )
    typed = ("--model", "own_network_here:network", "--model-args", '{"width": 12}')
    done = infoprune("prune", *typed, "--input-shape", "1,8,8", *DIGITS, "--criterion", "l1", "--ratio", 0.5,
                     "--out", "small.safetensors")  # fmt: skip
    assert done.code == 0, done.err
    refused = infoprune("evaluate", "small.safetensors", *DIGITS)
    assert refused.code == 2
    assert """--model own_network_here:network --model-args '{"width": 12}'""" in refused.err
    for arguments in (
        ("evaluate", "--weights", "small.safetensors", *typed, *DIGITS),
        ("tune", "small.safetensors", *typed, "--teacher", "small.safetensors", *DIGITS, "--epochs", 1,
         "--out", "tuned.safetensors"),
        ("export", "small.safetensors", *typed, "--program", "out.pt2"),
        ("prune", "--weights", "tuned.safetensors", *typed, *DIGITS, "--criterion", "l1", "--ratio", 0.2,
         "--out", "again.safetensors"),
    ):  # fmt: skip
        done = infoprune(*arguments)
        assert done.code == 0, done.err
    other = infoprune("evaluate", "--weights", "small.safetensors", *typed[:2], *DIGITS)
    assert other.code == 2
    assert "arguments" in other.err


def test_only_declared_arguments_are_taken_from_a_file():
    assert build_from_file("digits", {"classes": 4}).classifier.out_features == 4
    for arguments in ({"classes": 2.5}, {"classes": float("nan")}, {"classes": None}, {"classes": [4]}, {"pth": 1}):
        with pytest.raises(InputError, match="digits"):
            build_from_file("digits", arguments)


def test_the_stored_plan_is_the_one_noted_on_the_network(tmp_path):
    def network():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3),
                                   torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(128, 4)).eval()  # fmt: skip

    images = torch.rand(8, 1, 8, 8)
    batches, path = [(images, torch.arange(8) % 4)], tmp_path / "small.safetensors"
    once = package.prune(network(), batches, criterion="l1", ratio=0.25).model
    twice = package.prune(once, batches, criterion="l1", ratio=0.25, repair="bn").model
    package.save(twice, path, origin=package.Origin("mine", (1, 8, 8)))
    assert torch.equal(package.load(path, build=network)(images), twice.eval()(images))
    with pytest.raises(InputError, match=r"build=function"):
        package.load(path)
    wrong = package.Origin("mine", (1, 8, 8), plan=package.plan(network(), batches, criterion="l1", ratio=0.9))
    with pytest.raises(InputError, match="the plan is not that of this network"):
        package.save(twice, path, origin=wrong, force=True)
    with pytest.raises(InputError, match="must return a torch.nn.Module"):
        package.load(path, build=lambda: 3)
