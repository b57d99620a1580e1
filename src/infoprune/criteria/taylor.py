"""Taylor: what the loss changes by, to first order, when a filter is removed.

Molchanov et al. 2017 (arXiv 1611.06440) and 2019 (arXiv 1906.10771). With o the output of a layer's batch norm, or of
the layer where none follows, L_n the loss of image n and L the mean loss of a batch::

    output  s_f = mean over n of |mean over h, w of o_nfhw dL_n/do_nfhw|, divided by the Euclidean norm over the layer
    gate    s_f = mean over batches of (sum over n, h, w of o_nfhw dL/do_nfhw)^2
    weight  s_f = mean over batches of the sum over weights w of filter f of (w dL/dw)^2

The sum of o dL/do is the gradient of a gate of 1 on the filter. For a ReLU it is the same before and after the
activation. A coupled group has one gate for all its layers: their gradients are added, then squared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from infoprune.criteria.base import Importance
from infoprune.criteria.gates import gate_products
from infoprune.criteria.whole_network import register_network_criterion
from infoprune.data.batches import Batches, parse
from infoprune.entropy.ties import bound_of_maps
from infoprune.errors import InputError, unknown
from infoprune.network.coupled_groups import CoupledGroup
from infoprune.network.gradients import Labels, weight_gradients
from infoprune.network.group_maps import weight_rows
from infoprune.progress import Progress, silent

Form = Literal["gate", "output", "weight"]
Shared = Literal["sum", "mean"]


def taylor(
    model: nn.Module,
    groups: Sequence[CoupledGroup],
    batches: Batches,
    *,
    form: Form = "gate",
    batch: int = 64,
    labels: Labels = "given",
    shared: Shared = "sum",
    progress: Progress = silent,
) -> dict[str, Importance]:
    """Return the importance of the filters of every coupled group.

    Args:
        model: The network; left as it is.
        groups: What to score.
        batches: ``(images, labels)`` pairs, iterable more than once.
        form: ``"gate"`` (2019), ``"output"`` (2017) or ``"weight"`` (2019).
        batch: Images whose mean loss is taken at a time, whatever batches they come in; 1 squares image by image. What
            is left over counts only where there is no whole batch. ``"output"`` does not need it.
        labels: ``"given"``, or ``"own"`` for the network's own answers.
        shared: ``"sum"``, or ``"mean"`` to divide the scores of a group by the number of its layers.
        progress: Called after every batch.

    Returns:
        By the names of the groups. Scores of ``"gate"`` and ``"weight"`` compare between groups.

    Raises:
        InputError: An option is unknown or out of range, or as for :func:`infoprune.network.gradients.gate_gradients`.

    Example:
        >>> import infoprune
        >>> from infoprune.network.coupled_groups import find_groups
        >>> _ = torch.manual_seed(0)
        >>> net, images = infoprune.zoo.build("digits").eval(), torch.rand(8, 1, 8, 8)
        >>> found = taylor(net, find_groups(net, images).groups, [(images, torch.arange(8))])
        >>> found["features.0"].scores.shape
        torch.Size([16])
    """
    if form not in get_args(Form):
        raise unknown("form of the criterion 'taylor'", str(form), get_args(Form))
    if shared not in get_args(Shared):
        raise unknown("shared of the criterion 'taylor'", str(shared), get_args(Shared))
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise InputError(f"the mean loss is of at least one image at a time, not {batch!r}")
    if form == "weight":
        scores = _by_weights(model, groups, batches, batch, labels, progress)
    else:
        scores = _by_gates(model, groups, batches, form, batch, labels, progress)
    divisors = {group.name: len(group.producers) if shared == "mean" else 1 for group in groups}
    return {
        name: Importance(worth, comparable=form != "output", rounding=bound_of_maps(worth))
        for name, worth in ((name, found / divisors[name]) for name, found in scores.items())
    }


def output_scores(gradients: Tensor) -> Tensor:
    """Return ``(C,)``: the mean over images of |mean of o dL/do|, divided by the norm over the filters.

    Args:
        gradients: ``(n, C)``: of every image, the mean over positions of o dL/do.

    Example:
        >>> output_scores(torch.tensor([[-0.75, 0.0]])).tolist()
        [1.0, 0.0]
    """
    mean = gradients.abs().mean(dim=0)
    norm = torch.linalg.vector_norm(mean)
    return mean / norm if norm > 0 else mean


def gate_scores(gradients: Tensor, batch: int) -> Tensor:
    """Return ``(C,)``: the mean over batches of the squared gradient of the mean loss of a batch.

    Args:
        gradients: ``(n, C)``: of every image, the gradient of its own loss.
        batch: Images a batch.

    Example:
        >>> two = torch.tensor([[2.0], [-2.0]])
        >>> gate_scores(two, 2).item(), gate_scores(two, 1).item()
        (0.0, 4.0)
    """
    whole = len(gradients) // batch * batch or len(gradients)
    means = torch.stack([part.mean(dim=0) for part in torch.split(gradients[:whole], batch)])
    return means.square().mean(dim=0)


def _by_gates(
    model: nn.Module,
    groups: Sequence[CoupledGroup],
    batches: Batches,
    form: Form,
    batch: int,
    labels: Labels,
    progress: Progress,
) -> dict[str, Tensor]:
    every = gate_products(model, groups, batches, mean=form == "output", labels=labels, progress=progress)
    score = output_scores if form == "output" else lambda gradients: gate_scores(gradients, batch)
    return {name: score(found) for name, found in every.items()}


def _by_weights(
    model: nn.Module,
    groups: Sequence[CoupledGroup],
    batches: Batches,
    batch: int,
    labels: Labels,
    progress: Progress,
) -> dict[str, Tensor]:
    scores = {group.name: torch.zeros(group.filters, dtype=torch.float64) for group in groups}
    count = 0

    def consume(weights: dict[str, Tensor], gradients: dict[str, Tensor]) -> None:
        nonlocal count
        count += 1
        for group in groups:
            for layer in group.producers:
                products = (weights[layer].double() * gradients[layer].double()).square()
                rows = weight_rows(model.get_submodule(layer), products, group, layer)
                scores[group.name] += rows.flatten(1).sum(dim=1).cpu()
        progress("gradients", count, count)

    layers = list(dict.fromkeys(layer for group in groups for layer in group.producers))
    if layers:
        weight_gradients(model, _whole(batches, batch), layers, consume, labels=labels)
    return {name: found / max(1, count) for name, found in scores.items()}


def _whole(batches: Batches, size: int) -> Iterator[tuple[Tensor, ...]]:
    """Yield batches of exactly this number of images; one smaller batch where there is no whole one."""
    waiting: list[list[Tensor]] = []
    yielded = False
    for given in batches:
        batch = parse(given)
        labels = batch.classes()
        waiting.append([batch.images] if labels is None else [batch.images, labels])
        while sum(len(one[0]) for one in waiting) >= size:
            joined = [torch.cat(some) for some in zip(*waiting, strict=True)]
            yield tuple(part[:size] for part in joined)
            yielded = True
            waiting = [[part[size:] for part in joined]] if len(joined[0]) > size else []
    if waiting and not yielded:
        yield tuple(torch.cat(some) for some in zip(*waiting, strict=True))


register_network_criterion(
    "taylor",
    taylor,
    "change of the loss, to first order, when the filter is removed",
    paper="arXiv 1611.06440, 1906.10771",
    tap="norm",
    needs_labels=True,
    images=1024,
    cost="one forward and one backward pass per image",
)
