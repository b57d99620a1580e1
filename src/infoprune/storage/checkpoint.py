"""Networks on disk: safetensors with a JSON header. Nothing in a checkpoint is ever run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from infoprune.errors import InputError
from infoprune.files import written_whole
from infoprune.network.origin import Origin, origin_of, set_origin
from infoprune.network.surgery import apply
from infoprune.version import __version__
from infoprune.zoo.factory import make
from infoprune.zoo.weights import load_weights

FORMAT = 1
_HEADER = "infoprune"


@dataclass(frozen=True)
class Contents:
    """What a checkpoint says of itself.

    Args:
        origin: How the network is built, and its plan.
        settings: What made it.
        figures: What was measured.
        version: The infoprune that wrote it.
    """

    origin: Origin
    settings: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    version: str = __version__


def save(
    model: nn.Module,
    path: str | Path,
    *,
    origin: Origin | None = None,
    settings: Mapping[str, Any] | None = None,
    figures: Mapping[str, Any] | None = None,
    half: bool = False,
    force: bool = False,
) -> None:
    """Write a network to a checkpoint, whole or not at all.

    Args:
        model: Built by ``infoprune.load``, the zoo, or anything whose ``origin`` is given.
        path: A safetensors file.
        origin: How to build it again; by default what is noted on the network.
        settings: JSON values that reproduce it.
        figures: JSON values that were measured.
        half: Store floating point tensors in half precision.
        force: Replace a file that exists.

    Raises:
        InputError: Nobody knows how to build this network again, or the path cannot be written.
    """
    origin = origin or origin_of(model)
    if origin is None:
        raise InputError(
            "this network was not built by infoprune, so a checkpoint could not be loaded again: give "
            "origin=infoprune.Origin('package.module:function', (C, H, W))"
        )
    header = {
        "format": FORMAT,
        "version": __version__,
        **origin.to_dict(),
        "settings": dict(settings or {}),
        "figures": dict(figures or {}),
    }
    tensors = {name: _stored(tensor, half) for name, tensor in model.state_dict().items()}
    with written_whole(Path(path), force=force) as temporary:
        save_file(tensors, temporary, metadata={_HEADER: json.dumps(header)})


def load(path: str | Path) -> nn.Module:
    """Build the network of a checkpoint, in eval mode, on the CPU.

    Raises:
        InputError: The file is missing, damaged, or not a checkpoint, or its architecture cannot be built here.
    """
    contents = describe(path)
    origin = contents.origin
    model = make(origin.architecture, origin.arguments)
    if origin.plan is not None:
        model = apply(origin.plan, model, torch.zeros(2, *origin.input_shape))
    with _opened(Path(path)) as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    load_weights(model, weights, name=origin.architecture, source=str(path))
    return set_origin(model.eval(), origin)


def describe(path: str | Path) -> Contents:
    """Read what a checkpoint says of itself, without building anything.

    Raises:
        InputError: The file is missing, damaged, or not a checkpoint of this or an older version.
    """
    path = Path(path)
    with _opened(path) as file:
        header = (file.metadata() or {}).get(_HEADER)
    if header is None:
        raise InputError(f"'{path}' holds weights but is not an infoprune checkpoint: name its network with --model")
    try:
        data = json.loads(header)
    except ValueError as error:
        raise InputError(f"the header of '{path}' is damaged: {error}") from error
    if data.get("format", 0) > FORMAT:
        raise InputError(f"'{path}' was written by infoprune {data.get('version')}: this is {__version__}, update it")
    return Contents(Origin.from_dict(data), data.get("settings", {}), data.get("figures", {}), data.get("version", "?"))


def is_checkpoint(path: str | Path) -> bool:
    """Return whether a file is an infoprune checkpoint; anything else, missing files included, is not."""
    try:
        with safe_open(path, "pt") as file:
            return _HEADER in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def _stored(tensor: Tensor, half: bool) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()
    return tensor.half() if half and tensor.is_floating_point() else tensor.clone()


def _opened(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"the file '{path}' does not exist")
    try:
        return safe_open(path, "pt")
    except (OSError, SafetensorError) as error:
        raise InputError(f"'{path}' is not a whole safetensors file: {error}") from error
