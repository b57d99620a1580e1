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


def hand_made(path, *, batch, name="", constant_nodes=False):
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
    stored = [numbers.from_array(array, key) for key, array in constants.items()]
    if constant_nodes:  # as PaddlePaddle writes weights
        nodes = [*(helper.make_node("Constant", [], [one.name], value=one) for one in stored), *nodes[1:]]
        nodes[-4].input[2] = "bias"
        stored = []
    return written(path, nodes, stored, [batch or "n", 3, 6, 6], [batch or "n", 5])


def written(path, nodes, stored, images, out):
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "graph",
        [value("images", onnx.TensorProto.FLOAT, images)],
        [value("out", onnx.TensorProto.FLOAT, out)],
        stored,
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def detector(path):
    """Write conv, resize by factors alone, conv, and places that are reshaped to pairs: what detectors contain."""
    helper, numbers = onnx.helper, onnx.numpy_helper
    generator = torch.Generator().manual_seed(0)
    constants = {
        "first": torch.randn(6, 3, 3, 3, generator=generator),
        "factors": torch.tensor([1.0, 1, 2, 2]),
        "second": torch.randn(2, 6, 3, 3, generator=generator),
        "places": torch.randn(4, 4, 2, generator=generator),
        "pairs": torch.tensor([-1, 2]),
        "shape": torch.tensor([0, 2, -1]),
    }
    pads = {"kernel_shape": [3, 3], "pads": [1] * 4}
    nodes = [
        helper.make_node("Conv", ["images", "first"], ["maps"], **pads),
        helper.make_node("Resize", ["maps", "", "factors"], ["large"], mode="nearest", nearest_mode="floor",
                         coordinate_transformation_mode="asymmetric"),
        helper.make_node("Conv", ["large", "second"], ["found"], **pads),
        helper.make_node("Reshape", ["found", "shape"], ["rows"]),
        helper.make_node("Identity", ["places"], ["kept"]),
        helper.make_node("Reshape", ["kept", "pairs"], ["anchors"]),
        helper.make_node("Transpose", ["anchors"], ["columns"], perm=[1, 0]),
        helper.make_node("Add", ["rows", "columns"], ["out"]),
    ]  # fmt: skip
    stored = [numbers.from_array(value.numpy(), key) for key, value in constants.items()]
    return written(path, nodes, stored, ["n", 3, 2, 2], ["n", 2, 16])


def test_every_node_gets_a_name_that_is_no_source(tmp_path):
    """The converter writes names into a program."""
    model = onnx.load(hand_made(tmp_path / "net.onnx", batch=1, name=HOSTILE))
    names = [node.name for node in onnx_file._plain(model, flattens=True).graph.node]
    assert all(name.isidentifier() and name.isascii() for name in names)
    assert len(set(names)) == len(names) == 4


def test_equal_constants_are_read_without_identities_and_the_batch_is_free(tmp_path):
    graph = onnx_file._plain(onnx.load(hand_made(tmp_path / "net.onnx", batch=1)), flattens=True).graph
    assert [node.op_type for node in graph.node] == ["Conv", "Relu", "Reshape", "Gemm"]
    constants = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    assert constants[graph.node[0].input[2]].tolist() == [0] * 6
    assert constants[graph.node[2].input[1]].tolist() == [0, -1]


def test_weights_in_nodes_of_their_own_are_stored_as_weights(tmp_path):
    path = hand_made(tmp_path / "net.onnx", batch=None, constant_nodes=True)
    graph = onnx_file._plain(onnx.load(path), flattens=True).graph
    assert [node.op_type for node in graph.node] == ["Conv", "Relu", "Reshape", "Gemm"]
    assert {one.name for one in graph.initializer} >= {"weight", "bias", "head", "offset"}
    assert onnx_file.input_shape(path) == (3, 6, 6)


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


@pytest.mark.parametrize("constant_nodes", [False, True])
def test_a_converted_network_computes_the_same_and_is_cut(tmp_path, constant_nodes):
    pytest.importorskip("onnx2torch", exc_type=ImportError)
    path = hand_made(tmp_path / "net.onnx", batch=1, name=HOSTILE, constant_nodes=constant_nodes)
    network = onnx_file.from_onnx(path)
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


def test_what_detectors_contain_is_converted_and_cut(tmp_path):
    pytest.importorskip("onnx2torch", exc_type=ImportError)
    network = onnx_file.from_onnx(detector(tmp_path / "net.onnx"))
    images = torch.rand(3, 3, 2, 2)
    assert network(images).shape == (3, 2, 16)
    assert [group.filters for group in find_groups(network, images).groups] == [6]
