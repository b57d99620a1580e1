"""Gradients of the loss, or of an answer, image by image, with respect to a gate on every channel of a layer.

A gate m_nc = 1 multiplies channel c of image n, of a layer's input or output. With x the tensor it multiplies and L_n
the loss of image n::

    dL_n / dm_nc = sum over positions of x_nc * dL_n / dx_nc

Work is done on a copy in eval mode and full precision, so that the network, its gradients, modes and hooks stay as they
are and batch norm does not mix images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infoprune.data.batches import Batches, parse, some_batches
from infoprune.errors import InputError, unknown
from infoprune.network.equivalence import copied
from infoprune.network.layers import Side
from infoprune.network.tensors import logits_in
from infoprune.runs.together import current

Labels = Literal["given", "own"]


@dataclass(frozen=True)
class Place:
    """One side of one layer, where a gate is put on every channel.

    Args:
        layer: Dotted name of the module.
        side: ``"in"`` for its input, ``"out"`` for its output.

    Example:
        >>> Place("conv1", "out").layer
        'conv1'
    """

    layer: str
    side: Side


GateConsumer = Callable[[dict[Place, Tensor], dict[Place, int]], None]
WeightConsumer = Callable[[dict[str, Tensor], dict[str, Tensor]], None]
Measure = Callable[[Any, Tensor | None], Tensor]


def gate_gradients(
    model: nn.Module,
    batches: Batches,
    places: Sequence[Place],
    consume: GateConsumer,
    *,
    labels: Labels = "given",
    of: Measure | None = None,
) -> int:
    """Run every batch forward and backward and hand the gradients of all gates to a consumer.

    Args:
        model: Gives ``(n, classes)`` logits; left as it is.
        batches: ``(images, labels)`` pairs; images alone with ``labels="own"``.
        places: Where gates are put. The gates of different layers that read one tensor are independent.
        consume: Called once a batch as ``consume(gradients, positions)``: by place the ``(n, C)`` float64 gradients
            dL_n/dm_nc on the CPU, summed over all calls of the layer, and over how many positions each was summed.
        labels: ``"given"``, or ``"own"`` for the network's own answers, its largest logits. (The divergence from its
            own output would have no gradient.)
        of: From logits and labels to the number whose gradients are taken, a sum over the images; by default the
            loss, :func:`summed_loss`.

    Returns:
        The number of images.

    Raises:
        InputError: There are no images or no labels, a label names no class, or a layer does not take and give one
            tensor that the loss depends on.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2, bias=False))
        >>> _ = nn.init.eye_(net[0].weight)
        >>> seen = []
        >>> place = Place("0", "out")
        >>> gate_gradients(net, [(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))], [place],
        ...                lambda gradients, positions: seen.append(gradients[place]))
        1
        >>> [round(value, 4) for value in seen[0][0].tolist()]  # 2 (softmax - 1), 0
        [-0.2384, 0.0]
    """
    twin = _frozen(model)

    def found() -> Iterator[tuple[dict[Place, Tensor], dict[Place, int], int]]:
        for images, given in _labelled(batches, twin, labels):
            gates = _Gates(len(images))
            with ExitStack() as hooks, torch.enable_grad():
                for place in dict.fromkeys(places):
                    hooks.callback(gates.attach(twin.get_submodule(place.layer), place).remove)
                leaf = images.requires_grad_()
                # A copy, since the network may change its input in place.
                torch.autograd.grad((of or summed_loss)(twin(leaf.clone()), given), leaf)
            for place in places:
                if place not in gates.found:
                    raise InputError(f"the loss does not depend on layer '{place.layer}': leave it out")
            yield gates.found, gates.positions, len(images)

    images_seen = 0
    for gradients, positions, count in current().in_rounds(found()):
        consume(gradients, positions)
        images_seen += count
    return _checked(images_seen)


def weight_gradients(
    model: nn.Module,
    batches: Batches,
    layers: Sequence[str],
    consume: WeightConsumer,
    *,
    labels: Labels = "given",
) -> int:
    """Hand the gradients of the mean loss of every batch with respect to some layers' weights to a consumer.

    Args:
        model: Gives ``(n, classes)`` logits; left as it is.
        batches: As for :func:`gate_gradients`.
        layers: Dotted names of convolution or linear layers.
        consume: Called once a batch as ``consume(weights, gradients)``, by layer, of the shape of the weights.
        labels: As for :func:`gate_gradients`.

    Returns:
        The number of images.

    Raises:
        InputError: As for :func:`gate_gradients`.

    Example:
        >>> net = nn.Sequential(nn.Linear(1, 2, bias=False))
        >>> _ = nn.init.zeros_(net[0].weight)
        >>> weight_gradients(net, [(torch.tensor([[4.0]]), torch.tensor([1]))], ["0"],
        ...                  lambda weights, gradients: print(gradients["0"].flatten().tolist()))
        [2.0, -2.0]
        1
    """
    twin = _frozen(model)
    weights = {layer: twin.get_parameter(f"{layer}.weight").requires_grad_() for layer in layers}

    def found() -> Iterator[tuple[dict[str, Tensor], int]]:
        for images, given in _labelled(batches, twin, labels):
            with torch.enable_grad():
                # Images ask for a gradient too, so that a loss without these weights is recognised by their absence.
                loss = summed_loss(twin(images.requires_grad_().clone()), given) / len(images)
                parts = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
            for layer, gradient in zip(weights, parts, strict=True):
                if gradient is None:
                    raise InputError(f"the loss does not depend on layer '{layer}': leave it out")
            yield {layer: part for layer, part in zip(weights, parts, strict=True) if part is not None}, len(images)

    images_seen = 0
    for gradients, count in current().in_rounds(found()):
        consume({layer: weight.detach() for layer, weight in weights.items()}, gradients)
        images_seen += count
    return _checked(images_seen)


def summed_loss(logits: Any, labels: Tensor | None) -> Tensor:
    """Return the cross entropy summed over images, in nats; of the largest logits where there are no labels.

    Raises:
        InputError: The logits are not ``(n, classes)``, or a label names no class.

    Example:
        >>> round(float(summed_loss(torch.zeros(3, 2), torch.tensor([0, 1, 1]))), 4)  # 3 ln 2
        2.0794
    """
    return F.cross_entropy(*logits_and_labels(logits, labels), reduction="sum")


def logits_and_labels(logits: Any, labels: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return ``(n, classes)`` logits in single precision or better, and labels, by default the largest logits.

    Raises:
        InputError: The logits are not ``(n, classes)``, or a label names no class.

    Example:
        >>> logits_and_labels(torch.tensor([[1.0, 3.0], [2.0, 0.0]]), None)[1].tolist()
        [1, 0]
    """
    logits = logits_in(logits)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise InputError("gradients of the loss need a network that gives (n, classes) logits")
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    labels = logits.detach().argmax(dim=1) if labels is None else labels
    if int(labels.min()) < 0 or int(labels.max()) >= logits.shape[1]:
        raise InputError(
            f"labels are class indices from 0 to {logits.shape[1] - 1}, not {int(labels.min())} to {int(labels.max())}"
        )
    return logits, labels


@dataclass
class _Gates:
    """The gradients of the gates of one batch, summed over the calls of each layer."""

    images: int
    found: dict[Place, Tensor] = field(default_factory=dict)
    positions: dict[Place, int] = field(default_factory=dict)

    def attach(self, module: nn.Module, place: Place) -> torch.utils.hooks.RemovableHandle:
        axis = -1 if isinstance(module, nn.Linear) else 1
        if place.side == "out":
            return module.register_forward_hook(lambda _module, _inputs, output: self.gated(output, place, axis))
        return module.register_forward_pre_hook(
            lambda _module, inputs: (self.gated(inputs[0] if inputs else None, place, axis), *inputs[1:])
        )

    def gated(self, tensor: Any, place: Place, axis: int) -> Tensor:
        if not isinstance(tensor, Tensor) or not tensor.requires_grad or len(tensor) != self.images:
            raise InputError(
                f"layer '{place.layer}' does not take and give one tensor with a gradient for each image: leave it out"
            )
        # A copy: what follows may change the tensor in place, and only the gradient by this way is wanted.
        passed = tensor.clone()
        value = (tensor if place.side == "out" else passed).detach()
        passed.register_hook(partial(self._take, place, value, axis))  # type: ignore[no-untyped-call]
        return passed

    def _take(self, place: Place, value: Tensor, axis: int, gradient: Tensor) -> None:
        product = (value.double() * gradient.double()).movedim(axis, 1)
        product = product.reshape(*product.shape[:2], -1)
        sums = product.sum(dim=2).cpu()
        self.found[place] = self.found[place] + sums if place in self.found else sums
        self.positions[place] = self.positions.get(place, 0) + product.shape[2]


def _frozen(model: nn.Module) -> nn.Module:
    twin = copied(model)
    for parameter in twin.parameters():
        parameter.requires_grad_(False)
    return twin


def _checked(images: int) -> int:
    if not images:
        raise InputError("there are no images: the loader is empty, give at least one batch")
    return images


def _labelled(batches: Batches, model: nn.Module, labels: Labels) -> Iterator[tuple[Tensor, Tensor | None]]:
    if labels not in get_args(Labels):
        raise unknown("labels", str(labels), get_args(Labels))
    stored = next(parameter for parameter in model.parameters() if parameter.is_floating_point())
    # A loader draws from the global generator, which is left as it is.
    with torch.random.fork_rng([]):
        for _, batch in some_batches(batches, current().share):
            found, given = parse(batch), None
            images = found.images.detach().to(stored.device, stored.dtype)
            if labels == "given":
                given = found.classes()
                if given is None:
                    raise InputError("gradients of the loss need labels: give (images, labels) pairs, or labels='own'")
                given = given.to(images.device)
            yield images.clone(), given
