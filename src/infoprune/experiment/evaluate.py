"""Measure a network on the test images of a data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from infoprune import data
from infoprune.experiment import images as run_images
from infoprune.experiment import network as run_network
from infoprune.experiment.devices import Devices, on_devices
from infoprune.experiment.options import DataOptions, MetricOptions, NetworkOptions
from infoprune.experiment.settings import measured, metric_settings, settings_of
from infoprune.measure.advice import chance_warning, is_chance
from infoprune.progress import Progress, silent
from infoprune.storage import checkpoint


def evaluate(
    network: NetworkOptions,
    images: DataOptions,
    *,
    metric: MetricOptions | None = None,
    device: str = "auto",
    devices: Devices = 1,
    nodes: int = 1,
    progress: Progress = silent,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measure a network on the test images of a data set.

    Args:
        network: Which network.
        images: Which images.
        metric: What is measured, in place of accuracy.
        device: Where the network is.
        devices: Devices of each machine, with one process each.
        nodes: Machines.
        progress: Called after every batch.
        tell: Receives what is done to the images, and a warning where the network is hardly better than guessing.

    Raises:
        InputError: The network or the data cannot be used, or they do not fit.

    Example:
        >>> record = evaluate(NetworkOptions("digits"), DataOptions("digits"), device="cpu")
        >>> 0 <= record["figures"]["accuracy"] <= 100
        True
    """
    metric = metric or MetricOptions()
    quality = metric.quality()
    with on_devices(device, devices, nodes) as place:
        model = run_network.open_network(network, place.device)
        source = data.open_source(images.name, images.directory)
        run_images.check_classes(source, model, images, quality)
        tell(run_network.images_in_words(network, model, photos=isinstance(source.test, data.FolderImages)))
        figures = measured(model, run_images.batches(source.test, model, images), progress, quality)
    if figures.get("accuracy") is not None and is_chance(figures["accuracy"], len(source.classes)):
        tell(f"Warning: {chance_warning(figures['accuracy'], 'the accuracy')}")
    return {"figures": figures, "settings": {**settings_of(network, images, model), **metric_settings(metric)}}


def show(path: Path) -> dict[str, Any]:
    """Return the contents of a checkpoint's header as JSON values.

    Raises:
        InputError: The file is not a checkpoint.

    Example:
        >>> import tempfile
        >>> from infoprune import storage, zoo
        >>> from infoprune.network.origin import Origin
        >>> file = Path(tempfile.mkdtemp()) / "net.safetensors"
        >>> storage.checkpoint.save(zoo.build("digits"), file, origin=Origin("digits", (1, 8, 8)))
        >>> show(file)["architecture"]
        'digits'
    """
    contents = checkpoint.describe(path)
    return {
        **contents.origin.to_dict(),
        "settings": dict(contents.settings),
        "figures": dict(contents.figures),
        "version": contents.version,
    }
