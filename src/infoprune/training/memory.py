"""The memory that a training step needs, found by one forward pass of two images before the training starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from infoprune.data.batches import Batches, labelled
from infoprune.network.deep_copy import deep_copy
from infoprune.network.tensors import tensors_in
from infoprune.training.recipe import Recipe

# Above this, a step can be computed in parts of about this size.
_MUCH = 10**9
_TRACED = 2


@dataclass(frozen=True)
class StepMemory:
    """Bytes that a step of a training needs, without the library's own buffers.

    Args:
        weights: Weights, gradients and momentum, and the weights of a teacher.
        image: What autograd keeps for one image between the forward and the backward pass.
        images: Images that are computed at once.
        has_batch_norm: Whether the network has batch norm, whose statistics are of the images computed at once.

    Example:
        >>> StepMemory(weights=10**8, image=10**7, images=128).total
        1380000000
    """

    weights: int
    image: int
    images: int
    has_batch_norm: bool = False

    @property
    def total(self) -> int:
        """Bytes in all."""
        return self.weights + self.image * self.images

    def in_words(self, batch: int) -> str:
        """Return the need in a sentence, and how to lower it where it is much.

        Args:
            batch: Images in a batch.

        Example:
            >>> StepMemory(10**8, 25 * 10**6, 128).in_words(128)
            'A training step needs about 3.3 GB of memory: 25 MB for each of 128 images and 100 MB for weights, \
gradients and momentum. With --accumulate 4 it needs about 900 MB.'
        """
        said = (
            f"A training step needs about {_size(self.total)} of memory: {_size(self.image)} for each of {self.images} "
            f"images and {_size(self.weights)} for weights, gradients and momentum."
        )
        activations = self.image * self.images
        if activations <= _MUCH or self.images < 2:
            return said
        parts = min(batch, -(-batch * self.image // _MUCH))
        some = -(-batch // parts)
        less = _size(self.weights + self.image * some)
        norm = f", and batch norm computes its statistics from {some} images" if self.has_batch_norm else ""
        return f"{said} With --accumulate {parts} it needs about {less}{norm}."


def step_memory(
    model: nn.Module, images: Tensor, batch: int, recipe: Recipe, *, teacher: nn.Module | None = None,
    fabric: Fabric | None = None
) -> StepMemory:  # fmt: skip
    """Return the memory that a step needs.

    Args:
        model: The network; left as it is.
        images: ``(n, C, H, W)``, of which two are read.
        batch: Images in a batch.
        recipe: Its image sizes and the parts of a batch.
        teacher: A network that is distilled from.
        fabric: Device and precision of the training.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 2))
        >>> found = step_memory(net, torch.rand(2, 1, 8, 8), 64, Recipe(accumulate=4))
        >>> found.images, found.weights == 3 * 4 * sum(p.numel() for p in net.parameters())
        (16, True)
        >>> found.image >= 4 * (64 + 4 * 64)
        True
    """
    some = images[:_TRACED].float().clone()  # a view keeps all images
    if recipe.sizes:
        some = F.interpolate(some, size=(max(recipe.sizes),) * 2)
    trained = _bytes(p for p in model.parameters() if p.requires_grad)
    weights = _bytes((*model.parameters(), *model.buffers())) + trained * (2 if recipe.momentum else 1)
    if teacher is not None:
        weights += _bytes(teacher.parameters())
    kept = _kept(model, some, fabric)
    norm = any(isinstance(module, _BatchNorm) for module in model.modules())
    return StepMemory(weights, -(-kept // len(some)), -(-batch // recipe.accumulate), norm)


def memory_in_words(
    model: nn.Module, batches: Batches, batch: int, recipe: Recipe, *, teacher: nn.Module | None = None,
    fabric: Fabric | None = None
) -> str:  # fmt: skip
    """Return in a sentence the memory that a step over these batches needs; empty where there are no images.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
        >>> memory_in_words(net, [(torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 0, 1]))], 4, Recipe()).partition(":")[0]
        'A training step needs about 3 kB of memory'
    """
    with torch.random.fork_rng([]):
        first = next(labelled(batches), None)
        if first is None:
            return ""
        return step_memory(model, first[0], batch, recipe, teacher=teacher, fabric=fabric).in_words(batch)


def _kept(model: nn.Module, images: Tensor, fabric: Fabric | None) -> int:
    """Return the bytes of what autograd keeps of one forward pass, besides the weights."""
    trained = deep_copy(model).train()
    if fabric is not None:
        trained, images = trained.to(fabric.device), images.to(fabric.device)
    own = {p.untyped_storage().data_ptr() for p in (*trained.parameters(), *trained.buffers())}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.random.fork_rng([]), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        if fabric is None:
            found = trained(images)
        else:
            with fabric.autocast():
                found = trained(images)
    for tensor in tensors_in(found):
        pack(tensor)
    return sum(one.untyped_storage().nbytes() for place, one in kept.items() if place not in own)


def _bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _size(number: float) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if number >= 0.95 * size:
            return f"{number / size:.1f} {unit}" if unit == "GB" else f"{number / size:.0f} {unit}"
    return f"{number:.0f} bytes"
