"""Remove whole blocks of a network from files, to a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from infoprune.data.batches import example_of
from infoprune.depth.removal import Shallower, prune_blocks
from infoprune.experiment import images as run_images
from infoprune.experiment import network as run_network
from infoprune.experiment.devices import on_devices
from infoprune.experiment.options import CALIBRATION_CHOSEN, DataOptions, NetworkOptions
from infoprune.experiment.settings import quality_of, settings_of, write_record
from infoprune.measure.metric import PLAIN
from infoprune.measure.record import Stopwatch
from infoprune.network import cost
from infoprune.network.origin import carry_notes
from infoprune.progress import Progress, silent
from infoprune.repair.batch_norm import reestimate
from infoprune.runs.outputs import outputs
from infoprune.storage import checkpoint


@dataclass(frozen=True)
class DepthRun:
    """The result of a depth command and its record.

    Args:
        found: The network, and the scores of its blocks.
        record: The same as JSON values, with accuracies and the settings.

    Example:
        >>> from torch import nn
        >>> DepthRun(Shallower(nn.Identity(), ("layer1.1",)), {}).found.removed
        ('layer1.1',)
    """

    found: Shallower
    record: dict[str, Any]


def depth(
    network: NetworkOptions,
    images: DataOptions,
    out: Path,
    *,
    count: int | None = None,
    macs: float | None = None,
    criterion: str = "divergence",
    repair: bool = True,
    record_out: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    force: bool = False,
    progress: Progress = silent,
    tell: Callable[[str], None] = lambda line: None,
) -> DepthRun:
    """Remove the blocks of the least scores and write the network without them.

    Args:
        network: Which network.
        images: Which images: the calibration images score the blocks, the test images measure.
        out: The checkpoint to write.
        count: How many blocks are removed, or
        macs: Down to which share of the multiply-adds.
        criterion: A name of ``infoprune.depth.all_block_criteria()``.
        repair: Whether batch norm is re-estimated on the calibration images.
        record_out: Also write the record as JSON.
        seed: Seed of the sample of calibration images.
        device: Device to compute on.
        force: Whether files that exist are replaced.
        progress: Called in every stage.
        tell: Receives what is done to the images.

    Raises:
        InputError: The network has too few blocks that can be removed, or as in ``prune``. Nothing is written then.

    Example:
        >>> import tempfile
        >>> out = Path(tempfile.mkdtemp()) / "small.safetensors"
        >>> digits = DataOptions("digits", calibration=50)
        >>> depth(NetworkOptions("digits"), digits, out, count=0, device="cpu").found.removed
        ()
    """
    watch = Stopwatch()
    with (
        outputs(out, record_out, inputs=(network.weights,), run="depth", force=force) as written,
        on_devices(device, 1, 1) as place,
    ):
        model = run_network.open_network(network, place.device)
        parts, images, calibration, test = run_images.parts_for(
            network, model, images, PLAIN, seed, CALIBRATION_CHOSEN, tell
        )
        run_images.check_labelled(parts.source)
        assert test is not None  # there are labels
        with watch.stage("score"):
            found = prune_blocks(model, calibration, count=count, macs=macs, criterion=criterion, progress=progress)
        if repair and found.removed:
            with watch.stage("repair"):
                better = reestimate(found.model, calibration)
                found = replace(found, model=carry_notes(better, found.model))
        with watch.stage("evaluate"):
            example = example_of(test, model)
            figures = {
                name: {**asdict(cost.count(one, example)), **quality_of(one, test, progress=progress)}
                for name, one in (("base", model), ("pruned", found.model))
            }
        settings = {**settings_of(network, images, model), "criterion": criterion, "count": count, "macs": macs,
                    "repair": "bn" if repair else None, "seed": seed}  # fmt: skip
        record = {**figures, "blocks": dict(found.scores), "removed": list(found.removed), "seconds": watch.seconds,
                  "settings": settings}  # fmt: skip
        checkpoint.save(found.model, written.staged(out), settings=settings, figures=figures)
        write_record(record, written, record_out)
        written.commit()
    return DepthRun(found, record)
