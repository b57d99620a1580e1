"""An export computes what the network does: every network of the zoo, before and after pruning, in ONNX Runtime."""

import io

import pytest
import torch
from torch import nn

import infoprune as package
from infoprune import zoo
from infoprune.errors import InputError
from infoprune.network.equivalence import TOLERANCE as ROUNDING
from infoprune.network.origin import Origin
from infoprune.storage import checkpoint
from infoprune.storage.export import (
    TOLERANCE,
    Agreement,
    OnnxRuntime,
    export,
    onnx_agreement,
    program_agreement,
    reads_other_sizes,
    to_onnx,
    to_program,
)
from infoprune.storage.loader import load_pruned

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def built(name):
    info = zoo.info(name)
    model = zoo.build(name).eval()
    # Fewer pixels than the network is meant for where any number will do: the operations are the same.
    side = {224: 64, 32: 32}.get(info.input_shape[1], info.input_shape[1])
    return model, (info.input_shape[0], side, side)


def halved(model, shape):
    images = torch.rand(4, *shape)
    return package.apply(package.plan(model, [(images, torch.zeros(4).long())], criterion="l1", ratio=0.5), model,
                         images[:2])  # fmt: skip


@pytest.mark.parametrize("pruned", [False, True], ids=["whole", "pruned"])
@pytest.mark.parametrize("name", zoo.names())
def test_onnx_runtime_gives_the_outputs_of_every_network(name, pruned):
    model, shape = built(name)
    if pruned:
        whole, model = model, halved(model, shape)
        assert sum(p.numel() for p in model.parameters()) < 0.8 * sum(p.numel() for p in whole.parameters())
    exported = to_onnx(model, torch.rand(2, *shape))
    onnx.checker.check_model(onnx.load_from_string(exported), full_check=True)
    found = onnx_agreement(exported, model, torch.randn(3, *shape))
    assert found.images == 3
    assert found.max_abs_difference <= ROUNDING[torch.float32] * max(1, found.largest_output)


@pytest.mark.parametrize("name", ["digits", "resnet20_b", "lenet5"])
def test_a_program_gives_the_outputs_of_the_network(name):
    model, shape = built(name)
    small = halved(model, shape)
    exported = to_program(small, torch.rand(2, *shape))
    found = program_agreement(exported, small, torch.randn(3, *shape))
    assert found.max_abs_difference <= ROUNDING[torch.float32] * max(1, found.largest_output)


def test_another_network_does_not_agree():
    model, shape = built("digits")
    exported = to_onnx(model, torch.rand(2, *shape))
    with torch.no_grad():
        model.classifier.bias[3] += 0.5
    found = onnx_agreement(exported, model, torch.rand(3, *shape))
    assert found.max_abs_difference == pytest.approx(0.5, abs=1e-4)
    with pytest.raises(InputError, match="ONNX file was not written: its outputs differ by 0.5"):
        found.check("ONNX file", TOLERANCE)


def test_outputs_that_are_no_number_never_agree():
    with pytest.raises(InputError, match="differ by nan"):
        Agreement(float("nan"), 1.0, 2).check("ONNX file", TOLERANCE)


def test_the_network_is_left_as_it_is():
    model, shape = built("digits")
    before = {name: tensor.clone() for name, tensor in model.train().state_dict().items()}
    to_onnx(model, torch.rand(2, *shape))
    to_program(model, torch.rand(2, *shape))
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_runtime_latency_is_of_the_pass():
    model, shape = built("resnet20")
    runtime = OnnxRuntime(to_onnx(model, torch.rand(2, *shape)))
    one, many = (runtime.latency(torch.rand(n, *shape), repeats=5, warmup=1) for n in (1, 32))
    assert 0 < one < many


class Sorted(nn.Module):
    """ONNX has no such operation."""

    def forward(self, images):
        return torch.linalg.svdvals(images.flatten(2)).flatten(1)


def test_what_onnx_cannot_say_is_one_sentence():
    with pytest.raises(InputError, match="cannot be exported to ONNX: .*svd"):
        to_onnx(Sorted(), torch.rand(2, 1, 4, 4))


@pytest.fixture
def small(tmp_path):
    model, shape = built("digits")
    package.save(model, tmp_path / "base.safetensors", origin=Origin("digits", shape))
    small = halved(package.load(tmp_path / "base.safetensors"), shape)
    package.save(small, tmp_path / "small.safetensors")
    return tmp_path / "small.safetensors"


def test_the_record_holds_agreement_and_latency_before_and_after(small, tmp_path):
    record = export(small, onnx=tmp_path / "small.onnx", program=tmp_path / "small.pt2")
    for kind, file in (("onnx", "small.onnx"), ("program", "small.pt2")):
        assert 0 <= record[kind]["max_abs_difference"] < 1e-4
        assert record[kind]["bytes"] == (tmp_path / file).stat().st_size
    assert set(record["latency_ms"]) == {"base", "network"}
    for times in record["latency_ms"].values():
        assert set(times) == {"pytorch", "onnxruntime"}
        assert min(times.values()) > 0
    assert {"onnx", "onnxruntime", "torch"} <= set(record["settings"]["versions"])
    images = torch.rand(7, 1, 8, 8)
    model = package.load(small)
    torch.testing.assert_close(OnnxRuntime((tmp_path / "small.onnx").read_bytes())(images), model(images).detach())
    program = torch.export.load(io.BytesIO((tmp_path / "small.pt2").read_bytes()))
    torch.testing.assert_close(program.module()(images), model(images))


def test_a_network_that_was_never_cut_has_no_base(small, tmp_path):
    record = export(tmp_path / "base.safetensors", program=tmp_path / "base.pt2")
    assert set(record["latency_ms"]) == {"network"}
    assert set(record["latency_ms"]["network"]) == {"pytorch"}
    assert "onnx" not in record


def test_nothing_is_written_when_the_outputs_differ(small, tmp_path):
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match="was not written"):
        export(small, program=tmp_path / "small.pt2", onnx=tmp_path / "small.onnx", tolerance=0)
    assert sorted(tmp_path.iterdir()) == before


class Several(nn.Module):
    """Two outputs in a dict, of which one has a height and a width, and a size that must be read where it runs."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3, 2, 1))
        self.mask, self.head = nn.Conv2d(6, 2, 1), nn.Linear(6, 4)

    def forward(self, x):
        maps = self.trunk(x)
        mask = nn.functional.interpolate(self.mask(maps), size=x.shape[-2:], mode="bilinear", align_corners=False)
        return {"out": mask, "scores": [self.head(maps.mean((2, 3)))]}


def test_several_outputs_have_names_and_free_axes_and_each_is_compared():
    torch.manual_seed(0)
    model, example = Several().eval(), torch.rand(2, 3, 32, 32)
    exported = to_onnx(model, example, free_size=True)
    graph = onnx.load_from_string(exported).graph
    axes = {one.name: [d.dim_param or d.dim_value for d in one.type.tensor_type.shape.dim] for one in graph.output}
    assert list(axes) == ["out", "scores_0"]
    assert (axes["out"][0], *axes["out"][2:]) == ("batch", "out_axis_2", "out_axis_3")
    assert axes["scores_0"] == ["batch", 4]
    [images] = graph.input
    assert [d.dim_param or d.dim_value for d in images.type.tensor_type.shape.dim] == ["batch", 3, "height", "width"]
    for size in ((32, 32), (48, 80)):
        found = onnx_agreement(exported, model, torch.randn(3, 3, *size))
        assert set(found.outputs) == {"out", "scores_0"}
        assert found.max_abs_difference <= 1e-5
    with torch.no_grad():
        model.head.bias[1] += 0.25
    found = onnx_agreement(exported, model, torch.randn(3, 3, 32, 32))
    assert found.outputs["out"][0] < 1e-5
    assert found.outputs["scores_0"][0] == pytest.approx(0.25, abs=1e-4)
    with pytest.raises(InputError, match="outputs 'scores_0' differ by 0.25"):
        found.check("ONNX file", TOLERANCE)


def test_a_program_reads_batches_heights_and_widths_of_any_size():
    torch.manual_seed(0)
    model = Several().eval()
    exported = to_program(model, torch.rand(2, 3, 32, 32), free_size=True)
    for shape in ((1, 3, 32, 32), (5, 3, 64, 96)):
        assert program_agreement(exported, model, torch.randn(shape)).max_abs_difference <= 1e-5


def test_a_network_of_one_size_is_exported_for_that_size(tmp_path):
    model, shape = built("lenet5")
    assert not reads_other_sizes(model, torch.rand(2, *shape))
    package.save(model, tmp_path / "base.safetensors", origin=Origin("lenet5", shape))
    record = export(tmp_path / "base.safetensors", onnx=tmp_path / "a.onnx", program=tmp_path / "a.pt2")
    assert record["onnx"]["sizes"] == record["program"]["sizes"] == "one"


def test_a_residual_network_is_exported_for_any_size_and_compared_on_another(tmp_path):
    model, shape = built("resnet20")
    package.save(model, tmp_path / "base.safetensors", origin=Origin("resnet20", shape))
    record = export(tmp_path / "base.safetensors", onnx=tmp_path / "a.onnx", program=tmp_path / "a.pt2")
    assert record["onnx"]["sizes"] == record["program"]["sizes"] == "any"
    assert record["onnx"]["images"] == 10
    images = torch.rand(3, 3, 40, 24)
    expected = package.load(tmp_path / "base.safetensors").eval()(images).detach()
    torch.testing.assert_close(OnnxRuntime((tmp_path / "a.onnx").read_bytes())(images), expected)


def test_state_dict_and_widths_are_written_beside_the_others(small, tmp_path):
    record = export(small, state=tmp_path / "plain.safetensors")
    assert record["state"]["bytes"] == (tmp_path / "plain.safetensors").stat().st_size
    again = load_pruned(zoo.build("digits"), tmp_path / "plain.safetensors", tmp_path / "plain.json").eval()
    images = torch.rand(7, 1, 8, 8)
    assert torch.equal(again(images), package.load(small).eval()(images))
    with pytest.raises(InputError, match="exists already"):
        export(small, state=tmp_path / "plain.safetensors", onnx=tmp_path / "a.onnx")
    assert not (tmp_path / "a.onnx").exists()


def test_files_are_not_replaced_unasked(small, tmp_path):
    (tmp_path / "small.onnx").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        export(small, onnx=tmp_path / "small.onnx")
    assert (tmp_path / "small.onnx").read_text() == "mine"
    export(small, onnx=tmp_path / "small.onnx", force=True)
    assert onnx.load(tmp_path / "small.onnx").graph.output[0].name == "logits"


def test_something_must_be_asked_for(small):
    with pytest.raises(InputError, match="--onnx FILE"):
        export(small)


def test_a_missing_package_is_named(small, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(InputError, match=r"pip install 'infoprune\[onnx\]'"):
        export(small, onnx=tmp_path / "small.onnx")


def test_a_checkpoint_is_described_after_export(small, tmp_path):
    export(small, onnx=tmp_path / "small.onnx")
    assert checkpoint.describe(small).origin.plan is not None
