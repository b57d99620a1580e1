"""Measure a network on the test images of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from infoprune import data
from infoprune.experiment import images as run_images
from infoprune.experiment import network as run_network
from infoprune.experiment.devices import Devices, on_devices
from infoprune.experiment.options import DataOptions, NetworkOptions
from infoprune.experiment.settings import measured, settings_of
from infoprune.progress import Progress, silent
from infoprune.storage import checkpoint


def evaluate(
    network: NetworkOptions,
    images: DataOptions,
    *,
    device: str = "auto",
    devices: Devices = 1,
    nodes: int = 1,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Measure a network on the test images of a data set.

    Args:
        network: Which network.
        images: Which images.
        device: Where it is measured.
        devices: Devices of each machine, with one process each.
        nodes: Machines.
        progress: Called after every batch.

    Raises:
        InputError: The network or the data cannot be used, or they do not fit.
    """
    with on_devices(device, devices, nodes) as place:
        model = run_network.open_network(network, place.device)
        source = data.open_source(images.name, images.directory)
        run_images.check_classes(source, model, images)
        figures = measured(model, run_images.batches(source.test, model, images), progress)
    return {"figures": figures, "settings": settings_of(network, images, model)}


def show(path: Path) -> dict[str, Any]:
    """Return the contents of a checkpoint's header as JSON values.

    Raises:
        InputError: The file is not a checkpoint.
    """
    contents = checkpoint.describe(path)
    return {
        **contents.origin.to_dict(),
        "settings": dict(contents.settings),
        "figures": dict(contents.figures),
        "version": contents.version,
    }
