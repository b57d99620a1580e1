"""The loss of a batch: of its labels, of the soft targets of a teacher, and of the maps of both."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infoprune.errors import InputError
from infoprune.measure.accuracy import labels_within
from infoprune.training.activation_maps import ActivationMaps
from infoprune.training.attention_maps import attention, distance, is_of_one_form
from infoprune.training.correlated_maps import correlation
from infoprune.training.recipe import Recipe

Answers = Callable[[Tensor], Tensor]


def check_teacher(recipe: Recipe, teacher: nn.Module | None) -> None:
    """Check that a recipe has the teacher that it needs.

    Raises:
        InputError: It has none, and looks at the maps of one.

    Example:
        >>> check_teacher(Recipe(), None)
    """
    if recipe.attention and teacher is None:
        raise InputError("attention compares with the maps of a teacher: pass one, or leave attention at 0")


def with_common_maps(recipe: Recipe, model: nn.Module, teacher: nn.Module, images: Tensor) -> Recipe:
    """Return a recipe, without attention where the network cannot learn the maps of the teacher.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> with_common_maps(Recipe(attention=1.0), net, net, torch.zeros(1, 1, 2, 2)).attention
        0.0
    """
    if not recipe.attention or is_of_one_form(model, teacher, images):
        return recipe
    return replace(recipe, attention=0.0)


def loss_of(model: nn.Module, teacher: Answers | None, images: Tensor, labels: Tensor, recipe: Recipe) -> Tensor:
    """Return the loss of a batch, in nats.

    Args:
        model: The network, in training.
        teacher: Returns the logits of the network whose soft targets and maps are learnt; ``None`` where there is none.
        images: ``(n, C, H, W)``.
        labels: ``(n,)``.
        recipe: The weights of all parts, and how images are mixed.

    Raises:
        InputError: A label is none of the network, or the teacher has other maps than the network.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> loss_of(net, None, torch.zeros(3, 1, 2, 2), torch.tensor([0, 1, 1]), Recipe()).shape
        torch.Size([])
    """
    share = _share_kept(recipe.mixing)
    if share < 1:
        images = images.flip(0).lerp(images, share)
    with _measured(correlation, recipe.correlation) as correlated, _measured(attention, recipe.attention) as seen:
        logits = model(images).float()
    loss = share * _hard(logits, labels, recipe)
    if share < 1:
        loss = loss + (1 - share) * _hard(logits, labels.flip(0), recipe)
    if teacher is not None and (recipe.distillation or recipe.attention):
        with torch.no_grad(), _measured(attention, recipe.attention) as wanted:
            targets = teacher(images).float()
        loss = (1 - recipe.distillation) * loss + recipe.distillation * _soft(logits, targets, recipe.temperature)
        if recipe.attention:
            loss = loss + recipe.attention * distance(seen, wanted)
    if correlated:
        loss = loss - recipe.correlation * torch.stack(correlated).sum().to(loss.device)
    return loss


def _share_kept(mixing: float) -> float:
    """Draw the share of an image that is its own in mixup (Zhang et al. 2018, arXiv 1710.09412)."""
    return float(torch.distributions.Beta(mixing, mixing).sample()) if mixing else 1.0


def _measured(measure: Callable[[Tensor], Tensor], weight: float) -> AbstractContextManager[list[Tensor]]:
    return ActivationMaps(measure) if weight else nullcontext([])


def _hard(logits: Tensor, labels: Tensor, recipe: Recipe) -> Tensor:
    return F.cross_entropy(logits, labels_within(labels, logits), label_smoothing=recipe.label_smoothing)


def _soft(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Return the divergence from the softened answers of a teacher, times the square of the temperature."""
    return temperature**2 * F.kl_div(
        F.log_softmax(logits / temperature, 1),
        F.log_softmax(targets / temperature, 1),
        log_target=True,
        reduction="batchmean",
    )
