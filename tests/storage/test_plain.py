"""A pruned network as files without infoprune: state dict, widths, and a loader that imports torch and safetensors."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrizations

from infoprune import zoo
from infoprune.errors import InputError
from infoprune.network import equivalence
from infoprune.network.coupled_groups import find_groups
from infoprune.network.surgery import apply
from infoprune.storage import loader
from infoprune.storage.plain import changes_of, save_plain
from network import plans, toys

EXAMPLE = torch.randn(2, *toys.IMAGE, generator=torch.Generator().manual_seed(1))


def pruned(whole, example, seed=0):
    groups = find_groups(whole, example)
    return apply(plans.random_plan(groups, seed), whole, example, groups=groups)


@pytest.mark.parametrize(
    "build",
    [toys.Plain, toys.Residual, lambda: toys.Residual("A"), toys.Grouped, toys.GroupNormed, toys.Generator, toys.Tied,
     toys.Normalised, toys.WeightStandardised, toys.Scaled, toys.Volume, toys.ShuffledDepthwise],
    ids=lambda build: build.__name__,
)  # fmt: skip
def test_what_is_rebuilt_computes_the_same(build, tmp_path):
    torch.manual_seed(0)
    whole = equivalence.randomised(build(), seed=4).eval()
    small = pruned(whole, EXAMPLE).eval()
    save_plain(whole, small, tmp_path / "small.safetensors")
    torch.manual_seed(9)
    again = loader.load_pruned(build(), tmp_path / "small.safetensors", tmp_path / "small.json").eval()
    assert torch.equal(again(EXAMPLE), small(EXAMPLE))
    again.train()(EXAMPLE).sum().backward()


def test_split_sizes_that_a_module_holds_are_in_the_widths(tmp_path):
    class Halves(toys.Head):
        def __init__(self):
            super().__init__(8)
            self.first, self.sizes = toys.conv_bn(3, 8), (4, 4)
            self.last = toys.conv_bn(4, 8)

        def body(self, x):
            one, other = self.first(x).split(self.sizes, 1)
            return self.last(one * other.sigmoid())

    whole = equivalence.randomised(Halves(), seed=2).eval()
    small = pruned(whole, EXAMPLE).eval()
    save_plain(whole, small, tmp_path / "small.safetensors")
    assert json.loads((tmp_path / "small.json").read_text())["attributes"][""]["sizes"] == list(small.sizes)
    again = loader.load_pruned(Halves().eval(), tmp_path / "small.safetensors", tmp_path / "small.json")
    assert type(again.sizes) is tuple
    assert torch.equal(again(EXAMPLE), small(EXAMPLE))


SCRIPT = """
import sys
sys.modules["infoprune"] = None
from pathlib import Path
import torch
from torch import nn
from loader import load_pruned

whole = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
small = load_pruned(whole, Path("small.safetensors"), Path("small.json"))
torch.save(small(torch.load("images.pt")), "outputs.pt")
"""


def source_to_copy():
    """Return the loader as the guide shows it: without the example that is its test here."""
    text = Path(loader.__file__).read_text(encoding="utf-8")
    return re.sub(r'\n\n    Example:\n.*?\n    """', '"""', text, flags=re.DOTALL)


def test_the_loader_is_short_and_needs_no_infoprune(tmp_path):
    code = [
        line
        for line in source_to_copy().splitlines()
        if line.strip() and not line.startswith(('"""', "import", "from"))
    ]
    assert len(code) <= 30
    torch.manual_seed(0)
    whole = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    small = pruned(whole, EXAMPLE).eval()
    assert small[0].out_channels < 8
    save_plain(whole, small, tmp_path / "small.safetensors")
    torch.save(EXAMPLE, tmp_path / "images.pt")
    (tmp_path / "loader.py").write_text(source_to_copy())
    subprocess.run([sys.executable, "-c", SCRIPT], cwd=tmp_path, check=True, timeout=120)
    assert torch.equal(torch.load(tmp_path / "outputs.pt"), small(EXAMPLE))


def test_the_guide_shows_the_loader_as_it_is():
    guide = Path(__file__).resolve().parents[2] / "docs" / "own-network.md"
    assert f"```python file=loader.py\n{source_to_copy()}```" in guide.read_text(encoding="utf-8")


def test_a_network_of_the_zoo_with_routing_layers(tmp_path):
    whole = zoo.build("resnet20").eval()
    example = torch.rand(2, 3, 32, 32)
    small = pruned(whole, example).eval()
    save_plain(whole, small, tmp_path / "small.safetensors")
    again = loader.load_pruned(zoo.build("resnet20").eval(), tmp_path / "small.safetensors", tmp_path / "small.json")
    assert torch.equal(again(example), small(example))


def test_a_layer_that_became_plain_is_described(tmp_path):
    whole = nn.Sequential(parametrizations.weight_norm(nn.Conv2d(3, 6, 3)), nn.ReLU(), nn.Conv2d(6, 2, 3)).eval()
    small = pruned(whole, EXAMPLE)
    kind, arguments = changes_of(whole, small)["layers"]["0"]
    assert kind == "Conv2d"
    assert arguments["out_channels"] == small[0].out_channels


def test_another_network_is_refused_and_nothing_is_written(tmp_path):
    whole, small = toys.Plain(), pruned(toys.Plain(), EXAMPLE)
    with pytest.raises(InputError, match="is a Plain, not a Residual"):
        save_plain(toys.Residual(), small, tmp_path / "small.safetensors")
    small.conv1 = toys.Head(3)
    with pytest.raises(InputError, match="'conv1' has become a Head"):
        save_plain(whole, small, tmp_path / "small.safetensors")
    assert not list(tmp_path.iterdir())


def test_an_attribute_that_the_widths_do_not_hold_is_noticed(tmp_path, monkeypatch):
    whole = toys.Plain()
    small = pruned(whole, EXAMPLE)
    monkeypatch.setattr("infoprune.storage.plain._is_numbers", lambda value: False)
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    monkeypatch.setattr("infoprune.storage.plain.load_pruned", lambda model, state, widths: model)
    with pytest.raises(InputError, match="cannot be rebuilt from its widths"):
        save_plain(whole, small, tmp_path / "small.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["other.safetensors"]


def test_files_are_not_replaced_unasked(tmp_path):
    net = zoo.build("digits")
    (tmp_path / "net.json").write_text("mine")
    with pytest.raises(InputError, match=r"net.json' exists already"):
        save_plain(net, net, tmp_path / "net.safetensors")
    with pytest.raises(InputError, match="is the name of the widths"):
        save_plain(net, net, tmp_path / "net.json", force=True)
    save_plain(net, net, tmp_path / "net.safetensors", force=True)
    assert json.loads((tmp_path / "net.json").read_text()) == {"attributes": {}, "layers": {}}
