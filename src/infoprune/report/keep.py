"""From the result of a pruning to what is kept of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from infoprune.criteria.base import Tap
from infoprune.data.batches import Batches, example_of
from infoprune.network import cost
from infoprune.network.origin import origin_of
from infoprune.pipeline import Result
from infoprune.report.pictures import take_pictures
from infoprune.report.run import Run, evidence_of


def kept_run(model: nn.Module, result: Result, record: Mapping[str, Any], batches: Batches, *, name: str = "") -> Run:
    """Return everything that a report shows.

    Args:
        model: The network before it was cut.
        result: What came out of it.
        record: The record of the command.
        batches: The calibration images.
        name: What the run is called in tables.

    Example:
        >>> import torch, infoprune
        >>> net, batches = infoprune.zoo.build("digits").eval(), [(torch.rand(8, 1, 8, 8), torch.arange(8))]
        >>> result = infoprune.prune(net, batches, criterion="l1", ratio=0.5, repair=None)
        >>> run = kept_run(net, result, result.record(), batches, name="l1")
        >>> run.name, sorted(run.pictures.maps)[:1]
        ('l1', ['features.0'])
    """
    example = example_of(batches, model)
    before, after = (cost.macs_by_layer(network, example) for network in (model, result.model))
    layers = {layer: {"macs": macs, "macs_after": after.get(layer, 0)} for layer, macs in before.items()}
    weights = {"base": weight_bytes(model), "pruned": weight_bytes(result.model)}
    origin = origin_of(model)
    # Where maps were read to be scored is where a person should look at them.
    tap: Tap = record["settings"].get("tap") or "activation"
    pictures = take_pictures(
        model,
        batches,
        list(result.plan.decisions),
        tap=tap,
        preprocessing=None if origin is None else origin.preprocessing,
    )
    whole = {**record, "layers": layers, "weight_bytes": weights}
    if origin is not None:
        whole["architecture"] = origin.architecture
    return Run(whole, result.plan, evidence_of(result.importances), pictures, name=name)


def weight_bytes(model: nn.Module) -> int:
    """Return the bytes of everything a file of this network's weights holds.

    Example:
        >>> weight_bytes(nn.Linear(3, 1))
        16
    """
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
