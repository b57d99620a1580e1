"""The network of a run: by name, file or function, with its weights and what is known of them.

Only here is a network's function imported, and only by the name that the user typed (``NetworkOptions.model``). What a
checkpoint holds is read by ``storage.checkpoint``, which builds what registries list.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from infoprune.data import Preprocessing
from infoprune.device import pick_device
from infoprune.errors import InputError
from infoprune.experiment.options import NetworkOptions
from infoprune.network.origin import Origin, origin_of, set_origin
from infoprune.storage import checkpoint
from infoprune.user_code import imported, working_directory_importable
from infoprune.zoo import factory, onnx_file, registry
from infoprune.zoo.weights import load_weights, read_weights, translated


def open_network(choice: NetworkOptions, device: str = "auto") -> nn.Module:
    """Build the chosen network with its weights, in eval mode, on the device, its origin noted on it.

    Raises:
        InputError: No network or file of that name can be used.

    Example:
        >>> open_network(NetworkOptions("digits"), "cpu").training
        False
    """
    torch_device = pick_device(device)
    if choice.weights is not None and checkpoint.is_checkpoint(choice.weights):
        model = _from_checkpoint(choice, choice.weights)
    elif choice.model is None:
        if choice.weights is not None:
            _refuse_plain(choice.weights)
        raise InputError("name a network with --model, or pass an infoprune checkpoint")
    else:
        model = _built(choice, choice.model)
    return model.to(torch_device).eval()


def _refuse_plain(weights: Path) -> None:
    """Raise why a file that is no checkpoint cannot be used alone."""
    try:
        checkpoint.describe(weights)
    except InputError as error:
        raise InputError(f"{error}; weights of another form need the network they are of, --model") from error


def typed_build(choice: NetworkOptions) -> checkpoint.Build | None:
    """Return the function that builds the network that the user typed; ``None`` where no name was typed.

    Example:
        >>> typed_build(NetworkOptions("digits"))().classifier.out_features
        10
        >>> typed_build(NetworkOptions(weights=Path("small.safetensors"))) is None
        True
    """
    if choice.model is None:
        if choice.arguments:
            raise InputError("--model-args are those of the network's function: name it with --model")
        return None
    name, arguments = choice.model, dict(choice.arguments)
    return lambda: _made(name, arguments)


def preprocessing_of(model: nn.Module) -> Preprocessing:
    """Return the preprocessing that the network's weights expect.

    Raises:
        InputError: It is not known.

    Example:
        >>> preprocessing_of(open_network(NetworkOptions("digits"), "cpu")).std
        (1.0,)
    """
    origin = origin_of(model)
    if origin is None or origin.preprocessing is None:
        raise InputError("name the preprocessing that the weights expect: --mean and --std, one number per channel")
    return origin.preprocessing


def images_in_words(choice: NetworkOptions, model: nn.Module, *, photos: bool) -> str:
    """Return in a sentence what is done to the images before the network reads them.

    Args:
        choice: What was asked for.
        model: The network, with its origin.
        photos: Whether the images are files, which are resized and cropped.

    Raises:
        InputError: A size is asked for of images that are no files.

    Example:
        >>> digits = NetworkOptions("digits")
        >>> images_in_words(digits, open_network(digits, "cpu"), photos=False)
        'Images: not normalised (pixels in [0, 1]).'
    """
    sizes = [] if photos else [name for name in _OF_PHOTOS if getattr(choice, name) is not None]
    if sizes:
        raise InputError(f"--{sizes[0]} is for image files: the images of this data set have one size, and keep it")
    known, origin = preprocessing_of(model), origin_of(model)
    shown = known if photos else replace(known, resize=None, crop=None)
    own = origin is not None and not factory.is_listed(origin.architecture)
    hint = " If the weights were trained on normalised images, pass --mean and --std." if own and known.is_plain else ""
    return f"Images: {shown.in_words()}.{hint}"


def _built(choice: NetworkOptions, name: str) -> nn.Module:
    model = _made(name, choice.arguments)
    if choice.weights is not None:
        load_weights(model, translated(name, read_weights(choice.weights)), name=name, source=str(choice.weights))
    preprocessing = _preprocessing(choice, _known_preprocessing(name, model, choice.input_shape))
    shape = choice.input_shape or _input_shape(name, preprocessing)
    return set_origin(model, Origin(name, shape, choice.arguments, preprocessing))


def _made(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    if ":" not in name and name not in registry.names() and Path(f"{name.removesuffix('.py')}.py").is_file():
        module = name.removesuffix(".py")
        raise InputError(f"'{name}' is no network: name the function of that file that returns it, '{module}:FUNCTION'")
    if factory.is_listed(name):
        return factory.make(name, arguments)
    file = onnx_file.file_of(name)
    if file is not None:
        if arguments:
            raise InputError("a network from an ONNX file takes no --model-args")
        return onnx_file.from_onnx(file)
    function = imported(name, "function")
    if not callable(function):
        raise InputError(f"'{name}' must be a function that returns a torch.nn.Module, not {type(function).__name__}")
    # A function of the user's may import what lies beside it only when it is called.
    with working_directory_importable():
        return factory.called(name, lambda: function(**arguments))


def _from_checkpoint(choice: NetworkOptions, path: Path) -> nn.Module:
    written = checkpoint.describe(path).origin
    build = typed_build(choice)
    if choice.model is not None:
        _check_same_network(choice.model, choice.arguments, written, path)
        by_itself = choice.model == written.architecture and not choice.arguments
        build = None if by_itself and factory.is_listed(choice.model) else build
    model = checkpoint.load(path, build)
    if build is not None:
        assert choice.model is not None  # there is no build otherwise
        written = replace(written, architecture=choice.model, arguments=choice.arguments)
    if choice.input_shape is not None:
        if choice.input_shape[0] != written.input_shape[0]:
            raise InputError(f"'{path}' reads images of {written.input_shape[0]} channels, not {choice.input_shape[0]}")
        written = replace(written, input_shape=choice.input_shape)
    if _changes_images(choice):
        known = written.preprocessing or _known_preprocessing(written.architecture, model, written.input_shape)
        written = replace(written, preprocessing=_preprocessing(choice, known))
    return set_origin(model, written)


def _check_same_network(name: str, arguments: Mapping[str, Any], written: Origin, path: Path) -> None:
    """Refuse a network and arguments that are not those of the checkpoint."""
    listed = factory.is_listed(name) and factory.is_listed(written.architecture)
    if listed and name != written.architecture:
        raise InputError(f"'{path}' is a checkpoint of '{written.architecture}', not of '{name}'")
    by_itself = listed and not arguments
    if not by_itself and dict(arguments) != dict(written.arguments):
        raise InputError(
            f"'{path}' is a checkpoint of a network with the arguments {json.dumps(dict(written.arguments))}, not "
            f"{json.dumps(dict(arguments))}: pass --model-args {shlex.quote(json.dumps(dict(written.arguments)))}"
        )


def _known_preprocessing(name: str, model: nn.Module, shape: tuple[int, int, int] | None) -> Preprocessing:
    known = factory.preprocessing_of(name, model)
    if shape is None or known.channels == shape[0]:
        return known
    return replace(known, mean=(0.0,) * shape[0], std=(1.0,) * shape[0])


_OF_PHOTOS = ("resize", "crop", "interpolation")
_OF_IMAGES = ("mean", "std", *_OF_PHOTOS)


def _changes_images(choice: NetworkOptions) -> bool:
    return any(getattr(choice, name) is not None for name in _OF_IMAGES)


def _preprocessing(choice: NetworkOptions, known: Preprocessing) -> Preprocessing:
    if (choice.mean is None) != (choice.std is None):
        raise InputError("--mean and --std are needed together: one number per channel each")
    if choice.mean and choice.std and max(choice.mean) > 1 and max(choice.std) > 1:
        raise InputError(
            "--mean and --std are of images from 0 to 255: divide them by 255, since images have values from 0 to 1"
        )
    given = {name: getattr(choice, name) for name in _OF_IMAGES}
    return replace(known, **{name: value for name, value in given.items() if value is not None})


def _input_shape(name: str, preprocessing: Preprocessing) -> tuple[int, int, int]:
    if name in registry.names():
        return registry.info(name).input_shape
    file = onnx_file.file_of(name)
    declared = None if file is None else onnx_file.input_shape(file)
    if declared is not None:
        return declared
    if preprocessing.crop is None:
        raise InputError(f"say what images '{name}' reads: --input-shape C,H,W")
    return preprocessing.channels, preprocessing.crop, preprocessing.crop


def stored_precision(model: nn.Module, *, half: bool) -> nn.Module:
    """Round a network's weights, in place, to the precision they will be stored in, so that figures are of the file.

    Example:
        >>> import torch
        >>> net = nn.Linear(1, 1)
        >>> _ = nn.init.constant_(net.weight, 0.1)
        >>> stored_precision(net, half=True).weight.item() == float(torch.tensor(0.1).half())
        True
    """
    if half:
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(tensor.half())
    return model
