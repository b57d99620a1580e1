"""Measure a network on the test images of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from infoprune import data
from infoprune.experiment import images as run_images
from infoprune.experiment import network as run_network
from infoprune.experiment.options import DataOptions, NetworkOptions
from infoprune.experiment.settings import measured, settings_of
from infoprune.progress import Progress, silent
from infoprune.storage import checkpoint


def evaluate(
    network: NetworkOptions, images: DataOptions, *, device: str = "auto", progress: Progress = silent
) -> dict[str, Any]:
    """Measure a network on the test images of a data set.

    Raises:
        InputError: The network or the data cannot be used, or they do not fit.

    Example:
        >>> record = evaluate(NetworkOptions("digits"), DataOptions("digits"), device="cpu")
        >>> 0 <= record["figures"]["accuracy"] <= 100
        True
    """
    model = run_network.open_network(network, device)
    source = data.open_source(images.name, images.directory)
    run_images.check_classes(source, model, images)
    figures = measured(model, run_images.batches(source.test, model, images), progress)
    return {"figures": figures, "settings": settings_of(network, images, model)}


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
