"""Options of the commands themselves, that several of them share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from infoprune.declarations.option import Option

Checkpoint = Annotated[Path, Option("An infoprune checkpoint.", is_argument=True)]
Out = Annotated[Path, Option("The checkpoint to write.")]
Device = Annotated[str, Option("Device to compute on: auto, cpu, cuda, cuda:1, ...")]
Devices = Annotated[
    int | Literal["auto"],
    Option("Devices of each machine, with one process each, or auto for all; torchrun and srun set it.", ge=1),
]
Nodes = Annotated[int, Option("Machines; each is started with the same command.", ge=1)]
Seed = Annotated[int, Option("Seed of every random choice.", ge=0)]
Layers = Annotated[
    tuple[str, ...],
    Option(
        "Pattern of layers that may lose filters; repeatable.",
        default="all convolutions, and linear layers run at each position",
    ),
]
Skip = Annotated[tuple[str, ...], Option("Pattern of layers that may not; repeatable.", default="none")]
JsonOut = Annotated[Path | None, Option("Also write the record as JSON.", flag="--json")]
Force = Annotated[bool, Option("Replace files that exist.")]
Quiet = Annotated[bool, Option("No progress, no tables.")]
