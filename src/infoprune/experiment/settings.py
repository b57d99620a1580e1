"""What a record holds of the network, the images and the machine of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from infoprune.data.batches import example_of
from infoprune.device import device_of
from infoprune.experiment.network import preprocessing_of
from infoprune.experiment.options import DataOptions, MetricOptions, NetworkOptions
from infoprune.files import write_text
from infoprune.measure import environment
from infoprune.measure.accuracy import evaluate
from infoprune.measure.figures import figures, latencies
from infoprune.measure.metric import PLAIN, Quality
from infoprune.network import cost
from infoprune.network.origin import origin_of
from infoprune.progress import Progress, silent
from infoprune.runs.outputs import Outputs
from infoprune.zoo import registry


def quality_of(model: nn.Module, test: Any, quality: Quality = PLAIN, progress: Progress = silent) -> dict[str, Any]:
    """Return the accuracy and loss of a network on these images, or the metric, as JSON values.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> list(quality_of(net, [(torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 1]))]))
        ['accuracy', 'loss', 'images']
    """
    found = asdict(evaluate(model, test, metric=quality.metric, output=quality.output, progress=progress))
    if quality.metric is not None:
        return {"metric": found["metric"], "metric_name": quality.name, "images": found["images"],
                "higher_is_better": quality.higher_is_better}  # fmt: skip
    return {name: found[name] for name in ("accuracy", "loss", "images")}


def measured(model: nn.Module, batches: Any, progress: Progress, quality: Quality = PLAIN) -> dict[str, Any]:
    """Return the figures of a network on these images, as JSON values.

    Example:
        >>> import torch
        >>> from infoprune.progress import silent
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> measured(net, [(torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 1]))], silent)["images"]
        3
    """
    example = example_of(batches, model)
    counted, latency = cost.count(model, example), latencies((model,), example)[0]
    found = asdict(figures(model, counted, latency, batches, quality=quality, progress=progress))
    return {name: value for name, value in found.items() if value is not None}


def settings_of(network: NetworkOptions, images: DataOptions, model: nn.Module) -> dict[str, Any]:
    """Return what repeats a run: network, preprocessing, data, versions and machine.

    Example:
        >>> from infoprune.experiment.network import open_network
        >>> network = NetworkOptions("digits")
        >>> settings_of(network, DataOptions("digits"), open_network(network, "cpu"))["data"]["name"]
        'digits'
    """
    origin = origin_of(model)
    return {
        "network": {**as_json(asdict(network)), "architecture": origin.architecture if origin else None},
        "preprocessing": preprocessing_of(model).to_dict(),
        "data": as_json(asdict(images)),
        "versions": environment.versions(),
        "machine": environment.machine(device_of(model)),
    }


def metric_settings(metric: MetricOptions) -> dict[str, Any]:
    """Return what was measured in place of accuracy, as it was typed; nothing where it was accuracy.

    Example:
        >>> metric_settings(MetricOptions("f1"))
        {'metric': 'f1'}
    """
    return {name: value for name, value in asdict(metric).items() if value is not None}


def as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with paths as text.

    Example:
        >>> as_json({"directory": Path("data")})
        {'directory': 'data'}
    """
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def write_record(record: Mapping[str, Any], written: Outputs, path: Path | None) -> None:
    """Write a record as JSON, with the other outputs of a run, where a file was asked for.

    Example:
        >>> import tempfile
        >>> from infoprune.runs.outputs import outputs
        >>> file = Path(tempfile.mkdtemp()) / "record.json"
        >>> with outputs(file, run="example") as written:
        ...     write_record({"accuracy": 99.2}, written, file)
        ...     written.commit()
        >>> json.loads(file.read_text())
        {'accuracy': 99.2}
    """
    if path is not None:
        write_text(written.staged(path), json.dumps(record, indent=1) + "\n")


def paper_tap(model: nn.Module, criterion: str) -> Any:
    """Return where a zoo network's paper reads the maps of a criterion, ``None`` where it does not say.

    Example:
        >>> from infoprune.experiment.network import open_network
        >>> paper_tap(open_network(NetworkOptions("digits"), "cpu"), "l1") is None
        True
    """
    origin = origin_of(model)
    if origin is None or origin.architecture not in registry.names():
        return None
    return registry.info(origin.architecture).taps.get(criterion)
