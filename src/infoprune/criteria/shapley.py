"""Shapley values of filters, and information concentration of layers (Chen and Wang 2024, arXiv 2408.16772).

``shapley``: what a filter adds to the network on average over all orders in which the filters of its layer could join::

    s_f = mean over permutations of v(filters before f, and f) - v(filters before f)

v is minus the mean loss of the images with all other filters of the layer at zero; without labels minus the divergence
from the whole network's answers. Permutations are drawn, each with its reverse. The filters of a coupled group join
together in all its layers.

``concentration`` says how much a layer knows, for sharing a budget between layers (``budget_by``). A reconstruction:
the paper's fusion was not at hand. Its two terms of a filter are the entropy of a histogram of its map and the rank of
its map by the smaller side, means over images.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infoprune.criteria.averaged import averaged, check_spatial
from infoprune.criteria.base import CriterionInfo, Importance, register
from infoprune.criteria.dead import dead_last
from infoprune.criteria.hrank import rank_of
from infoprune.criteria.map_entropy import bin_numbers, entropy_of_counts
from infoprune.criteria.whole_network import register_network_criterion
from infoprune.data.batches import Batches, images_of, parse
from infoprune.entropy.ties import bound_of_maps, default_bound
from infoprune.errors import InputError, unknown
from infoprune.network.coupled_groups import CoupledGroup
from infoprune.network.equivalence import copied
from infoprune.network.gradients import summed_loss
from infoprune.network.layers import channel_axis
from infoprune.progress import Progress, silent

Value = Literal["loss", "answers"]
Fusion = Literal["mean", "product", "harmonic"]


@torch.no_grad()
def shapley(
    model: nn.Module,
    groups: Sequence[CoupledGroup],
    batches: Batches,
    *,
    value: Value = "loss",
    permutations: int = 8,
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, Importance]:
    """Return the importance of the filters of every coupled group: estimated Shapley values, in nats.

    Args:
        model: Gives ``(n, classes)`` logits; left as it is.
        groups: What to score.
        batches: ``(images, labels)`` pairs; images alone with ``value="answers"``.
        value: ``"loss"``, or ``"answers"`` for the divergence from the whole network's answers.
        permutations: How many orders are drawn, an even number: each with its reverse.
        seed: For the orders.
        progress: Called after every group.

    Returns:
        By the names of the groups. Scores compare between groups, and may be below 0: filters that do harm.

    Raises:
        InputError: An option is unknown or out of range, or labels are missing.

    Example:
        >>> import infoprune
        >>> from infoprune.network.coupled_groups import find_groups
        >>> _ = torch.manual_seed(0)
        >>> net, images = infoprune.zoo.build("digits").eval(), torch.rand(8, 1, 8, 8)
        >>> found = shapley(net, find_groups(net, images).groups[:1], [(images, torch.arange(8))], permutations=2)
        >>> found["features.0"].scores.shape
        torch.Size([16])
    """
    if value not in get_args(Value):
        raise unknown("value of the criterion 'shapley'", str(value), get_args(Value))
    if isinstance(permutations, bool) or not isinstance(permutations, int) or permutations < 2 or permutations % 2:
        raise InputError(f"permutations are drawn in pairs: an even number from 2 up, not {permutations!r}")
    twin = copied(model)
    game = _Game(twin, list(_with_targets(twin, batches, value)), value)
    found = {}
    for done, group in enumerate(groups, 1):
        orders = _orders(len(group.units), permutations, seed)
        units = shapley_values(len(group.units), orders, lambda kept, group=group: game.worth(group, kept))
        scores = torch.zeros(group.filters, dtype=torch.float64)
        for unit, worth in zip(group.units, units, strict=True):
            scores[list(unit)] = worth / len(unit)
        # They are differences of losses, of which the largest is that without any filter, unless filters do harm.
        size = max(abs(game.worth(group, frozenset())), float(scores.abs().max()))
        found[group.name] = Importance(scores, comparable=True, rounding=bound_of_maps(scores, size))
        progress("Shapley values", done, len(groups))
    return found


def shapley_values(players: int, orders: Sequence[Sequence[int]], worth: Any) -> list[float]:
    """Return the mean marginal worth of every player over some orders.

    Their sum is the worth of all minus that of none, for every single order.

    Args:
        players: How many.
        orders: Permutations of the players.
        worth: From a set of players to a number.

    Example:
        >>> both = lambda some: float({0, 1} <= set(some))
        >>> shapley_values(3, [(0, 1, 2), (2, 1, 0)], both)
        [0.5, 0.5, 0.0]
    """
    found = [0.0] * players
    nothing, everything = worth(frozenset()), worth(frozenset(range(players)))
    for order in orders:
        before = nothing
        for place, player in enumerate(order, 1):
            after = everything if place == players else worth(frozenset(order[:place]))
            found[player] += (after - before) / len(orders)
            before = after
    return found


def _orders(players: int, count: int, seed: int) -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(seed)
    drawn = [tuple(torch.randperm(players, generator=generator).tolist()) for _ in range(count // 2)]
    return [order for one in drawn for order in (one, one[::-1])]


class _Game:
    """What the network is worth with only some units of a group."""

    def __init__(self, model: nn.Module, batches: list[tuple[Tensor, Tensor]], value: Value) -> None:
        self.model, self.batches, self.value = model, batches, value
        self.images = sum(len(images) for images, _ in batches)

    def worth(self, group: CoupledGroup, kept: frozenset[int]) -> float:
        gone = [filter_ for number, unit in enumerate(group.units) if number not in kept for filter_ in unit]
        with _silenced(self.model, group, gone):
            return -sum(self._loss(self.model(images), target) for images, target in self.batches) / self.images

    def _loss(self, logits: Tensor, target: Tensor) -> float:
        if self.value == "loss":
            return float(summed_loss(logits, target))
        logs = F.log_softmax(logits.double(), dim=1)
        return float(F.kl_div(logs, F.log_softmax(target.double(), dim=1), log_target=True, reduction="sum"))


@contextmanager
def _silenced(model: nn.Module, group: CoupledGroup, gone: Sequence[int]) -> Iterator[None]:
    """Hold the channels of some filters at zero where they are read, so that no norm brings them back."""
    with ExitStack() as hooks:
        for member in group.members:
            if member.side == "in" and gone:
                module = model.get_submodule(member.layer)
                channels = member.channels_of(gone)

                def silence(module: nn.Module, inputs: tuple[Any, ...], channels: list[int] = channels) -> Any:
                    held = inputs[0].clone()
                    held.index_fill_(channel_axis(module), torch.tensor(channels, device=held.device), 0.0)
                    return (held, *inputs[1:])

                hooks.callback(module.register_forward_pre_hook(silence).remove)
        yield


def _with_targets(model: nn.Module, batches: Batches, value: Value) -> Iterator[tuple[Tensor, Tensor]]:
    for batch in batches:
        for images in images_of([batch], model):
            if value == "answers":
                yield images, model(images)
                continue
            labels = parse(batch).classes()
            if labels is None:
                raise InputError("the value 'loss' needs (images, labels) pairs: give labels, or take 'answers'")
            yield images, labels.to(images.device)


register_network_criterion(
    "shapley",
    shapley,
    "what the filter adds to the network, mean over orders of its layer's filters",
    paper="arXiv 2408.16772",
    needs_labels=True,
    images=128,
    cost="permutations x C forward passes of 128 images per coupled group",
)


def entropy_and_rank(maps: Tensor, *, bins: int = 32) -> Tensor:
    """Return of every map the entropy of its histogram, by the largest possible, and its rank by the smaller side.

    Args:
        maps: ``(n, C, H, W)``.
        bins: Of the histogram, between the least and the largest value of each map.

    Returns:
        ``(n, 2, C)``, in [0, 1].

    Example:
        >>> entropy_and_rank(torch.eye(2)[None, None], bins=2).flatten().tolist()
        [1.0, 1.0]
    """
    check_spatial(maps, "concentration")
    flat = maps.double().flatten(2)
    numbers = bin_numbers(flat.flatten(0, 1).T, bins).T
    counts = torch.zeros(len(numbers), bins, dtype=torch.int64, device=numbers.device)
    counts.scatter_add_(1, numbers, torch.ones_like(numbers))
    entropy = entropy_of_counts(counts).reshape(flat.shape[:2]) / math.log(bins)
    tolerance = max(maps.shape[2:]) * torch.finfo(torch.float32).eps
    rank = rank_of(torch.linalg.svdvals(maps.double()), tolerance) / min(maps.shape[2:])
    return torch.stack([entropy, rank], dim=1)


def concentrated(mean: Tensor, dead: Tensor, *, fusion: Fusion = "mean", balance: float = 0.5) -> Importance:
    """Return the importance from ``(2, C)`` mean entropies and ranks; scores compare between groups.

    Args:
        mean: Both in [0, 1].
        dead: ``(C,)`` booleans.
        fusion: ``"mean"``, weighted by ``balance``; ``"product"`` or ``"harmonic"`` mean.
        balance: Weight of the entropy, 0 to 1.

    Raises:
        InputError: The fusion is unknown, or the balance is out of range.

    Example:
        >>> mean = torch.tensor([[0.9, 0.2], [0.8, 0.1]], dtype=torch.float64)
        >>> sorted(concentrated(mean, torch.zeros(2, dtype=torch.bool)).order)
        [0, 1]
    """
    if fusion not in get_args(Fusion):
        raise unknown("fusion of the criterion 'concentration'", str(fusion), get_args(Fusion))
    if not 0 <= balance <= 1:
        raise InputError(f"the balance is the weight of the entropy, from 0 to 1, not {balance}")
    entropy, rank = mean
    if fusion == "mean":
        scores = balance * entropy + (1 - balance) * rank
    elif fusion == "product":
        scores = entropy * rank
    else:
        scores = 2 * entropy * rank / torch.where(entropy + rank > 0, entropy + rank, 1.0)
    found = dead_last(scores, dead, default_bound(scores), entropy=entropy, rank=rank)
    return Importance(found.scores, found.order, evidence=found.evidence, comparable=True, rounding=found.rounding)


register(
    CriterionInfo(
        "concentration",
        averaged(entropy_and_rank, concentrated),
        "entropy and rank of the feature map, to share a budget between layers (reconstruction)",
        paper="arXiv 2408.16772",
        by_layer=True,
        images=256,
        cost="one forward pass and C singular value decompositions of H x W per image",
    )
)
