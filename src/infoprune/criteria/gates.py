"""What the gates of every filter are worth, image by image: the sums of maps times their gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from infoprune.criteria.whole_network import by_filter
from infoprune.data.batches import Batches, images_of, number_of_batches
from infoprune.network.coupled_groups import CoupledGroup
from infoprune.network.gradients import Labels, Measure, Place, gate_gradients, summed_loss
from infoprune.network.layer_io import read
from infoprune.progress import Progress, silent


def gate_products(
    model: nn.Module,
    groups: Sequence[CoupledGroup],
    batches: Batches,
    *,
    of: Measure = summed_loss,
    mean: bool = False,
    labels: Labels = "given",
    progress: Progress = silent,
) -> dict[str, Tensor]:
    """Return by group the ``(n, C)`` sums over positions, and over the layers of the group, of o times dL/do.

    The output o of a layer is that of the batch norm that follows it, where it is a member of the group.

    Args:
        model: The network; left as it is.
        groups: The filters.
        batches: ``(images, labels)`` pairs, iterable more than once.
        of: The number L whose gradients are taken, as for :func:`infoprune.network.gradients.gate_gradients`.
        mean: Whether positions are averaged, not added up.
        labels: ``"given"``, or ``"own"`` for the network's own answers.
        progress: Called after every batch.

    Raises:
        InputError: As for :func:`infoprune.network.gradients.gate_gradients`.

    Example:
        >>> import infoprune
        >>> from infoprune.network.coupled_groups import find_groups
        >>> net, images = infoprune.zoo.build("digits").eval(), torch.rand(8, 1, 8, 8)
        >>> found = gate_products(net, find_groups(net, images).groups, [(images, torch.arange(8))])
        >>> found["features.0"].shape
        torch.Size([8, 16])
    """
    if not groups:
        return {}
    probe = next(images_of(batches, model))[:2]
    places = {group.name: [Place(_gated(model, group, layer, probe), "out") for layer in group.producers]
              for group in groups}  # fmt: skip
    found: dict[str, list[Tensor]] = {group.name: [] for group in groups}

    def consume(gradients: dict[Place, Tensor], positions: dict[Place, int]) -> None:
        for group in groups:
            parts = [
                by_filter(gradients[place], _channels(group, place.layer)) / (positions[place] if mean else 1)
                for place in places[group.name]
            ]
            found[group.name].append(torch.stack(parts).sum(dim=0))
        done = len(next(iter(found.values())))
        progress("gradients", done, max(done, number_of_batches(batches)))

    gate_gradients(model, batches, [place for some in places.values() for place in some], consume, labels=labels, of=of)
    return {name: torch.cat(parts) for name, parts in found.items()}


def _gated(model: nn.Module, group: CoupledGroup, layer: str, probe: Tensor) -> str:
    """Return the batch norm that follows the layer, where it is a member of the group, else the layer."""
    norm = read(model, layer, probe).norm
    return norm if any(member.layer == norm and member.side == "out" for member in group.members) else layer


def _channels(group: CoupledGroup, layer: str) -> tuple[tuple[int, ...], ...]:
    return next(member.channels for member in group.members if member.layer == layer and member.side == "out")
