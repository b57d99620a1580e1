"""SCOP: does a filter tell more of an image than of one that has nothing to do with it? (Tang et al. 2020).

arXiv 2010.10732. Beside each image x a knockoff x~ runs through the network, which has much the same law and says
nothing of the label of x. After every convolution, before its norm, the features of x and of x~ are mixed::

    z_f = k_f a_f + (1 - k_f) a~_f,    k_f in [0, 1], 1/2 at the start

The weights are frozen; k is trained on the cross entropy of the labels. Where the loss prefers the real features, k_f
rises. With gamma the scale of the norm that follows, 1 without one, the score is::

    s_f = |gamma_f| (2 k_f - 1)

A coupled group has one k for all its layers, and the mean of their |gamma|. The network itself stays as it is.

Knockoffs are ``"shuffled"``: other images of the calibration set, to which the generator of the published code is
equivalent, as its images do not depend on x; or ``"gaussian"``: normal draws in the space of the first principal
components of the images (Candes et al. 2018, arXiv 1610.02351), the rest taken from another image. Both are drawn again
for every batch. Norms use their stored statistics here; the published code mixes both halves in them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from infoprune.criteria.base import Importance
from infoprune.criteria.scoring import filters_of
from infoprune.criteria.trained_gates import (
    Steps,
    filters_of_channels,
    frozen,
    gated,
    held_images,
    mean_loss,
    train_gates,
)
from infoprune.criteria.whole_network import register_network_criterion
from infoprune.data.batches import Batches
from infoprune.entropy.ties import rounding
from infoprune.errors import unknown
from infoprune.network.coupled_groups import CoupledGroup
from infoprune.network.layers import width
from infoprune.progress import Progress, silent

Knockoffs = Literal["shuffled", "gaussian"]

_COMPONENTS = 64


def scop(
    model: nn.Module,
    groups: Sequence[CoupledGroup],
    batches: Batches,
    *,
    knockoffs: Knockoffs = "shuffled",
    steps: int = 100,
    batch: int = 64,
    learning_rate: float = 4e-3,
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, Importance]:
    """Return the importance of the filters of every coupled group.

    Args:
        model: Gives ``(n, classes)`` logits; left as it is.
        groups: What to score.
        batches: ``(images, labels)`` pairs.
        knockoffs: ``"shuffled"`` or ``"gaussian"``.
        steps: Of Adam; published are 20 epochs. A k moves by at most about the learning rate in each.
        batch: Images in each step; as many knockoffs run beside them.
        learning_rate: 4e-3 as published.
        seed: For the order of the images and the knockoffs.
        progress: Called after every step.

    Returns:
        By the names of the groups; scores may be below 0. The evidence holds ``k`` ``(C,)``.

    Raises:
        InputError: Labels are missing, images have several sizes, or an option is unknown or out of range.

    Example:
        >>> import infoprune
        >>> from infoprune.network.coupled_groups import find_groups
        >>> _ = torch.manual_seed(0)
        >>> net, images = infoprune.zoo.build("digits").eval(), torch.rand(8, 1, 8, 8)
        >>> found = scop(net, find_groups(net, images).groups, [(images, torch.arange(8))], steps=2)
        >>> found["features.0"].evidence["k"].sub(0.5).abs().max().item() < 0.01
        True
    """
    if knockoffs not in get_args(Knockoffs):
        raise unknown("knockoffs of the criterion 'scop'", str(knockoffs), get_args(Knockoffs))
    how = Steps(steps, batch, learning_rate, (0.5, 0.9), seed)
    if not groups:
        return {}
    # Adam makes a step of any gradient, however small: in single precision another processor's rounding decides it.
    twin = frozen(model).double()
    images, labels = held_images(twin, batches, "scop")
    control = _shuffled(images) if knockoffs == "shuffled" else _gaussian(images)
    mixing = Mixing.of(twin, groups, images)

    def loss(network: nn.Module, some: Tensor, classes: Tensor, generator: torch.Generator) -> Tensor:
        return mean_loss(network, torch.cat([some, control(some, generator)]), classes, used=len(some))

    with gated(twin, list(mixing.places), mixing.mixed):
        train_gates(twin, list(mixing.k.values()), images, labels, loss, how, progress, mixing.clamp)
    found = {}
    for group in groups:
        k = mixing.k[group.name].detach().cpu().double()
        scores = norm_scale_of(model, group) * (2 * k - 1)
        # What training may be out by: the rounding of as many steps.
        out_by = torch.full_like(scores, rounding(images.dtype, steps) * max(1e-30, float(scores.abs().max())))
        found[group.name] = Importance(scores, evidence={"k": k}, rounding=out_by)
    return found


class Mixing:
    """What is trained: a k for every filter, and where it mixes real with knockoff features.

    Args:
        k: By group ``(C,)``, leaves that require gradients.
        places: By layer, the groups that make it and which filter each of its channels is, -1 for others.

    Example:
        >>> from infoprune.network.coupled_groups import find_groups
        >>> net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
        >>> mixing = Mixing.of(net, find_groups(net, torch.zeros(1, 3)).groups, torch.zeros(1, 3))
        >>> mixing.mixed("0", torch.tensor([[4.0, 2.0], [0.0, 0.0]])).tolist()  # an image, then its knockoff
        [[2.0, 1.0], [0.0, 0.0]]
    """

    def __init__(self, k: dict[str, Tensor], places: dict[str, list[tuple[str, Tensor]]]) -> None:
        self.k = k
        self.places = places

    @classmethod
    def of(cls, model: nn.Module, groups: Sequence[CoupledGroup], images: Tensor) -> Mixing:
        """Return the mixing of a network that has learnt nothing."""
        k, places = dict[str, Tensor](), dict[str, list[tuple[str, Tensor]]]()
        for group in groups:
            k[group.name] = torch.full(
                (group.filters,), 0.5, dtype=images.dtype, device=images.device, requires_grad=True
            )
            for layer in group.producers:
                channels = width(model.get_submodule(layer), "out")
                of = filters_of_channels(group, layer, channels).to(images.device)
                places.setdefault(layer, []).append((group.name, of))
        return cls(k, places)

    def mixed(self, layer: str, output: Tensor) -> Tensor:
        """Return the features of both halves of a batch, those of the images mixed with those of their knockoffs."""
        real, control = output.chunk(2)
        share = torch.ones(output.shape[1], dtype=output.dtype, device=output.device)
        for name, of in self.places[layer]:
            share = torch.where(of >= 0, self.k[name].to(output.dtype)[of], share)
        share = share.reshape(1, -1, *[1] * (output.ndim - 2))
        return torch.cat([share * real + (1 - share) * control, control])

    def clamp(self) -> None:
        """Keep every k in [0, 1]."""
        for one in self.k.values():
            one.clamp_(0, 1)


def norm_scale_of(model: nn.Module, group: CoupledGroup) -> Tensor:
    """Return ``(C,)`` float64: the mean |gamma| of the norms of a group, 1 without a scale.

    Example:
        >>> from infoprune.network.coupled_groups import find_groups
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 1))
        >>> _ = net[1].weight.data.copy_(torch.tensor([-2.0, 0.5]))
        >>> norm_scale_of(net, find_groups(net, torch.rand(2, 1, 4, 4)).groups[0]).tolist()
        [2.0, 0.5]
    """
    scales = [scale.detach().cpu().double().abs() for scale in filters_of(model, group).scales]
    return torch.stack(scales).mean(dim=0) if scales else torch.ones(group.filters, dtype=torch.float64)


def gaussian_knockoffs(x: Tensor, mean: Tensor, covariance: Tensor, generator: torch.Generator) -> Tensor:
    """Draw knockoffs of rows whose law is normal, of the same mean and covariance.

    Equicorrelated, for variances of 1: with D = min(2 lambda_min, 1) I, x~ given x has the mean x - D S^-1 (x - mu)
    and the covariance 2 D - D S^-1 D, so that swapping any coordinates of x and x~ changes no moment.

    Args:
        x: ``(n, p)`` float64.
        mean: ``(p,)``, mu.
        covariance: ``(p, p)``, S, with a diagonal of 1.
        generator: For the draws.

    Returns:
        ``(n, p)``.

    Example:
        >>> eye = torch.eye(3, dtype=torch.float64)
        >>> x = torch.zeros(5, 3, dtype=torch.float64)
        >>> gaussian_knockoffs(x, torch.zeros(3).double(), eye, torch.Generator().manual_seed(0)).shape
        torch.Size([5, 3])
    """
    coefficient, spread = knockoff_moments(covariance)
    values, vectors = torch.linalg.eigh(spread)
    root = vectors * values.clamp_min(0).sqrt()
    drawn = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.device)
    found: Tensor = mean + (x - mean) @ coefficient.mT + drawn @ root.mT
    return found


def knockoff_moments(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Return I - D S^-1, by which a row away from its mean becomes that of its knockoff, and the covariance given it.

    Example:
        >>> coefficient, spread = knockoff_moments(torch.tensor([[1.0, 0.5], [0.5, 1.0]], dtype=torch.float64))
        >>> (3 * coefficient).round(decimals=6).tolist(), (3 * spread).round(decimals=6).tolist()
        ([[-1.0, 2.0], [2.0, -1.0]], [[2.0, 2.0], [2.0, 2.0]])
    """
    eye = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    size = min(2 * float(torch.linalg.eigvalsh(covariance)[0]), 1.0)
    turned = size * torch.linalg.inv(covariance)
    return eye - turned, 2 * size * eye - size * turned


Control = Callable[[Tensor, torch.Generator], Tensor]


def _shuffled(images: Tensor) -> Control:
    """Return a function that draws for each of some images one of all images."""

    def draw(some: Tensor, generator: torch.Generator) -> Tensor:
        return images[torch.randint(len(images), (len(some),), generator=generator).to(images.device)]

    return draw


def _gaussian(images: Tensor) -> Control:
    flat = images.flatten(1).double()
    mean = flat.mean(dim=0)
    components = min(_COMPONENTS, max(1, len(images) // 4), flat.shape[1])
    _, singular, vectors = torch.linalg.svd(flat - mean, full_matrices=False)
    components = min(components, int((singular > 1e-9 * singular[:1]).sum()) or 1)
    deviations = (singular[:components] / len(images) ** 0.5).clamp_min(torch.finfo(torch.float64).tiny)
    basis = vectors[:components]
    # Principal components of a variance of 1 are uncorrelated.
    origin, eye = flat.new_zeros(components), torch.eye(components, dtype=torch.float64, device=flat.device)
    other = _shuffled(images)

    def draw(some: Tensor, generator: torch.Generator) -> Tensor:
        inside = (some.flatten(1).double() - mean) @ basis.mT / deviations
        fresh = gaussian_knockoffs(inside, origin, eye, generator) * deviations
        rest = other(some, generator).flatten(1).double() - mean
        rest = rest - rest @ basis.mT @ basis
        found: Tensor = (mean + fresh @ basis + rest).reshape(some.shape).to(some.dtype)
        return found

    return draw


register_network_criterion(
    "scop",
    scop,
    "how much the loss prefers the filter's features to those of an unrelated image",
    paper="arXiv 2010.10732",
    needs_labels=True,
    images=1024,
    cost="100 steps of 2 x 64 forward and backward passes in double precision",
)
