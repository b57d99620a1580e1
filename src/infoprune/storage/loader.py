"""Rebuilds a pruned network from its weights and the JSON of its widths; needs torch and safetensors only."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn


def load_pruned(model: nn.Module, weights: Path, widths: Path) -> nn.Module:
    """Turn ``model``, the whole network as its code builds it, into the pruned one, in place.

    Example:
        >>> import tempfile
        >>> from safetensors.torch import save_file
        >>> folder = Path(tempfile.mkdtemp())
        >>> save_file({"weight": torch.ones(1, 2), "bias": torch.zeros(1)}, folder / "small.safetensors")
        >>> _ = (folder / "widths.json").write_text('{"layers": {}, "attributes": {"": {"out_features": 1}}}')
        >>> load_pruned(nn.Linear(2, 3), folder / "small.safetensors", folder / "widths.json")
        Linear(in_features=2, out_features=1, bias=True)
    """
    state = load_file(weights)
    changes = json.loads(widths.read_text(encoding="utf-8"))
    resize(model, {**changes, "shapes": {name: tensor.shape for name, tensor in state.items()}})
    for name, tensor in state.items():
        parent, _, key = name.rpartition(".")
        getattr(model.get_submodule(parent), key).data.copy_(tensor)
    return model


def resize(model: nn.Module, changes: Mapping[str, Any]) -> None:
    """Give a whole network the layers, the numbers and the shapes of the pruned one; values are not set.

    Example:
        >>> layer = nn.Linear(2, 3)
        >>> resize(layer, {"layers": {}, "attributes": {"": {"out_features": 1}}, "shapes": {"weight": [1, 2]}})
        >>> layer.out_features, layer.weight.shape
        (1, torch.Size([1, 2]))
    """
    for name, (kind, arguments) in changes["layers"].items():  # plain layers for those that computed their weight
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, getattr(nn, kind)(**arguments))
    for name, attributes in changes["attributes"].items():
        module = model.get_submodule(name)
        for attribute, value in attributes.items():
            setattr(module, attribute, type(getattr(module, attribute))(value))  # a number, a list or a tuple
    made: dict[int, nn.Parameter] = {}  # weights that several layers share stay shared
    for name, shape in changes["shapes"].items():
        parent, _, key = name.rpartition(".")
        module = model.get_submodule(parent)
        old = getattr(module, key)
        if old.shape == tuple(shape):
            continue
        new = torch.empty(tuple(shape), dtype=old.dtype, device=old.device)
        if key in module._parameters:
            module._parameters[key] = made.setdefault(id(old), nn.Parameter(new, old.requires_grad))
        else:
            module._buffers[key] = new
