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
    to_onnx,
    to_program,
)

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
