"""Rebuilds a pruned network from its weights and the JSON of its widths; needs torch and safetensors only."""

import json
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
    changes: dict[str, Any] = json.loads(widths.read_text(encoding="utf-8"))
    for name, (kind, arguments) in changes["layers"].items():
        # Layers that computed their weight: plain layers of PyTorch, such as Conv2d.
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, getattr(nn, kind)(**arguments))
    for name, attributes in changes["attributes"].items():
        module = model.get_submodule(name)
        for attribute, value in attributes.items():
            tuples = isinstance(getattr(module, attribute), tuple)
            setattr(module, attribute, tuple(value) if tuples else value)
    for name, tensor in state.items():
        parent, _, key = name.rpartition(".")
        module = model.get_submodule(parent)
        old = getattr(module, key)
        if old.shape == tensor.shape:
            old.data.copy_(tensor)  # weights that several layers share stay shared
        elif key in module._parameters:
            module._parameters[key] = nn.Parameter(tensor, old.requires_grad)
        else:
            module._buffers[key] = torch.as_tensor(tensor)
    return model
