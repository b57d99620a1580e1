"""Networks that exist as an ONNX file alone, converted into PyTorch networks by onnx2torch.

The conversion builds a program of ``torch.fx``, whose source contains the names of the nodes. A file can hold any text
there, so every node gets a name of letters, digits and underscores first.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from infoprune.errors import InputError
from infoprune.user_code import reason

_PREFIX = "onnx:"
# The newest set of operators that onnx2torch knows for the most part; newer files are written in this one.
_OPSET = 17
_TOLERANCE = 1e-3
_SIZE = 224


def file_of(spec: str) -> Path | None:
    """Return the ONNX file that the name of a network means; ``None`` of other names.

    Example:
        >>> file_of("onnx:detector.onnx").name, file_of("timm:resnet18")
        ('detector.onnx', None)
    """
    return Path(spec.removeprefix(_PREFIX)) if spec.startswith(_PREFIX) else None


def from_onnx(path: Path | str) -> nn.Module:
    """Convert an ONNX file into a PyTorch network and compare both on random inputs.

    Args:
        path: The file. Its batch axis may be fixed; the network reads batches of any size where its operators allow.

    Returns:
        The network, in eval mode, with one module for each node.

    Raises:
        InputError: The file cannot be read, onnx or onnx2torch is missing, an operator is not known, or the outputs
            differ from those of ONNX Runtime by more than 0.1 % of the largest.

    Example:
        >>> from_onnx("missing.onnx")
        Traceback (most recent call last):
            ...
        infoprune.errors.InputError: there is no file 'missing.onnx'
    """
    model = _read(Path(path))
    try:
        return _converted(model, Path(path), flattens=True)
    except InputError as error:
        # Some networks reshape to (-1, n) what is no feature map, such as the places of a detector.
        try:
            return _converted(model, Path(path), flattens=False)
        except InputError:
            raise error from None


def input_shape(path: Path | str) -> tuple[int, int, int] | None:
    """Return the shape (C, H, W) of one image that an ONNX file reads; ``None`` where it leaves an axis open.

    Raises:
        InputError: The file cannot be read.

    Example:
        >>> input_shape("missing.onnx")
        Traceback (most recent call last):
            ...
        infoprune.errors.InputError: there is no file 'missing.onnx'
    """
    inputs = _inputs(_read(Path(path)).graph)
    sizes = [size for size in _sizes(inputs[0])[1:] if size is not None] if inputs else []
    return (sizes[0], sizes[1], sizes[2]) if len(sizes) == 3 else None


def _converted(model: Any, path: Path, *, flattens: bool) -> nn.Module:
    try:
        network: nn.Module = _package("onnx2torch").convert(_plain(model, flattens)).eval()
    except InputError:
        raise
    except Exception as error:  # an operator that the converter does not know, or a malformed file
        raise InputError(f"'{path}' cannot be converted into a PyTorch network: {reason(error)}") from error
    _check(network, model, path)
    return network


def _read(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"there is no file '{path}'")
    onnx = _package("onnx")
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except Exception as error:
        raise InputError(f"'{path}' is no ONNX file that can be read: {reason(error)}") from error
    return model


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise InputError(
            f"a network from an ONNX file needs the package {name}, which cannot be imported ({reason(error)}): "
            "pip install 'infoprune[onnx-input]'"
        ) from error


def _plain(model: Any, flattens: bool) -> Any:
    """Return the model in the operators and the form that onnx2torch reads.

    Args:
        model: The model; left as it is.
        flattens: Whether a reshape to (-1, n) flattens feature maps, whose channels may get fewer.
    """
    plain = type(model)()
    plain.CopyFrom(model)
    for one in plain.opset_import:
        if one.domain in ("", "ai.onnx") and one.version > _OPSET:
            _lower(plain.graph)
            one.version = _OPSET
    _rename_nodes(plain.graph)
    _fold_constants(plain.graph)
    _fill_resizes(plain.graph)
    _free_batch(plain.graph, flattens)
    return plain


def _lower(graph: Any) -> None:
    """Write what newer sets of operators pass to reductions and splits as the older ones do.

    onnx's own converter has no way down from set 18. Whatever else changed shows in the comparison of the outputs.
    """
    onnx = _package("onnx")
    constants = {one.name: one for one in graph.initializer}
    for node in graph.node:
        unknown = ("num_outputs",) if node.op_type == "Split" else ("noop_with_empty_axes",)
        for attribute in [one for one in node.attribute if one.name in unknown]:
            node.attribute.remove(attribute)
        reduces = node.op_type.startswith("Reduce") and node.op_type != "ReduceSum"
        if reduces and len(node.input) > 1 and node.input[1] in constants:
            axes = onnx.numpy_helper.to_array(constants[node.input.pop()]).tolist()
            node.attribute.append(onnx.helper.make_attribute("axes", axes))


def _rename_nodes(graph: Any) -> None:
    taken: set[str] = {"initializers"}
    for index, node in enumerate(graph.node):
        name = re.sub(r"[^A-Za-z0-9]+", "_", node.name or node.op_type).strip("_")
        name = name if name[:1].isalpha() and name not in taken else f"node{index}_{name}"
        node.name = name
        taken.add(name)


def _fold_constants(graph: Any) -> None:
    """Store as weights what ``Constant`` nodes hold, and what nodes read through an ``Identity`` of a weight.

    onnx2torch looks for weights nowhere else. PaddlePaddle writes them in nodes; exporters share equal biases.
    """
    constants = {one.name: one for one in graph.initializer}
    kept = []
    for node in graph.node:
        value = next((one.t for one in node.attribute if one.name == "value"), None)
        value = value if node.op_type == "Constant" else None
        if node.op_type == "Identity":
            value = constants.get(node.input[0])
        if value is None:
            kept.append(node)
            continue
        stored = graph.initializer.add()
        stored.CopyFrom(value)
        stored.name = node.output[0]
        constants[stored.name] = stored
    del graph.node[:]
    graph.node.extend(kept)


def _fill_resizes(graph: Any) -> None:
    """Give a ``Resize`` empty tensors for the inputs that it leaves out: onnx2torch takes the next input for them."""
    onnx = _package("onnx")
    for node in graph.node:
        for place, name in enumerate(node.input if node.op_type == "Resize" else ()):
            if not name:
                node.input[place] = f"{node.name}_without_{place}"
                graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(0, np.float32), node.input[place]))


def _free_batch(graph: Any, flattens: bool) -> None:
    """Let reshapes keep the batch axis, where the file was exported for one batch size, and flatten any count."""
    onnx = _package("onnx")
    inputs = _inputs(graph)
    batch = _sizes(inputs[0])[0] if inputs else None
    constants = {one.name: one for one in graph.initializer}
    for node in graph.node:
        if node.op_type != "Reshape" or node.input[1] not in constants:
            continue
        shape = onnx.numpy_helper.to_array(constants[node.input[1]]).copy()
        before = shape.copy()
        for attribute in [one for one in node.attribute if one.name == "allowzero" and not (shape == 0).any()]:
            node.attribute.remove(attribute)
        if batch is not None and len(shape) > 1 and shape[0] == batch:
            shape[0] = 0
        if flattens and len(shape) == 2 and shape[0] <= 0 < shape[1]:
            shape[:] = 0, -1
        if (shape != before).any():
            node.input[1] = f"{node.name}_shape"
            graph.initializer.append(onnx.numpy_helper.from_array(shape, node.input[1]))


def _inputs(graph: Any) -> list[Any]:
    constants = {one.name for one in graph.initializer}
    return [one for one in graph.input if one.name not in constants]


def _sizes(value: Any) -> list[int | None]:
    return [one.dim_value if one.dim_value > 0 else None for one in value.type.tensor_type.shape.dim] or [None]


def _check(network: nn.Module, model: Any, path: Path) -> None:
    """Compare with ONNX Runtime; sizes that the file leaves open are tried, and not compared where they do not fit."""
    images = _random_inputs(model)
    runtime = _package("onnxruntime")
    try:
        session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception as error:
        raise InputError(f"ONNX Runtime cannot load '{path}': {reason(error)}") from error
    names = [one.name for one in session.get_inputs()]
    try:
        expected = session.run(None, {name: one.numpy() for name, one in zip(names, images, strict=True)})
    except Exception:
        return
    try:
        with torch.no_grad():
            found = network(*images)
            twice = network(*(torch.cat([one, one]) for one in images))
    except Exception as error:
        raise InputError(f"the network of '{path}' does not run after the conversion: {reason(error)}") from error
    single, double = ((one,) if isinstance(one, torch.Tensor) else tuple(one) for one in (found, twice))
    for one, two, wanted in zip(single, double, expected, strict=True):
        scale = float(np.abs(wanted).max(initial=0)) or 1.0
        if tuple(one.shape) != wanted.shape or not np.abs(one.numpy() - wanted).max(initial=0) <= _TOLERANCE * scale:
            raise InputError(f"the network of '{path}' computes something else after the conversion: it cannot be used")
        if two.shape[0] != 2 * one.shape[0] or not (two[: len(one)] - one).abs().max() <= _TOLERANCE * scale:
            raise InputError(f"the network of '{path}' reads one image at a time: export it with a free batch axis")


def _random_inputs(model: Any) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    found = []
    for one in _inputs(model.graph):
        batch, *rest = _sizes(one)
        sizes = [(3 if place == 0 else _SIZE) if size is None else size for place, size in enumerate(rest)]
        found.append(torch.rand(batch or 1, *sizes, generator=generator))
    return found
