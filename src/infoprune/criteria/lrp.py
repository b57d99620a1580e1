"""Layer-wise relevance: how much of the answers goes through a filter (PMC, Ahmadluei, Faez and Masoumi 2023).

Relevance is handed back from the logit of a class, R_i = sum over j of a_i w_ij R_j / (sum over i of a_i w_ij). In a
network of ReLUs that is a_i times the gradient of the logit (Ancona et al. 2018, arXiv 1711.06104), which is computed
here for any network. With r_f the mean over images of the modulus of the relevance of filter f, summed over positions::

    s_f = r_f / (sum over the layer of r) * r_f / (sum over all layers of r)

The relevance of an image counts as much as its class costs when it is mistaken. A reconstruction from the abstract.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from infoprune.criteria.base import Importance
from infoprune.criteria.gates import gate_products
from infoprune.criteria.whole_network import register_network_criterion
from infoprune.data.batches import Batches
from infoprune.entropy.ties import bound_of_maps
from infoprune.errors import InputError
from infoprune.network.coupled_groups import CoupledGroup
from infoprune.network.gradients import Labels, logits_and_labels
from infoprune.progress import Progress, silent


def lrp(
    model: nn.Module,
    groups: Sequence[CoupledGroup],
    batches: Batches,
    *,
    costs: tuple[float, ...] = (),
    labels: Labels = "given",
    progress: Progress = silent,
) -> dict[str, Importance]:
    """Return the importance of the filters of every coupled group.

    Args:
        model: The network; left as it is.
        groups: What to score.
        batches: ``(images, labels)`` pairs, iterable more than once.
        costs: What a mistake costs in each class, by its index; by default the same in all.
        labels: ``"given"``, or ``"own"`` for the network's own answers.
        progress: Called after every batch.

    Returns:
        By the names of the groups. Scores compare between groups.

    Raises:
        InputError: A cost is below 0 or not finite, their number is not that of the classes, or as for
            :func:`infoprune.network.gradients.gate_gradients`.

    Example:
        >>> import infoprune
        >>> from infoprune.network.coupled_groups import find_groups
        >>> _ = torch.manual_seed(0)
        >>> net, images = infoprune.zoo.build("digits").eval(), torch.rand(8, 1, 8, 8)
        >>> found = lrp(net, find_groups(net, images).groups, [(images, torch.arange(8))])
        >>> found["features.0"].scores.shape
        torch.Size([16])
    """
    if not all(math.isfinite(cost) and cost >= 0 for cost in costs) or (costs and not any(costs)):
        raise InputError(f"costs of mistakes are numbers from 0 up, not all of them 0, not {tuple(costs)}")

    def summed(logits: Any, given: Tensor | None) -> Tensor:
        answers, classes = logits_and_labels(logits, given)
        if costs and len(costs) != answers.shape[1]:
            raise InputError(f"there are {answers.shape[1]} classes, but costs of {len(costs)}")
        cost = answers.new_tensor(costs or [1.0] * answers.shape[1])[classes]
        return (answers.gather(1, classes[:, None])[:, 0] * cost).sum()

    products = gate_products(model, groups, batches, of=summed, labels=labels, progress=progress)
    relevance = {name: found.abs().mean(dim=0) for name, found in products.items()}
    total = torch.stack([one.sum() for one in relevance.values()]).sum() if relevance else torch.zeros(())
    return {name: _importance(one, total) for name, one in relevance.items()}


def _importance(relevance: Tensor, total: Tensor) -> Importance:
    within = relevance.sum()
    scores = relevance.square() / (within * total) if within > 0 else relevance
    return Importance(scores, comparable=True, rounding=bound_of_maps(scores))


register_network_criterion(
    "lrp",
    lrp,
    "share of the relevance for the answers, in the layer and in the network (reconstruction)",
    paper="Ahmadluei et al. 2023 (PMC)",
    tap="norm",
    needs_labels=True,
    images=1024,
    cost="one forward and one backward pass per image",
)
