"""Starts the processes of a command, or joins those that torchrun or SLURM started."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from infoprune.device import pick_device
from infoprune.errors import InputError
from infoprune.runs.processes import launched_processes_end_with_this_one
from infoprune.runs.together import together
from infoprune.runs.watch import watched_start

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from infoprune.training.recipe import Precision

Devices = int | Literal["auto"]


@dataclass(frozen=True)
class Place:
    """Where one process of a command works.

    Args:
        device: The name of its device, such as ``"cuda:1"``.
        fabric: The processes; ``None`` where there is one, and nothing asked for more.

    Example:
        >>> Place("cpu").fabric is None
        True
    """

    device: str
    fabric: Fabric | None = None


@contextmanager
def on_devices(
    device: str, devices: Devices = 1, nodes: int = 1, *, precision: Precision | None = None
) -> Iterator[Place]:
    """Run the block in one process for each device, all of which run the whole command together.

    Args:
        device: Kind of device, or its name where there is one.
        devices: Number of devices of this machine, ``"auto"`` for all.
        nodes: Number of machines. Each is started with the same command.
        precision: Of a training. With one, there is a Fabric in any case.

    Raises:
        InputError: There is no such device.

    Example:
        >>> with on_devices("cpu") as place:
        ...     place.device
        'cpu'
    """
    found = pick_device(device)
    devices, nodes = started_from_outside() or (devices, nodes)
    if devices == 1 and nodes == 1 and precision is None:
        yield Place(device)
        return
    from infoprune.training.train import make_fabric

    # Importing Lightning makes it report every start.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    kind = device.partition(":")[0]
    if ":" in device and devices != 1:
        raise InputError(f"--device {device} is one device: pass --device {kind} with --devices {devices}")
    with launched_processes_end_with_this_one(), ExitStack() as joined:
        fabric = make_fabric(accelerator=kind, devices=devices, nodes=nodes, precision=precision or "32-true")
        # Until all are connected, and watch one another.
        with watched_start(fabric):
            fabric.launch()
            joined.enter_context(together(fabric))
        yield Place(str(found) if fabric.world_size == 1 else str(fabric.device), fabric)


def started_from_outside() -> tuple[int, int] | None:
    """Return how many processes of a machine, and machines, torchrun or srun started; ``None`` without either.

    Example:
        >>> started_from_outside() is None
        True
    """
    known = os.environ
    if "TORCHELASTIC_RUN_ID" in known:
        return int(known["LOCAL_WORLD_SIZE"]), int(known.get("GROUP_WORLD_SIZE", "1"))
    if "SLURM_STEP_NUM_TASKS" in known and "SLURM_PROCID" in known:
        nodes = int(known.get("SLURM_STEP_NUM_NODES", "1"))
        return int(known["SLURM_STEP_NUM_TASKS"]) // nodes, nodes
    return None
