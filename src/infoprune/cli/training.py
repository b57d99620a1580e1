"""The commands that train."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from infoprune.cli.from_dataclass import But, Defaults, Given, from_dataclasses
from infoprune.cli.options import Checkpoint, Device, Force, JsonOut, Out, Quiet
from infoprune.errors import InputError
from infoprune.experiment.options import DataOptions, NetworkOptions, TuneOptions
from infoprune.report.terminal import messages
from infoprune.training.recipe import FINE_TUNING

_LIKE_FINE_TUNING = Defaults(
    epochs=FINE_TUNING.epochs,
    learning_rate=FINE_TUNING.learning_rate,
    distillation=FINE_TUNING.distillation,
    attention=FINE_TUNING.attention,
    clip=FINE_TUNING.clip,
)
_UNTAUGHT = But("teacher", "distillation", "temperature", "attention")
_NO_TEACHER = (
    "No teacher: with --teacher FILE, the weights of the original network, its answers and its maps are learned too "
    "(1.1 points more on VGG-16 after as many epochs)."
)


@from_dataclasses
def train(
    images: Annotated[DataOptions, But("calibration")],
    out: Out,
    network: NetworkOptions,
    choice: Annotated[Given[TuneOptions], _UNTAUGHT, Defaults(epochs=30, learning_rate=0.1)],
    device: Device = "auto",
    json_out: JsonOut = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Train a network, from fresh or existing weights.

    The same command resumes after an interruption.
    """
    _train(network, images, _chosen(choice), out, device, json_out, force=force, quiet=quiet)


@from_dataclasses
def tune(
    checkpoint: Checkpoint,
    images: Annotated[DataOptions, But("calibration")],
    out: Out,
    choice: Annotated[Given[TuneOptions], _LIKE_FINE_TUNING],
    network: Annotated[NetworkOptions, But("weights")],
    device: Device = "auto",
    json_out: JsonOut = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Fine-tune a pruned network, optionally with distillation from the original.

    The same command resumes after an interruption.
    """
    no_teacher = {} if "teacher" in choice.given else {"distillation": 0.0, "attention": 0.0}
    if no_teacher and not quiet:
        messages().print(_NO_TEACHER, soft_wrap=True)
    whole = replace(network, weights=checkpoint)
    how = _chosen(choice, **no_teacher)
    _train(whole, images, how, out, device, json_out, fine_tuning=True, force=force, quiet=quiet)


def _chosen(choice: Given[TuneOptions], **more: Any) -> TuneOptions:
    if {"epochs", "minutes"} <= choice.given.keys():
        raise InputError("--epochs and --minutes both say how long the training takes: pass one of them")
    return choice.build(**more)


def _train(
    network: NetworkOptions,
    images: DataOptions,
    choice: TuneOptions,
    out: Path,
    device: str,
    json_out: Path | None,
    *,
    fine_tuning: bool = False,
    force: bool,
    quiet: bool,
) -> None:
    from infoprune.cli.tables import figures_table
    from infoprune.experiment.train import train as train_network
    from infoprune.report.terminal import results, shown_progress

    console = messages()
    with shown_progress(console, quiet=quiet) as progress:
        record = train_network(
            network,
            images,
            choice,
            out=out,
            record_out=json_out,
            fine_tuning=fine_tuning,
            device=device,
            force=force,
            progress=progress,
            tell=lambda line: None if quiet else console.print(line, soft_wrap=True),
        )
    if not quiet:
        results().print(figures_table(record["figures"], str(out)))
