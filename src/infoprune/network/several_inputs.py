"""Networks that take several inputs, or inputs by keyword: joined into one tensor, and split where they are called.

Everything else reads batches of one ``(n, ...)`` tensor. Inputs of any shapes are flattened and joined into
``(n, 1, length)``; a hook on the network takes them apart again, so that its layers keep their names.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, is_dataclass, replace
from math import prod
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor, nn

from infoprune.data.batches import LABELS, Batch, Batches, check_repeatable, number_of_batches
from infoprune.data.given import batched
from infoprune.errors import InputError
from infoprune.plan import Plan

# Under this name a plan notes the inputs.
SETTING = "inputs"
_BATCHES = ("images", "batches", "repair_images", "held_out", "test")
_NETWORKS = ("model", "small")
# Inputs that a forward may be given, by default none, to compute a loss.
_FOR_LOSSES = ("labels", "label")
_P = ParamSpec("_P")
_R = TypeVar("_R")


@dataclass(frozen=True)
class Inputs:
    """What the forward of a network takes.

    Args:
        names: Keyword of each input, empty for one that is passed by position.
        shapes: Shape of each input without the batch.
        dtypes: Type of each input. Real numbers are passed in the precision of the joined tensor.

    Example:
        >>> inputs = Inputs(("", ""), ((1, 2), (3,)), (torch.float32, torch.int64))
        >>> joined = inputs.joined([torch.zeros(4, 1, 2), torch.ones(4, 3).long()])
        >>> tuple(joined.shape), [tuple(one.shape) for one in inputs.split(joined)[0]]
        ((4, 1, 5), [(4, 1, 2), (4, 3)])
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[torch.dtype, ...]

    @classmethod
    def of(cls, given: Sequence[tuple[str, Tensor]]) -> Inputs:
        """Return the names, shapes and types of the inputs of one batch."""
        names, tensors = zip(*given, strict=True)
        shapes = tuple(tuple(one.shape[1:]) for one in tensors)
        return cls(names, shapes, tuple(one.dtype for one in tensors))

    @classmethod
    def from_settings(cls, noted: Sequence[Mapping[str, Any]]) -> Inputs:
        """Return the inputs that a plan notes.

        Raises:
            InputError: What it notes are no inputs.
        """
        try:
            shapes = tuple(tuple(int(size) for size in one["shape"]) for one in noted)
            dtypes = tuple(_TYPES[one["type"]] for one in noted)
            return cls(tuple(str(one["name"]) for one in noted), shapes, dtypes)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError("the plan's inputs are not a list of names, shapes and types") from error

    def settings(self) -> list[dict[str, Any]]:
        """Return the inputs as JSON values."""
        rows = zip(self.names, self.shapes, self.dtypes, strict=True)
        return [{"name": name, "shape": list(shape), "type": str(kind)[6:]} for name, shape, kind in rows]

    def joined(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return ``(n, 1, length)``, all inputs of n samples.

        Raises:
            InputError: The inputs have other shapes than those of the first batch.
        """
        shapes = tuple(tuple(one.shape[1:]) for one in tensors)
        if shapes != self.shapes or len({len(one) for one in tensors}) != 1:
            raise InputError(
                f"the inputs of a batch have shapes {[tuple(one.shape) for one in tensors]}: with several inputs every "
                f"batch is (n, ...) with {list(self.shapes)} for n samples, as the first one is"
            )
        kinds = [one.dtype for one in tensors if one.is_floating_point()] or [torch.get_default_dtype()]
        return torch.cat([one.reshape(len(one), -1).to(kinds[0]) for one in tensors], dim=1)[:, None]

    def split(self, joined: Tensor) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """Return the inputs as positional and keyword arguments."""
        parts = torch.split(joined.flatten(1), [prod(shape) for shape in self.shapes], dim=1)
        args, words = [], {}
        for name, shape, kind, part in zip(self.names, self.shapes, self.dtypes, parts, strict=True):
            value = part.reshape(len(part), *shape)
            value = value if kind.is_floating_point else value.to(kind)
            if name:
                words[name] = value
            else:
                args.append(value)
        return tuple(args), words


_TYPES = {
    str(kind)[6:]: kind
    for kind in (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
                 torch.int8, torch.uint8, torch.bool)
}  # fmt: skip


@dataclass(frozen=True)
class JoinedBatches:
    """Batches of several inputs, each joined into one tensor; iterable as often as the batches are.

    Args:
        batches: Batches as they were passed.
        inputs: What the network takes.
        model: The network.

    Example:
        >>> net = nn.Bilinear(2, 3, 1)
        >>> inputs = Inputs(("", ""), ((2,), (3,)), (torch.float32, torch.float32))
        >>> batches = [((torch.zeros(4, 2), torch.zeros(4, 3)),)]
        >>> [tuple(batch.images.shape) for batch in JoinedBatches(batches, inputs, net)]
        [(4, 1, 5)]
    """

    batches: Batches
    inputs: Inputs
    model: nn.Module

    def __len__(self) -> int:
        """Return the number of batches, 0 where only reading them shows it."""
        return number_of_batches(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches."""
        for batch in self.batches:
            given, labels = taken_apart(batch, self.model)
            names = tuple(name for name, _ in given)
            if names != self.inputs.names:
                raise InputError(f"a batch has the inputs {names}, the first one has {self.inputs.names}")
            yield Batch(self.inputs.joined([tensor for _, tensor in given]), labels)


def inputs_of(batches: Any, model: nn.Module) -> Inputs | None:
    """Return what a network takes, where it takes more than one tensor by position; ``None`` otherwise.

    Args:
        batches: What a user passes as images.
        model: The network.

    Example:
        >>> inputs_of([(torch.zeros(4, 1, 8, 8), torch.arange(4))], nn.Flatten()) is None
        True
    """
    if isinstance(batches, (Tensor, str)) or not hasattr(batches, "__iter__"):
        return None
    check_repeatable(batches)
    with torch.random.fork_rng([]):
        first = next(iter(batches), None)
    given, _ = ([], None) if first is None else taken_apart(first, model)
    return Inputs.of(given) if given else None


def taken_apart(batch: Any, model: nn.Module) -> tuple[list[tuple[str, Tensor]], Any]:
    """Return the named inputs and the labels of a batch of several inputs; no inputs where it has one tensor.

    Several inputs are a tuple, list or dict of tensors in the place of the images, ``((left, right), labels)``; or a
    dict of what the forward takes by keyword, with labels under ``labels`` or the like. A forward that takes ``labels``
    only to return a loss too, as those of Transformers do, is called without them.

    Example:
        >>> batch = ((torch.zeros(2, 3), torch.zeros(2, 4)), torch.arange(2))
        >>> [(name, tuple(one.shape)) for name, one in taken_apart(batch, nn.Bilinear(3, 4, 1))[0]]
        [('', (2, 3)), ('', (2, 4))]
    """
    if isinstance(batch, Mapping):
        keywords, needs = _keywords(model)
        given = [(name, one) for name, one in batch.items() if isinstance(one, Tensor) and name in keywords]
        labels = next((batch[name] for name in LABELS if name in batch and name not in dict(given)), None)
        return (given, labels) if len(given) > 1 or any(name in needs for name, _ in given) else ([], None)
    if not isinstance(batch, (tuple, list)) or not batch:
        return [], None
    first, labels = batch[0], batch[1] if len(batch) > 1 else None
    if isinstance(first, Mapping) and first and all(isinstance(one, Tensor) for one in first.values()):
        return list(first.items()), labels
    if isinstance(first, (tuple, list)) and first and all(isinstance(one, Tensor) for one in first):
        return [("", one) for one in first], labels
    return [], None


def _keywords(model: nn.Module) -> tuple[set[str], set[str]]:
    """Return what a forward takes by keyword, and what it takes by keyword only."""
    every = inspect.signature(model.forward).parameters.values()
    parameters = [one for one in every if one.name not in _FOR_LOSSES or one.default is not None]
    only = {one.name for one in parameters if one.kind is one.KEYWORD_ONLY}
    return only | {one.name for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD}, only


class SplitInputs:
    """Takes a joined tensor apart where a network is called with it, before its forward.

    Example:
        >>> split = SplitInputs(Inputs(("", ""), ((2,), (3,)), (torch.float32, torch.float32)))
        >>> positional, by_keyword = split(nn.Bilinear(2, 3, 1), (torch.zeros(4, 1, 5),), {})
        >>> [tuple(one.shape) for one in positional]
        [(4, 2), (4, 3)]
    """

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs

    def __call__(self, module: nn.Module, args: tuple[Any, ...], words: dict[str, Any]) -> Any:
        """Return the arguments of the forward."""
        is_joined = len(args) == 1 and not words and isinstance(args[0], Tensor)
        return self.inputs.split(args[0]) if is_joined else (args, words)


@contextmanager
def reading_joined(model: nn.Module, inputs: Inputs) -> Iterator[None]:
    """Let a network, and what is copied from it meanwhile, read joined tensors.

    Example:
        >>> net, inputs = nn.Bilinear(3, 4, 1), Inputs(("", ""), ((3,), (4,)), (torch.float32, torch.float32))
        >>> with reading_joined(net, inputs):
        ...     tuple(net(torch.zeros(2, 1, 7)).shape)
        (2, 1)
    """
    handle = model.register_forward_pre_hook(SplitInputs(inputs), with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def reading_as_noted(model: nn.Module, plan: Plan) -> AbstractContextManager[None]:
    """Let a network read joined tensors where a plan was made with several inputs.

    Raises:
        InputError: The plan's inputs are damaged.

    Example:
        >>> inputs = Inputs(("", ""), ((2,), (3,)), (torch.float32, torch.float32))
        >>> net, plan = nn.Bilinear(2, 3, 1), Plan({}, settings={SETTING: inputs.settings()})
        >>> with reading_as_noted(net, plan):
        ...     net(torch.zeros(4, 1, 5)).shape
        torch.Size([4, 1])
    """
    noted = plan.settings.get(SETTING)
    return nullcontext() if noted is None else reading_joined(model, Inputs.from_settings(noted))


def reads_its_own(model: nn.Module) -> nn.Module:
    """Return a network that was copied while it read joined tensors, as it is called by its users.

    Example:
        >>> import copy
        >>> net = nn.Bilinear(2, 3, 1)
        >>> with reading_joined(net, Inputs(("", ""), ((2,), (3,)), (torch.float32, torch.float32))):
        ...     small = reads_its_own(copy.deepcopy(net))
        >>> small(torch.zeros(4, 2), torch.zeros(4, 3)).shape
        torch.Size([4, 1])
    """
    for number, hook in list(model._forward_pre_hooks.items()):
        if isinstance(hook, SplitInputs):
            del model._forward_pre_hooks[number]
            model._forward_pre_hooks_with_kwargs.pop(number, None)
    return model


def takes_several_inputs(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let a function of a network and images accept data sets of single images, and networks that take several inputs.

    What it returns notes the inputs where it is a plan, and is called with several inputs where it is a network.

    Example:
        >>> @takes_several_inputs
        ... def shape_of(model, images):
        ...     return [tuple(model(batch.images).shape) for batch in images]
        >>> shape_of(nn.Bilinear(2, 3, 1), [((torch.zeros(4, 2), torch.zeros(4, 3)),)])
        [(4, 1)]
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def called(*args: _P.args, **words: _P.kwargs) -> _R:
        bound = signature.bind(*args, **words)
        networks = [one for name in _NETWORKS if isinstance(one := bound.arguments.get(name), nn.Module)]
        names = [name for name in _BATCHES if bound.arguments.get(name) is not None]
        for name in names:
            bound.arguments[name] = batched(bound.arguments[name])
        inputs = inputs_of(bound.arguments[names[0]], networks[0]) if networks and names else None
        if inputs is None:
            return function(*bound.args, **bound.kwargs)
        for name in names:
            bound.arguments[name] = JoinedBatches(bound.arguments[name], inputs, networks[0])
        with ExitStack() as hooks:
            for one in networks:
                hooks.enter_context(reading_joined(one, inputs))
            return cast(_R, _as_taken(function(*bound.args, **bound.kwargs), inputs))

    return called


def _as_taken(found: Any, inputs: Inputs) -> Any:
    if isinstance(found, nn.Module):
        return reads_its_own(found)
    if isinstance(found, Plan):
        return replace(found, settings={**found.settings, SETTING: inputs.settings()})
    if isinstance(found, tuple) and not hasattr(found, "_fields"):
        return tuple(_as_taken(one, inputs) for one in found)
    if is_dataclass(found) and not isinstance(found, type):
        changed = {name: _as_taken(getattr(found, name), inputs) for name in ("model", "plan") if hasattr(found, name)}
        return replace(found, **changed) if changed else found
    return found
