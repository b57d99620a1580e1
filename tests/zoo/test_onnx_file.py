"""Networks from ONNX files; what converts needs onnx2torch, which needs torchvision."""

import pytest
import torch
from torch import nn

from infoprune.errors import InputError
from infoprune.experiment.network import open_network
from infoprune.experiment.options import NetworkOptions
from infoprune.network.coupled_groups import find_groups
from infoprune.zoo import onnx_file

onnx = pytest.importorskip("onnx")
HOSTILE = 'a"), __import__("os").system("touch ran") #'


def small_network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(6, 4)).eval()


def hand_made(path, *, batch, name=""):
    """Write conv, identity of a shared bias, reshape to a fixed batch: what exporters write."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 3, 3, 3, generator=generator).numpy()
    helper, numbers = onnx.helper, onnx.numpy_helper
    nodes = [
        helper.make_node("Identity", ["bias"], ["shared"], name=""),
        helper.make_node("Conv", ["images", "weight", "shared"], ["maps"], name=name),
        helper.make_node("Relu", ["maps"], ["positive"], name="x.gemm"),
        helper.make_node("Reshape", ["positive", "sizes"], ["flat"], name="0"),
        helper.make_node("Gemm", ["flat", "head", "offset"], ["out"], name="x/gemm", transB=1),
    ]
    constants = {
        "weight": weight,
        "bias": torch.zeros(6).numpy(),
        "sizes": torch.tensor([batch or -1, 96]).numpy(),
        "head": torch.randn(5, 96, generator=generator).numpy(),
        "offset": torch.zeros(5).numpy(),
    }
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "graph",
        [value("images", onnx.TensorProto.FLOAT, [batch or "n", 3, 6, 6])],
        [value("out", onnx.TensorProto.FLOAT, [batch or "n", 5])],
        [numbers.from_array(array, key) for key, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def test_every_node_gets_a_name_that_is_no_source(tmp_path):
    """The converter writes names into a program."""
    model = onnx.load(hand_made(tmp_path / "net.onnx", batch=1, name=HOSTILE))
    names = [node.name for node in onnx_file._plain(model).graph.node]
    assert all(name.isidentifier() and name.isascii() for name in names)
    assert len(set(names)) == len(names) == 4


def test_equal_constants_are_read_without_identities_and_the_batch_is_free(tmp_path):
    graph = onnx_file._plain(onnx.load(hand_made(tmp_path / "net.onnx", batch=1))).graph
    assert [node.op_type for node in graph.node] == ["Conv", "Relu", "Reshape", "Gemm"]
    constants = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    assert constants[graph.node[0].input[2]].tolist() == [0] * 6
    assert constants[graph.node[2].input[1]].tolist() == [0, -1]


def test_the_shape_of_an_image_is_read_from_the_file(tmp_path):
    assert onnx_file.input_shape(hand_made(tmp_path / "net.onnx", batch=None)) == (3, 6, 6)


@pytest.mark.parametrize("content", [b"", b"not an ONNX file", b"\x08\x07"])
def test_another_file_is_refused(tmp_path, content):
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(InputError, match="no ONNX file that can be read|cannot be converted"):
        onnx_file.from_onnx(tmp_path / "net.onnx")


def test_arguments_are_refused():
    with pytest.raises(InputError, match="takes no --model-args"):
        open_network(NetworkOptions("onnx:net.onnx", arguments={"width": 1}), "cpu")


def test_a_missing_converter_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx2torch", None)
    with pytest.raises(InputError, match=r"needs the package onnx2torch.*pip install 'infoprune\[onnx-input\]'"):
        onnx_file.from_onnx(hand_made(tmp_path / "net.onnx", batch=1))


def test_a_converted_network_computes_the_same_and_is_cut(tmp_path):
    pytest.importorskip("onnx2torch", exc_type=ImportError)
    network = onnx_file.from_onnx(hand_made(tmp_path / "net.onnx", batch=1, name=HOSTILE))
    images = torch.rand(3, 3, 6, 6)
    assert network(images).shape == (3, 5)
    groups = find_groups(network, images)
    assert [group.filters for group in groups.groups] == [6]


def test_an_exported_network_comes_back(tmp_path):
    pytest.importorskip("onnx2torch", exc_type=ImportError)
    whole, images = small_network(), torch.rand(2, 3, 8, 8)
    torch.onnx.export(whole, (images[:1],), str(tmp_path / "net.onnx"), opset_version=17, dynamo=False)
    again = open_network(NetworkOptions(f"onnx:{tmp_path / 'net.onnx'}"), "cpu")
    assert torch.allclose(again(images), whole(images), atol=1e-5)
    assert [group.filters for group in find_groups(again, images).groups] == [8, 6]
