"""Prune a network to several budgets in one run, from files to one checkpoint for each budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from infoprune.automatic.sweep import Point
from infoprune.automatic.sweep import sweep as sweep_of
from infoprune.data.batches import example_of
from infoprune.experiment import images as run_images
from infoprune.experiment import network as run_network
from infoprune.experiment.devices import Devices, on_devices
from infoprune.experiment.options import CALIBRATION_CHOSEN, DataOptions, MetricOptions, NetworkOptions
from infoprune.experiment.settings import metric_settings, quality_of, settings_of, write_record
from infoprune.measure.record import Stopwatch
from infoprune.network import cost
from infoprune.options import Effort
from infoprune.progress import Progress, silent
from infoprune.runs.outputs import Outputs, outputs
from infoprune.storage import checkpoint


def checkpoint_of(folder: Path, share: float) -> Path:
    """Return the file that a sweep writes for one budget.

    Example:
        >>> checkpoint_of(Path("small"), 0.9).as_posix()
        'small/macs-0.9.safetensors'
    """
    return folder / f"macs-{share:g}.safetensors"


def sweep(
    network: NetworkOptions,
    images: DataOptions,
    macs: Sequence[float],
    out_dir: Path,
    *,
    effort: Effort = "normal",
    metric: MetricOptions | None = None,
    layers: tuple[str, ...] = (),
    skip: tuple[str, ...] = (),
    record_out: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    devices: Devices = 1,
    nodes: int = 1,
    force: bool = False,
    progress: Progress = silent,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Prune a network to several budgets of MACs and write one checkpoint for each.

    Each network is cut from the repaired one before it. The files are written together: all of them or none.

    Args:
        network: Which network.
        images: Which images. The calibration images choose filters and repair, without labels; the test images measure.
        macs: Shares of the MACs to keep, each above 0 and below 1.
        out_dir: Folder for the checkpoints, ``macs-SHARE.safetensors``.
        effort: As in ``prune``.
        metric: What is measured, in place of accuracy.
        layers: Patterns of layers that may lose filters; all convolutions by default.
        skip: Patterns of layers that keep all filters.
        record_out: Also write the record as JSON.
        seed: Seed of the sample of calibration images.
        device: Device to compute on.
        devices: Devices of each machine, with one process each. The first one writes.
        nodes: Machines.
        force: Whether files that exist are replaced.
        progress: Called in every stage.
        tell: As in ``prune``.

    Returns:
        The record: cost and test accuracy of the original, and of each budget.

    Raises:
        InputError: The network or the data cannot be used, they do not fit, a budget is out of range or cannot be met,
            or a file cannot be written. No file is written then.

    Example:
        >>> import tempfile
        >>> digits = DataOptions("digits", calibration=50)
        >>> folder = Path(tempfile.mkdtemp())
        >>> record = sweep(NetworkOptions("digits"), digits, (0.5,), folder, effort="quick", device="cpu")
        >>> [path.name for path in folder.iterdir()], record["points"][0]["macs"] <= 0.5 * record["base"]["macs"]
        (['macs-0.5.safetensors'], True)
    """
    shares = sorted(set(macs), reverse=True)
    files = [checkpoint_of(out_dir, share) for share in shares]
    metric, watch = metric or MetricOptions(), Stopwatch()
    quality = metric.quality()
    with (
        outputs(*files, record_out, inputs=(network.weights,), run="sweep", force=force) as written,
        on_devices(device, devices, nodes) as place,
    ):
        model = run_network.open_network(network, place.device)
        _, images, calibration, test = run_images.parts_for(
            network, model, images, quality, seed, CALIBRATION_CHOSEN, tell
        )
        with watch.stage("sweep"):
            points = sweep_of(model, calibration, shares, effort=effort, output=quality.output, progress=progress,
                              layers=layers, skip=skip)  # fmt: skip
        with watch.stage("evaluate"):
            base = asdict(cost.count(model, example_of(calibration, model)))
            measured = [_figures(point) for point in points]
            if test is not None:
                base |= quality_of(model, test, quality, progress)
                for figures, point in zip(measured, points, strict=True):
                    figures |= quality_of(point.model, test, quality, progress)
        settings = {**settings_of(network, images, model), "budgets": shares, "effort": effort, "layers": list(layers),
                    "skip": list(skip), "seed": seed, **metric_settings(metric)}  # fmt: skip
        record = {
            "base": base,
            "points": [{**one, "file": str(path)} for one, path in zip(measured, files, strict=True)],
            "seconds": watch.seconds,
            "settings": settings,
        }
        _stage(written, points, files, base, measured, settings)
        write_record(record, written, record_out)
        written.commit()
    return record


def _stage(
    written: Outputs,
    points: Sequence[Point],
    files: Sequence[Path],
    base: dict[str, Any],
    measured: Sequence[dict[str, Any]],
    settings: dict[str, Any],
) -> None:
    for point, path, figures in zip(points, files, measured, strict=True):
        own = {**settings, "budget": {"macs": point.macs}}
        checkpoint.save(point.model, written.staged(path), settings=own, figures={"base": base, "pruned": figures})


def _figures(point: Point) -> dict[str, Any]:
    return {
        "budget": point.macs,
        **asdict(point.cost),
        "divergence": point.held_out.value,
        "agreement": point.held_out.agreement,
    }
