"""A pruned model of Transformers as a folder that from_pretrained loads."""

import json
import subprocess
import sys

import pytest
import torch
from torch import nn

import infoprune
from infoprune.errors import InputError

transformers = pytest.importorskip("transformers")

from infoprune.storage.pretrained import load_pretrained, save_pretrained  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def resnet():
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[16, 32], depths=[1, 2], layer_type="bottleneck",
                                       num_labels=10)  # fmt: skip
    return transformers.ResNetForImageClassification(config)


def mobilenet():
    config = transformers.MobileNetV2Config(image_size=32, depth_multiplier=0.25, num_labels=7)
    return transformers.MobileNetV2ForImageClassification(config)


def convnext():
    config = transformers.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, num_labels=5)
    return transformers.ConvNextForImageClassification(config)


def pruned(build, layers=()):
    torch.manual_seed(0)
    whole = build().eval()
    words = {"layers": layers} if layers else {}
    small = infoprune.prune(whole, [{"pixel_values": IMAGES}], criterion="l1", ratio=0.4, repair=None, **words).model
    return whole, small.eval()


def logits(model):
    with torch.no_grad():
        return model(pixel_values=IMAGES).logits


def same(one, other):
    # Weights that lie elsewhere in memory may be multiplied in another order.
    one, other = logits(one), logits(other)
    return bool((one - other).abs().max() <= 1e-5 * other.abs().max())


@pytest.mark.parametrize(("build", "layers"), [(resnet, ()), (mobilenet, ()), (convnext, ("*",))])
def test_both_ways_to_load_it_give_the_pruned_model(build, layers, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    whole, small = pruned(build, layers)
    save_pretrained(whole, small, tmp_path / "small")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["small"]
    assert same(load_pretrained(tmp_path / "small"), small)
    again = transformers.AutoModelForImageClassification.from_pretrained(
        str(tmp_path / "small"), trust_remote_code=True
    ).eval()
    assert same(again, small)
    assert sum(p.numel() for p in again.parameters()) < sum(p.numel() for p in whole.parameters())


def test_transformers_alone_loads_it_trains_it_and_saves_it_again(tmp_path):
    whole, small = pruned(resnet)
    save_pretrained(whole, small, tmp_path / "small")
    script = """
import sys, torch, transformers
kind = transformers.AutoModelForImageClassification
model = kind.from_pretrained("small", trust_remote_code=True)
model(pixel_values=torch.randn(2, 3, 32, 32), labels=torch.tensor([0, 1])).loss.backward()
model.save_pretrained("again")
again = kind.from_pretrained("again", trust_remote_code=True)
assert "infoprune" not in sys.modules
print(sum(p.numel() for p in again.parameters()))
"""
    environment = {"HF_HOME": str(tmp_path / "cache"), "PATH": "", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == sum(p.numel() for p in small.parameters())


def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path):
    whole, small = pruned(resnet)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes").touch()

    class Mine(transformers.ResNetForImageClassification):
        pass

    with pytest.raises(InputError, match="'.*taken' exists already"):
        save_pretrained(whole, small, tmp_path / "taken")
    with pytest.raises(InputError, match="a Conv2d is no model of Transformers"):
        save_pretrained(nn.Conv2d(3, 3, 3), small, tmp_path / "new")
    with pytest.raises(InputError, match="Mine is a class of your own"):
        save_pretrained(Mine(whole.config), small, tmp_path / "new")
    with pytest.raises(InputError, match="pass the network that it was cut from"):
        save_pretrained(mobilenet(), small, tmp_path / "new")
    assert [file.name for file in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"base_class": "pipeline"}, "names no model that was pruned"),
        ({"base_class": None}, "names no model that was pruned"),
        ({"pruned": {"layers": {"resnet": ["Sequential", {}]}, "attributes": {}, "shapes": {}}}, "cannot be used"),
        ({"pruned": {"layers": {}, "attributes": {"resnet": {"forward": "print"}}, "shapes": {}}}, "cannot be used"),
        ({"pruned": {"layers": {}, "attributes": {}, "shapes": {}}}, "cannot be loaded"),
        ({"pruned": []}, "cannot be used"),
    ],
)
def test_a_forged_folder_is_refused(changed, sentence, tmp_path):
    whole, small = pruned(resnet)
    save_pretrained(whole, small, tmp_path / "small")
    config = tmp_path / "small" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **changed}))
    with pytest.raises(InputError, match=sentence):
        load_pretrained(tmp_path / "small")


def test_no_code_of_a_folder_is_run(tmp_path):
    whole, small = pruned(resnet)
    save_pretrained(whole, small, tmp_path / "small")
    (tmp_path / "small" / "pruned.py").write_text("raise SystemExit('it was run')\n")
    assert same(load_pretrained(tmp_path / "small"), small)
