"""The command that removes whole blocks."""

from __future__ import annotations

from typing import Annotated

from infoprune.cli.from_dataclass import from_dataclasses
from infoprune.cli.options import Device, Force, JsonOut, Out, Quiet, Seed
from infoprune.declarations.option import Names, Option
from infoprune.experiment.options import DataOptions, NetworkOptions


def _criteria() -> list[str]:
    from infoprune.depth import all_block_criteria

    return [info.name for info in all_block_criteria()]


@from_dataclasses
def depth(
    images: DataOptions,
    network: NetworkOptions,
    out: Out,
    count: Annotated[int | None, Option("How many blocks to remove.", ge=0, unit="blocks")] = None,
    macs: Annotated[float | None, Option("Share of the MACs to keep.", gt=0, le=1)] = None,
    criterion: Annotated[
        str, Option("What scores the blocks.", names=Names("criterion of blocks", _criteria))
    ] = "divergence",
    no_repair: Annotated[bool, Option("Do not re-estimate batch norm.")] = False,
    seed: Seed = 0,
    device: Device = "auto",
    json_out: JsonOut = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Remove whole residual blocks and write the network without them.

    Blocks whose input has the shape of their output are found by running them; those of the least scores are removed.
    """
    from infoprune.cli.tables import blocks_table
    from infoprune.experiment.depth import depth as depth_of
    from infoprune.report.terminal import messages, results, shown_progress

    console = messages()
    with shown_progress(console, quiet=quiet) as progress:
        run = depth_of(
            network,
            images,
            out,
            count=count,
            macs=macs,
            criterion=criterion,
            repair=not no_repair,
            record_out=json_out,
            seed=seed,
            device=device,
            force=force,
            progress=progress,
            tell=lambda line: None if quiet else console.print(line, soft_wrap=True),
        )
    if not quiet:
        results().print(blocks_table(run.record))
