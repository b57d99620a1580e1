"""Penalties added to the loss while a network is trained; one function per penalty, selected by name.

``ufkt``: unimportant filters' knowledge transfer (Sarvani, Dubey and Ghorai 2022, Neurocomputing). Before the filters U
of a layer are cut, the network is trained for a few epochs with

    paper   R = strength * sum over layers of (sum over U of ||W_f||_1 - sum over I of ||W_f||_1)
    code    R = strength * sum over layers of the sum over U without I of ||W_f||_1

where I are the filters of the largest L1 norms, of the number that the layer keeps in the end. In the published code
the terms of I cancel, so its figures belong to the second form. The first has no lower bound: keep the learning rate
tiny.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, get_args

from torch import Tensor, nn

from infoprune.declarations.option_values import check_keywords
from infoprune.errors import InputError, unknown
from infoprune.registry import enter, in_order, look_up

Penalty = Callable[[nn.Module], Tensor]
Form = Literal["paper", "code"]


@dataclass(frozen=True)
class Parting:
    """The outputs of layers that will be cut and those that matter most, by layer.

    Args:
        removed: By dotted name of a layer, the output channels that will be cut.
        important: The filters of the largest L1 norms, of the number that is kept in the end.

    Example:
        >>> Parting(removed={"conv1": (3, 7)}).removed["conv1"]
        (3, 7)
    """

    removed: Mapping[str, tuple[int, ...]]
    important: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class PenaltyInfo:
    """What is declared of a penalty.

    Args:
        name: The word that selects it.
        function: ``function(model, parting, **options)`` returns what is added to the loss, differentiable; its
            keyword-only arguments are its options.
        description: One line.
        paper: Where it was published.

    Example:
        >>> check_penalty("ufkt").name
        'ufkt'
    """

    name: str
    function: Callable[..., Tensor]
    description: str
    paper: str = ""


_REGISTRY: dict[str, PenaltyInfo] = {}


def register_penalty(info: PenaltyInfo) -> PenaltyInfo:
    """Make a penalty selectable by name.

    Raises:
        InputError: The name is taken.

    Example:
        >>> info = PenaltyInfo("none", lambda model, parting: torch.zeros(()), "adds nothing")
        >>> register_penalty(info).name
        'none'
        >>> del _REGISTRY["none"]
    """
    return enter(_REGISTRY, "penalty", info)


def all_penalties() -> tuple[PenaltyInfo, ...]:
    """Return every registered penalty, by name.

    Example:
        >>> "ufkt" in {info.name for info in all_penalties()}
        True
    """
    return in_order(_REGISTRY)


def make_penalty(name: str, parting: Parting, options: Mapping[str, Any] | None = None) -> Penalty:
    """Return the function of a network that is added to the loss.

    Raises:
        InputError: There is no such penalty, or it has no such option.

    Example:
        >>> net = nn.Sequential(nn.Linear(1, 3, bias=False))
        >>> import torch
        >>> with torch.no_grad():
        ...     _ = net[0].weight.copy_(torch.tensor([[1.0], [-2.0], [4.0]]))
        >>> penalty = make_penalty("ufkt", Parting({"0": (0,)}, {"0": (2,)}), {"strength": 0.1})
        >>> round(penalty(net).item(), 4)  # 0.1 (1 - 4)
        -0.3
    """
    return partial(check_penalty(name, options).function, parting=parting, **(options or {}))


def check_penalty(name: str, options: Mapping[str, Any] | None = None) -> PenaltyInfo:
    """Return what is declared of a penalty.

    Raises:
        InputError: There is no such penalty, or it has no such option.

    Example:
        >>> check_penalty("uftk")
        Traceback (most recent call last):
            ...
        infoprune.errors.InputError: unknown penalty 'uftk': did you mean 'ufkt'?
    """
    info = look_up(_REGISTRY, "penalty", name)
    check_keywords(info.function, options or {}, f"the penalty '{name}'")
    return info


def ufkt(model: nn.Module, parting: Parting, *, strength: float = 1e-3, form: Form = "paper") -> Tensor:
    """Return the penalty that shrinks the filters to be cut and, in the paper's form, grows the important ones.

    Args:
        model: The network that is being trained.
        parting: Its filters.
        strength: 1e-2 for LeNet-5 and VGG-16, 1e-3 for ResNets, as published.
        form: ``"paper"`` or ``"code"``.

    Raises:
        InputError: The strength is not a number from 0 up, or the form is unknown.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3))
        >>> ufkt(net, Parting({"0": (1, 3)}, {"0": (0,)})).requires_grad
        True
    """
    if form not in get_args(Form):
        raise unknown("form of the penalty 'ufkt'", str(form), get_args(Form))
    if not (math.isfinite(strength) and strength >= 0):
        raise InputError(f"the strength of a penalty is 0 or more, not {strength}")
    total = next(model.parameters()).new_zeros(())
    for layer, removed in parting.removed.items():
        norms = output_norms(model.get_submodule(layer))
        important = parting.important.get(layer, ())
        if form == "paper":
            total = total + norms[list(removed)].sum() - norms[list(important)].sum()
        else:
            total = total + norms[[one for one in removed if one not in set(important)]].sum()
    return strength * total


def output_norms(module: nn.Module) -> Tensor:
    """Return the L1 norm of the weights of each output channel of a convolution or linear layer, differentiable.

    Example:
        >>> output_norms(nn.Conv2d(1, 4, 3)).shape
        torch.Size([4])
    """
    weight: Tensor = module.weight  # type: ignore[assignment]
    if not getattr(module, "transposed", False):
        return weight.abs().flatten(1).sum(dim=1)
    # (in, out / groups, ...): every group of inputs has outputs of its own.
    groups: int = module.groups  # type: ignore[assignment]
    return weight.abs().reshape(groups, -1, *weight.shape[1:]).flatten(3).sum(dim=(1, 3)).flatten()


register_penalty(
    PenaltyInfo(
        "ufkt",
        ufkt,
        "shrinks the filters that are to be cut, grows the important ones",
        "Sarvani et al. 2022, Neurocomputing",
    )
)
