"""Compares a cut network with the whole one whose removed channels are held at zero."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from infoprune.device import seed_generators
from infoprune.errors import InputError
from infoprune.network.computed_weights import Computed, computed_layers, put_plain
from infoprune.network.deep_copy import deep_copy
from infoprune.network.intake import check_network
from infoprune.network.modes import eval_mode, set_training
from infoprune.network.removal import Removal, cut, cut_for_a_while, hold_at_zero
from infoprune.network.rescaling import rescale_layers
from infoprune.network.tensors import tensors_in

P = ParamSpec("P")
R = TypeVar("R")

# Half precision has an error of one per cent in a deep network.
_SAME_AS_COPY = 0.05
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
"""Largest difference due to rounding, relative to the largest output."""


def placed(example: Tensor, model: nn.Module) -> Tensor:
    """Return the example on the device and in the precision of the network.

    Raises:
        InputError: The example is not a batch.

    Example:
        >>> placed(torch.zeros(2, 3), nn.Linear(3, 1).double()).dtype
        torch.float64
    """
    if not isinstance(example, Tensor) or example.ndim < 2 or len(example) == 0:
        shape = tuple(example.shape) if isinstance(example, Tensor) else type(example).__name__
        raise InputError(f"the example must be one batch of inputs, such as a (2, 3, 32, 32) tensor, not {shape}")
    stored = next((p for p in model.parameters() if p.is_floating_point()), None)
    if stored is None:
        return example.detach()
    return example.detach().to(stored.device, stored.dtype if example.is_floating_point() else None)


def batches_of(example: Any) -> list[Any]:
    """Return the batches of an example that is one batch or a list of them, one of each shape.

    Example:
        >>> len(batches_of(torch.zeros(2, 3))), len(batches_of([torch.zeros(2, 3), torch.zeros(1, 3)]))
        (1, 2)
    """
    several = isinstance(example, list | tuple) and example and all(isinstance(one, Tensor) for one in example)
    return list(example) if several else [example]


def outside_inference_mode(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function outside ``torch.inference_mode``, so that the networks it makes can be trained.

    Example:
        >>> @outside_inference_mode
        ... def zeros():
        ...     return torch.zeros(1)
        >>> with torch.inference_mode():
        ...     zeros().is_inference()
        False
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.inference_mode(False):
            return function(*args, **kwargs)

    return run


@outside_inference_mode
def duplicate(model: nn.Module) -> nn.Module:
    """Return an independent copy.

    Raises:
        InputError: The network cannot be copied, or is one that cannot be cut as it is.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> twin = duplicate(layer)
        >>> twin.weight is layer.weight, torch.equal(twin.weight, layer.weight)
        (False, True)
    """
    check_network(model)
    # Values that a layer has computed and stored, as the older weight norm does, cannot be copied with their history.
    kept = [value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    known: dict[int, Any] = {id(value): value.detach().clone() for value in kept if not value.is_leaf}
    # Values that were made in inference mode could not be trained.
    stored = [t for module in model.modules() for t in (*module._parameters.values(), *module._buffers.values())]
    for tensor in (t for t in stored if t is not None and t.is_inference()):
        fresh = tensor.detach().clone()
        known[id(tensor)] = nn.Parameter(fresh, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fresh
    # A trainer and its attributes are not part of the network.
    trainers = [vars(module).get("_trainer") for module in model.modules()]
    known |= {id(trainer): _NoTrainer() for trainer in trainers if trainer is not None}
    try:
        copied_model = deep_copy(model, known)
    except Exception as error:
        raise InputError(
            f"the network cannot be copied: {one_line(error)}; where it is part of a larger object, such as the module "
            "of a trainer, pass the network inside"
        ) from error
    for module in copied_model.modules():
        if isinstance(vars(module).get("_trainer"), _NoTrainer):
            vars(module)["_trainer"] = None
    return copied_model


class _NoTrainer:
    """Stands for a trainer while a network is copied."""


def copied(model: nn.Module) -> nn.Module:
    """Return an independent copy in full precision, with the flags of eval mode.

    Raises:
        InputError: The network cannot be copied.

    Example:
        >>> twin = copied(nn.Linear(2, 1).half().train())
        >>> twin.weight.dtype, twin.training
        (torch.float32, False)
    """
    double = duplicate(model)
    set_training(double, False)
    halves = any(p.dtype in (torch.float16, torch.bfloat16) for p in double.parameters())
    return double.float() if halves else double


def check_hooks(model: nn.Module, double: nn.Module, example: Tensor) -> None:
    """Refuse a network whose hooks keep values outside of it: a copy would read and write those of the original.

    Args:
        model: Any network; it runs only where it has hooks.
        double: A copy of it in full precision.
        example: ``(n, ...)`` a batch of its inputs.

    Raises:
        InputError: The copy does not return what the network returns.

    Example:
        >>> net, found = nn.Sequential(nn.Linear(2, 2)), {}
        >>> _ = net[0].register_forward_hook(lambda module, inputs, output: found.update(output=output))
        >>> check_hooks(net, copied(net), torch.zeros(1, 2))  # what it keeps is not used
    """
    if not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()):
        return
    drawn = torch.Generator().manual_seed(0)
    other = torch.rand(example.shape, generator=drawn).to(example)
    with eval_mode(model):
        try:
            wanted, again = (outputs(model, placed(other, model)) for _ in range(2))
        except Exception:
            return  # named where it is traced
    try:
        gap, scale = compare(wanted, outputs(double, placed(other, double)))
    except Exception as error:
        problem = one_line(error)
    else:
        if gap <= _SAME_AS_COPY * scale or compare(wanted, again)[0]:
            return
        problem = f"its outputs differ by {gap / scale:.2g} of the largest"
    raise InputError(
        f"a copy of the network does not compute what the network does ({problem}): its hooks keep values in a "
        "variable outside of it; keep them as attributes of a module, written by a method of that module"
    )


def randomised(model: nn.Module, seed: int) -> nn.Module:
    """Return a copy in which no weight, bias or statistic has a value that hides errors, such as zero.

    Norms get random scales, shifts and statistics. A little noise is added to all other parameters, so that signals in
    the copy keep the scale they have in the network.

    Example:
        >>> norm = randomised(nn.BatchNorm2d(4), seed=0)
        >>> bool((norm.weight == 1).any())
        False
    """
    model = copied(model)
    with torch.no_grad():
        for module in model.modules():
            norm = hasattr(module, "running_mean") or isinstance(module, nn.GroupNorm | nn.LayerNorm)
            for index, (name, tensor) in enumerate([*module._parameters.items(), *module._buffers.items()]):
                if tensor is None or not tensor.is_floating_point():
                    continue
                noise = _uniform(tensor, seed + index)
                if norm and name == "weight":
                    tensor.copy_(1 + noise / 2)
                elif norm and name == "running_var":
                    tensor.mul_(1 + noise / 2).add_(tensor.mean() / 10)
                elif norm and name == "running_mean":
                    tensor.add_(noise * (tensor.std() if tensor.numel() > 1 else 0.5))
                elif norm:
                    # Mostly positive outputs, which a ReLU passes on.
                    tensor.copy_(0.75 + noise / 4)
                elif isinstance(tensor, nn.Parameter):
                    tensor.add_(noise * (0.1 if tensor.ndim < 2 else 0.2 * tensor[0].numel() ** -0.5))
            seed += 101
    return model


class Trial:
    """A randomised copy of a network on which cuts are tried, and undone.

    Cuts are compared in double precision, where even small errors are far above rounding, unless the network cannot
    run in it.

    Args:
        model: The network.
        examples: Batches ``(n, ...)``, one of each shape; the first input of each is run.
        trains: Whether a cut network must run in train mode as well.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
        >>> trial = Trial(net, [torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))])
        >>> trial.problem({("0", "out"): [1], ("2", "in"): [1]})
        ''
        >>> trial.problem({("0", "out"): [1], ("2", "in"): [2]})[:42]
        'the cut network differs from the masked on'
    """

    def __init__(self, model: nn.Module, examples: Sequence[Tensor], *, trains: bool = False) -> None:
        self.trains = trains
        self.network, self._examples = _lively(model, examples)
        self._only_single = False
        self._computed: tuple[torch.dtype, dict[str, Computed]] | None = None

    def problem(self, *removals: Removal, quickly: bool = False) -> str:
        """Return why a cut network differs from the network with those channels at zero; empty if it does not.

        Args:
            removals: The cuts to try: the first in double precision, further ones in single precision.
            quickly: Whether single precision is tried first, which finds most errors in a fraction of the time.
        """
        exact = torch.float32 if self._only_single else torch.float64
        tries = [*((removal, torch.float32) for removal in removals[1:]), (removals[0], exact)]
        for removal, dtype in [(removals[0], torch.float32), *tries] if quickly else tries:
            try:
                gap = self._gap(removal, dtype)
            except _CannotRunError:  # a device without double precision, or fixed precision in the network's code
                self._only_single = True
                return self.problem(*removals)
            except Exception as error:
                return f"the cut network does not run: {one_line(error)}"
            if not gap <= TOLERANCE[dtype]:
                return f"the cut network differs from the masked one by {gap:.2g} of its largest output"
        return self._trouble_in_training(removals[0]) if self.trains else ""

    def randomness(self) -> str:
        """Return a message if the network is random in eval mode, since no cut of it can be checked; else empty."""
        examples = self._in(torch.float32)
        one, other = (outputs(self.network, examples[0], seed=seed) for seed in (0, 1))
        if compare(one, other)[0] == 0:
            return ""
        return (
            "draws random numbers in eval mode, as dropout that is always on does, so that no cut can be checked: "
            "let it follow the train and eval mode"
        )

    def _in(self, dtype: torch.dtype) -> list[Tensor]:
        """Convert the network and return the examples in a precision."""
        try:
            self.network.to(dtype)
        except Exception as error:
            raise _CannotRunError from error
        return [one.to(dtype) if one.is_floating_point() else one for one in self._examples]

    def _gap(self, removal: Removal, dtype: torch.dtype) -> float:
        """Return how far the cut network is from the masked one, relative to the largest output."""
        examples = self._in(dtype)
        handles = hold_at_zero(self.network, removal)
        try:
            whole = [outputs(self.network, example) for example in examples]
        except Exception as error:
            if dtype is torch.float64 and not self._only_single:
                raise _CannotRunError from error
            raise
        finally:
            for handle in handles:
                handle.remove()
        worst = 0.0
        with cut_for_a_while(self.network, removal, self._computed_in(dtype, examples[0])) as small:
            for example, expected in zip(examples, whole, strict=True):
                difference, scale = compare(expected, outputs(small, example))
                worst = max(worst, difference / scale)
        return worst

    def _computed_in(self, dtype: torch.dtype, example: Tensor) -> dict[str, Computed]:
        if self._computed is None or self._computed[0] is not dtype:
            with exactly(example.device):
                self._computed = (dtype, computed_layers(self.network, example))
        return self._computed[1]

    def _trouble_in_training(self, removal: Removal) -> str:
        examples = self._in(torch.float32)
        small = duplicate(self.network)
        put_plain(small, self._computed_in(torch.float32, examples[0]), [str(place) for place, _ in removal])
        cut(small, removal)
        set_training(small, True)
        try:
            outputs(small, examples[0].repeat(2, *[1] * (examples[0].ndim - 1)))
        except Exception as error:
            return f"the cut network does not run in train mode: {one_line(error)}"
        return ""


def _lively(model: nn.Module, examples: Sequence[Tensor]) -> tuple[nn.Module, list[Tensor]]:
    """Return a randomised copy in which no channel is always zero, and one input of each shape that varies."""
    network = randomised(model, seed=0)
    inputs = [varied(placed(one, network)[:1]) for one in examples]
    with exactly(inputs[0].device):
        rescale_layers(network, inputs)
    with suppress(Exception):
        if not all(bool(torch.isfinite(one).all()) for example in inputs for one in outputs(network, example)):
            network = randomised(model, seed=0)
    return network, inputs


def varied(example: Tensor) -> Tensor:
    """Return a batch as it is, or with noise where it is constant: the outputs of a cut network say nothing on zeros.

    Example:
        >>> varied(torch.zeros(1, 2)).unique().numel(), varied(torch.arange(2.0)).tolist()
        (2, [0.0, 1.0])
    """
    constant = example.is_floating_point() and bool((example == example.flatten()[0]).all())
    return example + (_uniform(example, seed=1) + 1) / 2 if constant else example


class _CannotRunError(Exception):
    """The whole network does not run in this precision."""


def masked(model: nn.Module, removal: Removal) -> nn.Module:
    """Return a copy in eval mode whose channels in ``removal`` are held at zero in every forward pass.

    Example:
        >>> net = masked(nn.Sequential(nn.Conv2d(1, 4, 3)), {("0", "out"): [1]})
        >>> net(torch.ones(1, 1, 3, 3))[0, 1].item()
        0.0
    """
    model = copied(model)
    hold_at_zero(model, removal)
    return model


def outputs(model: nn.Module, example: Tensor, *, seed: int = 0) -> list[Tensor]:
    """Return every tensor that a network returns for a batch, in containers, dataclasses and other objects too.

    Example:
        >>> [tuple(one.shape) for one in outputs(nn.Linear(3, 2), torch.zeros(4, 3))]
        [(4, 2)]
    """
    with exactly(example.device), torch.no_grad():
        seed_generators(seed, example.device)
        return tensors_in(model(example))


def compare(whole: list[Tensor], small: list[Tensor]) -> tuple[float, float]:
    """Return the largest absolute difference, and the largest absolute value of ``whole`` (1 if it is zero).

    The difference is infinite where shapes differ, values are not finite, or there is nothing to compare.

    Example:
        >>> compare([torch.tensor([2.0, -4.0])], [torch.tensor([2.0, -3.0])])
        (1.0, 4.0)
    """
    if not whole or [t.shape for t in whole] != [t.shape for t in small]:
        return float("inf"), 1.0
    pairs = [(a.double(), b.double()) for a, b in zip(whole, small, strict=True) if a.numel()]
    difference = max(((a - b).abs().max().item() for a, b in pairs), default=0.0)
    scale = max((a.abs().max().item() for a, _ in pairs), default=0.0)
    finite = all(bool(torch.isfinite(t).all()) for pair in pairs for t in pair)
    return (difference if finite else float("inf")), (scale if finite and scale > 0 else 1.0)


@contextmanager
def exactly(device: torch.device) -> Iterator[None]:
    """Compute in plain float32; the random state and all settings are restored afterwards.

    Example:
        >>> with exactly(torch.device("cpu")):
        ...     torch.is_autocast_enabled("cpu")
        False
    """
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        stack.enter_context(torch.autocast("cpu", enabled=False))
        stack.enter_context(torch.autocast("cuda", enabled=False))
        for place, name, exact in _shortcuts():
            stack.callback(setattr, place, name, getattr(place, name))
            setattr(place, name, exact)
        yield


def _shortcuts() -> list[tuple[Any, str, Any]]:
    """Return the settings that let PyTorch compute float32 less precisely, and the values that forbid it."""
    backends: Any = torch.backends
    if hasattr(backends.cudnn, "conv"):
        # Each setting by itself: PyTorch refuses to read the older, common settings if these differ.
        places = (backends.cudnn.conv, backends.cuda.matmul, backends.mkldnn.conv, backends.mkldnn.matmul)
        return [(place, "fp32_precision", "ieee") for place in places]
    return [(backends.cudnn, "allow_tf32", False), (backends.cuda.matmul, "allow_tf32", False)]


def one_line(error: BaseException) -> str:
    """Return the first line of an exception, with its type where the text alone is unclear.

    Example:
        >>> one_line(KeyError("bias")), one_line(ValueError("no images"))
        ("KeyError: 'bias'", 'no images')
    """
    text = str(error).strip().split("\n")[0]
    return text if text and not isinstance(error, KeyError | IndexError) else f"{type(error).__name__}: {text}"


def _uniform(tensor: Tensor, seed: int) -> Tensor:
    """Return values in [-1, 1], the same for the same seed on any device."""
    generator = torch.Generator().manual_seed(seed)
    count = tensor.numel()
    values = torch.rand(min(count, _PERIOD), generator=generator) * 2 - 1
    if count > _PERIOD:
        values = values.repeat(-(-count // _PERIOD))[:count]
    return values.view(tensor.shape).to(tensor)


# Large tensors repeat their random values: a prime, so that no two filters of a layer get the same ones.
_PERIOD = 65537
