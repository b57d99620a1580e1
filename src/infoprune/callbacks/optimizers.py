"""Optimizers of a network that is cut while it is trained: each parameter that is left keeps its momentum."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from infoprune.errors import InputError
from infoprune.network.in_place import InPlace, Smaller


def plain_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """Return the optimizer inside the wrapper of Accelerate or Lightning.

    Raises:
        InputError: It is none of PyTorch, or keeps one vector for all parameters, as L-BFGS does.

    Example:
        >>> type(plain_optimizer(torch.optim.SGD([nn.Parameter(torch.zeros(1))]))).__name__
        'SGD'
    """
    found = getattr(optimizer, "optimizer", optimizer)
    if not isinstance(found, torch.optim.Optimizer):
        raise InputError(
            f"the optimizer must be one of torch.optim or a class of that kind, not {type(found).__name__}"
        )
    if isinstance(found, torch.optim.LBFGS):
        raise InputError("LBFGS keeps one vector for all parameters, which cannot be cut: use another optimizer")
    return found


def cut_optimizer(optimizer: Any, change: InPlace) -> None:
    """Cut the state of an optimizer as its parameters were cut, in place.

    Momentum and moments of the values that are left are kept as they are, and so are step counters, learning rates and
    groups. State of another form, such as the row and column means of Adafactor, is dropped for the parameters that
    changed: the optimizer starts it again.

    Args:
        optimizer: Any optimizer of PyTorch, before or after its first step, inside the wrapper of Accelerate or not.
        change: What ``infoprune.network.in_place.cut_in_place`` returned.

    Raises:
        InputError: As for ``plain_optimizer``.

    Example:
        >>> from infoprune.network.in_place import cut_in_place
        >>> from infoprune.plan import LayerDecision, Plan
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        >>> net(torch.rand(2, 1, 8, 8)).sum().backward()
        >>> optimizer.step()
        >>> plan = Plan({"0": LayerDecision("0", 4, kept=(0, 2))})
        >>> cut_optimizer(optimizer, cut_in_place(plan, net, torch.rand(2, 1, 8, 8)))
        >>> optimizer.state[net[0].weight]["momentum_buffer"].shape
        torch.Size([2, 1, 3, 3])
    """
    plain = plain_optimizer(optimizer)
    _swap(plain, [(old, new) for old, new in _layers(change)])
    for parameter, left in change.smaller.items():
        state = plain.state.get(parameter)
        if state is None:
            continue
        cut = {name: _cut(value, parameter, left) for name, value in state.items()}
        if any(value is _OTHER for value in cut.values()):
            del plain.state[parameter]
        else:
            state.update(cut)


def restore_optimizer(optimizer: Any, change: InPlace) -> None:
    """Let an optimizer follow a cut that was undone: parameters that changed start without momentum.

    Args:
        optimizer: As for ``cut_optimizer``.
        change: Of which ``undo`` was called.

    Example:
        >>> parameter = nn.Parameter(torch.zeros(2))
        >>> restore_optimizer(torch.optim.SGD([parameter], lr=0.1), InPlace({}, {}))
    """
    plain = plain_optimizer(optimizer)
    for parameter in change.smaller:
        plain.state.pop(parameter, None)
    _swap(plain, [(new, old) for old, new in _layers(change)])


_OTHER = object()


def _cut(value: Any, parameter: nn.Parameter, left: Smaller) -> Any:
    """Return the kept part of one entry of the state; ``_OTHER`` for one that is not a value for each parameter."""
    if not isinstance(value, Tensor) or (value.numel() <= 1 and value.shape != left.before):
        return value
    if value.shape != left.before:
        return _OTHER
    # In the layout of the parameter, which fused steps expect.
    return torch.empty_like(parameter, dtype=value.dtype, device=value.device, requires_grad=False).copy_(
        left.of(value)
    )


Parameters = tuple[nn.Parameter, ...]


def _layers(change: InPlace) -> list[tuple[Parameters, Parameters]]:
    """Return, for every layer that became a plain one, its parameters before and after."""
    found: dict[Parameters, Parameters] = {}
    for new, old in change.replaced.items():
        found[old] = (*found.get(old, ()), new)
    return list(found.items())


def _swap(optimizer: torch.optim.Optimizer, layers: list[tuple[Parameters, Parameters]]) -> None:
    """Let parameters take the place of others, without momentum; in the order that the network has them."""
    for leaving, coming in layers:
        gone = {id(one) for one in leaving}
        waiting = [coming]
        for group in optimizer.param_groups:
            names = group.get("param_names")
            kept: list[tuple[str, nn.Parameter]] = []
            for place, one in enumerate(group["params"]):
                name = names[place] if names else ""
                if id(one) not in gone:
                    kept.append((name, one))
                elif waiting:
                    kept += [(name, new) for new in waiting.pop()]
            group["params"] = [one for _, one in kept]
            if names:
                group["param_names"] = [name for name, _ in kept]
        for one in leaving:
            optimizer.state.pop(one, None)
