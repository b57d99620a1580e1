"""Networks on disk: safetensors with a JSON header. Nothing that a checkpoint names is ever imported or run."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from infoprune.declarations.validation import check_regular, parsed_object, validated
from infoprune.errors import InputError
from infoprune.files import written_whole
from infoprune.network.layers import width
from infoprune.network.origin import Origin, blocks_of, origin_of, plan_of, set_origin
from infoprune.network.stand_ins import remove_named
from infoprune.network.surgery import apply
from infoprune.version import __version__
from infoprune.zoo import registry
from infoprune.zoo.factory import build_from_file, called, is_listed
from infoprune.zoo.weights import load_weights

FORMAT = 1
_HEADER = "infoprune"

Build = Callable[[], nn.Module]


@dataclass(frozen=True)
class Contents:
    """The header of a checkpoint.

    Args:
        origin: How the network is built, and its plan.
        settings: What made it.
        figures: What was measured.
        version: The infoprune that wrote it.

    Example:
        >>> Contents(Origin("digits", (1, 8, 8))).origin.architecture
        'digits'
    """

    origin: Origin
    settings: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    version: str = __version__


@dataclass(frozen=True)
class _Header:
    """The entries of a header beside those of the origin."""

    format: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    version: str = "?"


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
        origin: What the network is; by default what is noted on it. Where it has no plan, the cuts that are noted on
            the network are stored.
        settings: JSON values that reproduce it.
        figures: JSON values that were measured.
        half: Store floating point tensors in half precision.
        force: Replace a file that exists.

    Raises:
        InputError: Nothing is known of the network, the plan is not that of this network, a value is no JSON, or the
            path cannot be written. What ``load`` could not read is not written.

    Example:
        >>> import tempfile
        >>> from infoprune import zoo
        >>> file = Path(tempfile.mkdtemp()) / "net.safetensors"
        >>> save(zoo.build("digits"), file, origin=Origin("digits", (1, 8, 8)))
        >>> load(file).classifier.out_features
        10
    """
    origin = _with_cuts(origin or origin_of(model), model)
    header = {
        "format": FORMAT,
        "version": __version__,
        **origin.to_dict(),
        "settings": dict(settings or {}),
        "figures": dict(figures or {}),
    }
    try:
        text = json.dumps(header)
    except (TypeError, ValueError) as error:
        raise InputError(f"the arguments, settings and figures of a checkpoint must be JSON values: {error}") from error
    _contents(text, path)
    tensors = {name: _stored(tensor, half) for name, tensor in model.state_dict().items()}
    with written_whole(Path(path), force=force) as temporary:
        save_file(tensors, temporary, metadata={_HEADER: text})


def load(path: str | Path, build: Build | None = None) -> nn.Module:
    """Build the network of a checkpoint, in eval mode, on the CPU.

    What the file names is built only where the zoo, timm or torchvision lists it. Any other network is built by the
    function that the caller passes; the file then provides the plan and the weights.

    Args:
        path: An infoprune checkpoint.
        build: Returns the whole network, before any filter was removed, with any weights. It takes no arguments: what
            the file holds of them is information (``describe(path).origin.arguments``).

    Raises:
        InputError: The file is missing, damaged, or not a checkpoint, or its architecture cannot be built here.

    Example:
        >>> import tempfile, torch, infoprune
        >>> from torch import nn
        >>> def network():
        ...     return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 2))
        >>> images = [(torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 0, 1]))]
        >>> small = infoprune.prune(network(), images, criterion="l1", ratio=0.5).model
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     infoprune.save(small, f"{folder}/small.safetensors", origin=infoprune.Origin("mine", (3, 8, 8)))
        ...     infoprune.load(f"{folder}/small.safetensors", build=network)[0].out_channels
        4
    """
    path = Path(path)
    origin = describe(path).origin
    if build is not None:
        model = called(origin.architecture, build)
    elif is_listed(origin.architecture):
        model = _listed(path, origin)
    else:
        raise _not_listed(path, origin)
    remove_named(model, origin.blocks)
    if origin.plan is not None:
        model = apply(origin.plan, model, torch.zeros(2, *origin.input_shape))
    load_weights(model, _weights(path), name=origin.architecture, source=str(path))
    return set_origin(model.eval(), origin)


def describe(path: str | Path) -> Contents:
    """Read the header of a checkpoint, without building anything.

    Raises:
        InputError: The file is missing, damaged, or not a checkpoint of this or an older version.

    Example:
        >>> import tempfile
        >>> from infoprune import zoo
        >>> file = Path(tempfile.mkdtemp()) / "net.safetensors"
        >>> save(zoo.build("digits"), file, origin=Origin("digits", (1, 8, 8)), figures={"accuracy": 99.2})
        >>> describe(file).figures["accuracy"]
        99.2
    """
    path = Path(path)
    with _opened(path) as file:
        header = (file.metadata() or {}).get(_HEADER)
    if header is None:
        raise InputError(f"'{path}' holds weights but is not an infoprune checkpoint: it does not say of which network")
    return _contents(header, path)


def is_checkpoint(path: str | Path) -> bool:
    """Return whether a file is an infoprune checkpoint; anything else, missing files included, is not.

    Example:
        >>> is_checkpoint(Path("missing.safetensors"))
        False
    """
    try:
        check_regular(Path(path))
        with safe_open(path, "pt") as file:
            return _HEADER in (file.metadata() or {})
    except (InputError, OSError, SafetensorError):
        return False


def _contents(header: str, path: str | Path) -> Contents:
    what = f"the header of '{path}'"
    data = parsed_object(header, what)
    found = data.get("format", 0)
    if type(found) is int and found > FORMAT:
        raise InputError(f"'{path}' was written by another infoprune: this is {__version__}, update it")
    origin = Origin.from_dict(data)
    known = set(origin.to_dict())
    rest = validated(_Header, {name: value for name, value in data.items() if name not in known}, what)
    return Contents(origin, rest.settings, rest.figures, rest.version)


def _listed(path: Path, origin: Origin) -> nn.Module:
    try:
        return build_from_file(origin.architecture, origin.arguments)
    except InputError as error:
        raise InputError(
            f"'{path}' cannot be built from what it says of itself: {error} (A network of your own is built by "
            "load(path, build=function) or --model package.module:function.)"
        ) from error


def _not_listed(path: Path, origin: Origin) -> InputError:
    arguments = f" --model-args {shlex.quote(json.dumps(dict(origin.arguments)))}" if origin.arguments else ""
    return InputError(
        f"'{path}' says it is {origin.architecture!r}, which no registry lists, and what a file names is never run: if "
        f"you trust that code, name it yourself with --model {shlex.quote(origin.architecture)}{arguments} "
        "(in Python: load(path, build=function))"
    )


def _with_cuts(origin: Origin | None, model: nn.Module) -> Origin:
    if origin is None:
        raise InputError(
            "nothing is known of this network, so a checkpoint of it could not be loaded again: give "
            "origin=infoprune.Origin('package.module:function', (C, H, W))"
        )
    origin = replace(origin, plan=plan_of(model)) if origin.plan is None else origin
    origin = replace(origin, blocks=blocks_of(model)) if not origin.blocks else origin
    _check_widths(origin, model)
    return origin


def _check_widths(origin: Origin, model: nn.Module) -> None:
    modules = dict(model.named_modules())
    for layer, decision in ({} if origin.plan is None else origin.plan.decisions).items():
        if layer not in modules or width(modules[layer], "out") != len(decision.kept):
            raise InputError(
                f"the plan is not that of this network, so a checkpoint could not be loaded again: by the plan layer "
                f"'{layer}' has {len(decision.kept)} filters"
            )
    if origin.plan is None and origin.architecture in registry.names():
        with torch.device("meta"):
            network = build_from_file(origin.architecture, origin.arguments)
            remove_named(network, origin.blocks)
            whole = network.state_dict()
        here = model.state_dict()
        other = next((name for name in {**whole, **here} if _shape(whole, name) != _shape(here, name)), None)
        if other is not None:
            raise InputError(
                f"this network is not '{origin.architecture}' with {dict(origin.arguments)}, so a checkpoint could not "
                f"be loaded again: '{other}' has the shape {_shape(here, other)}, not {_shape(whole, other)}; give the "
                "plan it was cut by in the origin"
            )


def _shape(state: Mapping[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(state[name].shape) if name in state else None


def _weights(path: Path) -> dict[str, Tensor]:
    try:
        with _opened(path) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, RuntimeError, ValueError, AttributeError) as error:  # types that PyTorch does not know
        if isinstance(error, InputError):
            raise
        raise InputError(f"the tensors of '{path}' cannot be read: {error}") from error


def _stored(tensor: Tensor, half: bool) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()
    return tensor.half() if half and tensor.is_floating_point() else tensor.clone()


def _opened(path: Path) -> Any:
    check_regular(path)
    try:
        return safe_open(path, "pt")
    except (OSError, SafetensorError) as error:
        raise InputError(f"'{path}' is not a whole safetensors file: {error}") from error
