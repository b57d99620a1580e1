"""Which networks there are, and what is declared of each."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from torch import nn

from infoprune.data.preprocessing import Preprocessing
from infoprune.errors import InputError, unknown
from infoprune.registry import look_up

if TYPE_CHECKING:
    from infoprune.network.feature_maps import Tap

Builder = Callable[..., nn.Module]
_B = TypeVar("_B", bound=Builder)


@dataclass(frozen=True)
class NetworkInfo:
    """What is declared of a network.

    Args:
        name: The word that selects it.
        description: One line.
        input_shape: ``(C, H, W)`` of one image.
        classes: Number of classes by default.
        preprocessing: What its usual weights expect.
        taps: Where the paper of a criterion reads the feature maps of this network, by the criterion's name; only
            where a paper defines it.
        source: Where the architecture, and the weights there are, come from.
        dataset: The data its usual weights were trained on, by the name the data sets have here.

    Example:
        >>> info("digits").input_shape, info("digits").dataset
        ((1, 8, 8), 'digits')
    """

    name: str
    description: str
    input_shape: tuple[int, int, int]
    classes: int
    preprocessing: Preprocessing
    taps: Mapping[str, Tap] = field(default_factory=dict)
    source: str = ""
    dataset: str = ""


_INFOS: dict[str, NetworkInfo] = {}
_BUILDERS: dict[str, Builder] = {}


def register(network: NetworkInfo) -> Callable[[_B], _B]:
    """Make the decorated builder selectable by the name of ``network``.

    Raises:
        InputError: The name is taken.

    Example:
        >>> @register(NetworkInfo("mine", "one convolution", (1, 8, 8), 10, Preprocessing((0.0,), (1.0,))))
        ... def mine(classes: int = 10) -> nn.Module:
        ...     return nn.Sequential(nn.Conv2d(1, classes, 8), nn.Flatten())
        >>> type(build("mine", classes=4)).__name__
        'Sequential'
        >>> del _INFOS["mine"], _BUILDERS["mine"]
    """
    if network.name in _INFOS:
        raise InputError(f"a network named '{network.name}' exists already: choose another name")

    def add(builder: _B) -> _B:
        _INFOS[network.name] = network
        _BUILDERS[network.name] = builder
        return builder

    return add


def names() -> tuple[str, ...]:
    """Return the name of every network, sorted.

    Example:
        >>> "vgg16" in names()
        True
    """
    return tuple(sorted(_INFOS))


def info(name: str) -> NetworkInfo:
    """Return what is declared of the network of that name.

    Raises:
        InputError: There is none.

    Example:
        >>> info("vgg16").classes
        10
    """
    return look_up(_INFOS, "network", name)


def build(name: str, **arguments: object) -> nn.Module:
    """Return the network of that name with freshly initialised weights.

    Args:
        name: One of ``names()``.
        arguments: What its builder takes, such as ``classes=100``.

    Raises:
        InputError: There is no such network, or its builder does not take these arguments.

    Example:
        >>> import torch
        >>> build("digits").eval()(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    network = info(name)
    builder = _BUILDERS[name]
    known = inspect.signature(builder).parameters
    for argument in arguments:
        if argument not in known:
            raise unknown(f"argument of network '{network.name}'", argument, known)
        _check_type(name, argument, arguments[argument], known[argument].default)
    return builder(**arguments)


def _check_type(name: str, argument: str, value: object, default: object) -> None:
    if isinstance(default, bool):
        right, wanted = isinstance(value, bool), "true or false"
    elif isinstance(default, int):
        right, wanted = type(value) is int and value >= 1, "a whole number, at least 1"
    else:
        return
    if not right:
        raise InputError(f"'{argument}' of network '{name}' is {wanted}, not {value!r}")
