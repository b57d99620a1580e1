"""Measure how sensitive each layer is to pruning, for a network and images from files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from infoprune.automatic.sensitivity import RATIOS, LayerSensitivity
from infoprune.automatic.sensitivity import sensitivity as sensitivity_of
from infoprune.data import FolderImages
from infoprune.experiment import images as run_images
from infoprune.experiment import network as run_network
from infoprune.experiment.devices import Devices, on_devices
from infoprune.experiment.options import CALIBRATION_CHOSEN, DataOptions, MetricOptions, NetworkOptions
from infoprune.experiment.settings import metric_settings, settings_of
from infoprune.measure.record import Stopwatch
from infoprune.progress import Progress, silent


@dataclass(frozen=True)
class SensitivityRun:
    """The result of a sensitivity command and its record.

    Args:
        found: One entry per layer and ratio.
        record: The same as JSON values, with the settings.

    Example:
        >>> SensitivityRun((), {"layers": []}).found
        ()
    """

    found: tuple[LayerSensitivity, ...]
    record: dict[str, Any]


def sensitivity(
    network: NetworkOptions,
    images: DataOptions,
    ratios: Sequence[float] = RATIOS,
    *,
    metric: MetricOptions | None = None,
    layers: tuple[str, ...] = (),
    skip: tuple[str, ...] = (),
    seed: int = 0,
    device: str = "auto",
    devices: Devices = 1,
    nodes: int = 1,
    progress: Progress = silent,
    tell: Callable[[str], None] = lambda line: None,
) -> SensitivityRun:
    """Prune each layer alone at several ratios, repair it, and compare the outputs with those of the original.

    Args:
        network: Which network.
        images: Which images; the calibration images are used, their labels are not read.
        ratios: Shares of the filters to remove, each above 0 and below 1.
        metric: What is also measured on held-out images, whose labels are then read.
        layers: Patterns of layers to measure; all convolutions by default.
        skip: Patterns of layers to leave out.
        seed: Seed of the sample of calibration images.
        device: Device to compute on.
        devices: Devices of each machine, with one process each.
        nodes: Machines.
        progress: Called after every cut.
        tell: Receives what is done to the images.

    Raises:
        InputError: The network or the data cannot be used, they do not fit, or a ratio is out of range.

    Example:
        >>> digits = DataOptions("digits", calibration=50)
        >>> run = sensitivity(NetworkOptions("digits"), digits, (0.5,), layers=("features.3",), device="cpu")
        >>> [(one.layer, one.filters) for one in run.found]
        [('features.3', 32)]
    """
    metric, watch = metric or MetricOptions(), Stopwatch()
    quality = metric.quality()
    with on_devices(device, devices, nodes) as place:
        model = run_network.open_network(network, place.device)
        parts = run_images.open_parts(images, seed, calibration=CALIBRATION_CHOSEN)
        if quality.metric is not None:
            run_images.check_labelled(parts.source)
        images = replace(images, calibration=len(parts.calibration))
        tell(run_network.images_in_words(network, model, photos=isinstance(parts.train, FolderImages)))
        batches = run_images.batches(parts.calibration, model, images)
        with watch.stage("sensitivity"):
            found = sensitivity_of(model, batches, ratios, layers=layers, skip=skip, metric=quality.metric,
                                   output=quality.output, progress=progress)  # fmt: skip
    settings = {**settings_of(network, images, model), "ratios": list(ratios), "layers": list(layers),
                "skip": list(skip), "seed": seed, **metric_settings(metric)}  # fmt: skip
    record = {"layers": [one.to_dict() for one in found], "seconds": watch.seconds, "settings": settings}
    return SensitivityRun(found, record)
