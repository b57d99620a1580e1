"""Layer after layer of one network, read without running again what comes before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from infoprune.errors import InputError
from infoprune.network.layer_io import Reading, read

Outputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class _Call:
    """One call of a module in a forward pass: when it begins and ends, and whether it gives a tensor of reals."""

    module: str
    begin: int
    end: int
    real: bool


@dataclass(frozen=True)
class _Stop:
    """What the forward pass towards a layer need not run: what is replayed, and what nobody asks for any more."""

    replayed: tuple[str, ...] = ()
    passed: Mapping[str, torch.Size] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """A layer that a walk has come to, and what it keeps there."""

    stop: _Stop
    kept: Mapping[int, Outputs]


class Walk:
    """Reads the layers of a network in the order in which they run, batch by batch, the same batches every time.

    The outputs of modules that lie wholly before the last layer read are kept, as far as later layers need them and as
    they fit into memory; they are replayed instead of being computed. Weights may change behind the layer that was
    read last, never before it.

    Args:
        model: In eval mode.
        probe: ``(n, ...)`` a few images, to find out what later layers need.
        images: Number of images in all batches together.
        memory: Bytes that may be kept.
    """

    def __init__(self, model: nn.Module, probe: Tensor, images: int, memory: int) -> None:
        self.model = model
        self.probe = probe
        self.room = memory // max(1, images)
        self.calls = _calls(model, probe)
        self.stop = _Stop()
        self.kept: dict[int, Outputs] = {}
        self.sums: dict[int, float] = {}

    def towards(self, layer: str) -> Callable[[int, Tensor], Reading]:
        """Return what reads the layer from one batch, given the batch's number and its images.

        Every batch is to be read once before the next layer is.
        """
        before, after = self.stop, self._stop(layer)
        self.stop = after

        def read_batch(number: int, images: Tensor) -> Reading:
            self._check_same(number, images)
            kept = self.kept.get(number, {})
            fresh: dict[str, Tensor] = {}
            with _replaying(self.model, before, kept, Tensor.new_empty), _noting(self.model, after.replayed, fresh):
                found = read(self.model, layer, images)
            self.kept[number] = {name: fresh[name] if name in fresh else kept[name] for name in after.replayed}
            return found

        return read_batch

    def place(self) -> Place:
        """Return where the walk is: at the layer that was read last."""
        return Place(self.stop, dict(self.kept))

    def go_back(self, place: Place) -> None:
        """Go back to a layer that was read before, so that weights may change from there on."""
        self.stop, self.kept = place.stop, dict(place.kept)

    def _check_same(self, number: int, images: Tensor) -> None:
        total = images.double().sum().item()
        if self.sums.setdefault(number, total) != total:
            raise InputError("the images must come in the same order every time: neither shuffled nor augmented")

    def _stop(self, layer: str) -> _Stop:
        begin = next(call.begin for call in self.calls if call.module == layer)
        finished = _outermost([call for call in self.calls if call.end < begin])
        truth: dict[str, Tensor] = {}
        with torch.enable_grad(), _as_leaves(self.model, [call.module for call in finished], truth):
            wanted = _leaves(self.model(self.probe))
        needed = _reached(wanted, truth)
        if sum(truth[name][0].numel() * truth[name].element_size() for name in needed) > self.room:
            return _Stop()
        stop = _Stop(tuple(needed), {name: given.shape[1:] for name, given in truth.items() if name not in needed})
        with _replaying(self.model, stop, truth, _nan):
            found = _leaves(self.model(self.probe))
        same = all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(wanted, found, strict=True))
        # Where a module changes what another gave in place, or keeps things to itself, nothing is replayed.
        return stop if same else _Stop()


def _calls(model: nn.Module, probe: Tensor) -> list[_Call]:
    """Return the calls of all modules that run exactly once, in the order in which they begin."""
    begun: dict[str, list[int]] = {}
    ended: dict[str, tuple[int, Any]] = {}
    clock = iter(range(1 << 60))

    def entering(name: str) -> Callable[..., None]:
        return lambda *_: begun.setdefault(name, []).append(next(clock))

    def leaving(name: str) -> Callable[..., None]:
        return lambda module, arguments, output: ended.update({name: (next(clock), output)})

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            hooks.callback(module.register_forward_pre_hook(entering(name)).remove)
            hooks.callback(module.register_forward_hook(leaving(name)).remove)
        model(probe)
    calls = []
    for name, times in begun.items():
        if len(times) == 1 and name in ended:
            end, output = ended[name]
            real = isinstance(output, Tensor) and output.is_floating_point()
            calls.append(_Call(name, times[0], end, real))
    return sorted(calls, key=lambda call: call.begin)


def _outermost(calls: list[_Call]) -> list[_Call]:
    chosen: list[_Call] = []
    for call in calls:
        if call.module and call.real and (not chosen or call.begin > chosen[-1].end):
            chosen.append(call)
    return chosen


def _leaves(output: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


@contextmanager
def _as_leaves(model: nn.Module, modules: Sequence[str], into: dict[str, Tensor]) -> Iterator[None]:
    """Let what modules give be leaves of the graph of the rest, and note them."""

    def note(name: str) -> Callable[..., Tensor]:
        def hook(module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
            into[name] = output.detach().clone().requires_grad_()
            return into[name].clone()

        return hook

    with ExitStack() as hooks:
        for name in modules:
            hooks.callback(model.get_submodule(name).register_forward_hook(note(name)).remove)
        yield


def _reached(outputs: Sequence[Tensor], leaves: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the leaves that outputs were computed from."""
    waiting = [tensor.grad_fn for tensor in outputs]
    seen, found = set(waiting), set()
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        found.add(id(getattr(node, "variable", None)))
        before = {one for one, _ in node.next_functions} - seen
        seen |= before
        waiting += before
    return [name for name, leaf in leaves.items() if id(leaf) in found]


@contextmanager
def _noting(model: nn.Module, modules: Sequence[str], into: dict[str, Tensor]) -> Iterator[None]:
    """Note what modules give, as copies: the network may go on to change them in place."""

    def note(name: str) -> Callable[..., None]:
        return lambda module, arguments, output: into.update({name: output.clone()})

    with ExitStack() as hooks:
        for name in modules:
            hooks.callback(model.get_submodule(name).register_forward_hook(note(name)).remove)
        yield


def _nan(like: Tensor, shape: Sequence[int]) -> Tensor:
    return like.new_full(shape, float("nan"))


@contextmanager
def _replaying(
    model: nn.Module, stop: _Stop, outputs: Outputs, nothing: Callable[[Tensor, Sequence[int]], Tensor]
) -> Iterator[None]:
    """Let modules give what they gave before; those that nobody asks for give nothing, which shows where it is NaN."""

    def replay(name: str) -> Callable[..., Tensor]:
        return lambda *arguments, **named: outputs[name].clone()

    def pass_over(shape: torch.Size, like: Tensor) -> Callable[..., Tensor]:
        return lambda *arguments, **named: nothing(like, (len(like), *shape))

    with ExitStack() as stack:
        if outputs:
            like = next(iter(outputs.values()))
            fakes = {name: replay(name) for name in stop.replayed}
            fakes |= {name: pass_over(shape, like) for name, shape in stop.passed.items()}
            for name, fake in fakes.items():
                module = model.get_submodule(name)
                own = module.__dict__.get("forward")
                module.__dict__["forward"] = fake
                stack.callback(_restore, module, own)
        yield


def _restore(module: nn.Module, own: Any) -> None:
    if own is None:
        module.__dict__.pop("forward", None)
    else:
        module.__dict__["forward"] = own
