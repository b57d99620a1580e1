"""What is kept of a run, so that it can be looked at later from files alone: JSON and tensors, nothing unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from infoprune.criteria.base import Importance
from infoprune.declarations.validation import check_regular, read_object
from infoprune.errors import InputError
from infoprune.files import write_text, written_whole
from infoprune.measure.information_plane import PlanePoint, read_points, write_points
from infoprune.plan import Plan
from infoprune.report.checks import by_layer, check_evidence, check_export, check_pictures, check_record
from infoprune.runs.outputs import Outputs, outputs

RECORD, PLAN, EVIDENCE, PICTURES, EXPORT, PLANE = (
    "record.json",
    "plan.json",
    "evidence.safetensors",
    "pictures.safetensors",
    "export.json",
    "plane.csv",
)
# Between a layer and the name of a tensor in one file; names of modules cannot hold it.
_SEPARATOR = "|"


@dataclass(frozen=True)
class Pictures:
    """Small pictures of what the network saw.

    Args:
        images: ``(images, C, H, W)`` uint8, as they are before any normalisation.
        maps: By layer ``(images, filters, h, w)`` uint8, each filter from its least to its largest value.

    Example:
        >>> import torch
        >>> images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
        >>> Pictures(images, {"conv1": torch.zeros(2, 16, 8, 8, dtype=torch.uint8)}).images.shape
        torch.Size([2, 1, 8, 8])
    """

    images: Tensor
    maps: Mapping[str, Tensor]


@dataclass(frozen=True)
class Run:
    """One pruning, as it is kept.

    Args:
        record: The record of the command.
        plan: What stayed, and why.
        evidence: By layer, the tensors that the criterion computed.
        pictures: Feature maps of a few images, where they were taken.
        export: The record of ``infoprune export``, where one lies in the folder.
        name: What the run is called in tables.
        plane: What every layer knew while the network was trained or pruned, where that was recorded.

    Example:
        >>> from infoprune.plan import LayerDecision
        >>> Run({}, Plan({"conv1": LayerDecision("conv1", 4, (0, 2))}), name="l1").name
        'l1'
    """

    record: Mapping[str, Any]
    plan: Plan
    evidence: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    pictures: Pictures | None = None
    export: Mapping[str, Any] | None = None
    name: str = ""
    plane: tuple[PlanePoint, ...] = ()

    @property
    def settings(self) -> Mapping[str, Any]:
        """How the run was made; empty where the record does not say."""
        found: Mapping[str, Any] = self.record.get("settings", {})
        return found


def evidence_of(importances: Mapping[str, Importance]) -> dict[str, dict[str, Tensor]]:
    """Return by layer the tensors that a criterion gave as its reasons, on the CPU.

    Example:
        >>> import torch
        >>> found = Importance(torch.tensor([2.0, 1.0]), evidence={"similarity": torch.eye(2)})
        >>> list(evidence_of({"conv1": found})["conv1"])
        ['similarity']
    """
    return {
        layer: {name: tensor.detach().cpu() for name, tensor in found.evidence.items()}
        for layer, found in importances.items()
    }


def run_files(folder: Path) -> tuple[Path, ...]:
    """Return the files of a run in a folder; the record comes last, so that a folder with a record is whole.

    Example:
        >>> run_files(Path("runs/a"))[-1].name
        'record.json'
    """
    return tuple(folder / name for name in (EVIDENCE, PICTURES, PLANE, PLAN, RECORD))


def write_run(run: Run, folder: Path, *, force: bool = False) -> None:
    """Write a run into a folder, all of its files or none.

    Raises:
        InputError: A file exists and ``force`` is not set, or cannot be written.

    Example:
        >>> import tempfile, torch, infoprune
        >>> from infoprune.report.keep import kept_run
        >>> net, batches = infoprune.zoo.build("digits").eval(), [(torch.rand(8, 1, 8, 8), torch.arange(8))]
        >>> result = infoprune.prune(net, batches, criterion="l1", ratio=0.5, repair=None)
        >>> run = kept_run(net, result, result.record(), batches, name="l1")
        >>> folder = Path(tempfile.mkdtemp()) / "run"
        >>> write_run(run, folder)
        >>> (folder / "record.json").exists()
        True
    """
    with outputs(*run_files(folder), run="report", force=force) as written:
        stage_run(run, folder, written)
        written.commit()


def stage_run(run: Run, folder: Path, written: Outputs) -> None:
    """Write a run beside its places in a folder, as part of the outputs of a command.

    Example:
        >>> import tempfile, torch, infoprune
        >>> from infoprune.report.keep import kept_run
        >>> net, batches = infoprune.zoo.build("digits").eval(), [(torch.rand(8, 1, 8, 8), torch.arange(8))]
        >>> result = infoprune.prune(net, batches, criterion="l1", ratio=0.5, repair=None)
        >>> run = kept_run(net, result, result.record(), batches, name="l1")
        >>> from infoprune.runs.outputs import outputs
        >>> folder = Path(tempfile.mkdtemp())
        >>> with outputs(*run_files(folder), run="example") as written:
        ...     stage_run(run, folder, written)
        ...     written.commit()
        >>> (folder / "record.json").exists()
        True
    """
    tensors = {
        f"{layer}{_SEPARATOR}{name}": _stored(tensor)
        for layer, some in run.evidence.items()
        for name, tensor in some.items()
    }
    with written_whole(written.staged(folder / EVIDENCE)) as temporary:
        save_file(tensors, temporary)
    if run.pictures is not None:
        maps = {f"{layer}{_SEPARATOR}maps": maps for layer, maps in run.pictures.maps.items()}
        with written_whole(written.staged(folder / PICTURES)) as temporary:
            save_file({"images": run.pictures.images, **maps}, temporary)
    if run.plane:
        write_points(run.plane, written.staged(folder / PLANE))
    write_text(written.staged(folder / PLAN), run.plan.to_json() + "\n")
    write_text(written.staged(folder / RECORD), json.dumps(run.record, indent=1) + "\n")


def read_run(folder: Path) -> Run:
    """Read a run that ``infoprune prune --run`` wrote.

    Raises:
        InputError: The folder holds no whole run.

    Example:
        >>> import tempfile, torch, infoprune
        >>> from infoprune.report.keep import kept_run
        >>> net, batches = infoprune.zoo.build("digits").eval(), [(torch.rand(8, 1, 8, 8), torch.arange(8))]
        >>> result = infoprune.prune(net, batches, criterion="l1", ratio=0.5, repair=None)
        >>> run = kept_run(net, result, result.record(), batches, name="l1")
        >>> folder = Path(tempfile.mkdtemp()) / "run"
        >>> write_run(run, folder)
        >>> read_run(folder).plan == run.plan
        True
    """
    try:
        for name in (RECORD, PLAN):
            check_regular(folder / name)
    except InputError as error:
        raise InputError(f"'{folder}' holds no run: name a folder written by 'infoprune prune --run'") from error
    record = read_object(folder / RECORD, "the record")
    plan = Plan.from_dict(read_object(folder / PLAN, "the plan"))
    export = read_object(folder / EXPORT, "the record of an export") if (folder / EXPORT).is_file() else None
    plane = tuple(read_points(folder / PLANE)) if (folder / PLANE).is_file() else ()
    check_record(record, f"'{folder / RECORD}'")
    if export is not None:
        check_export(export, f"'{folder / EXPORT}'")
    evidence = by_layer(_tensors(folder / EVIDENCE), _SEPARATOR)
    check_evidence(evidence, plan, f"'{folder / EVIDENCE}'")
    pictures = _pictures(_tensors(folder / PICTURES), f"'{folder / PICTURES}'")
    return Run(record, plan, evidence, pictures, export, folder.resolve().name, plane)


def _pictures(tensors: dict[str, Tensor], what: str) -> Pictures | None:
    if "images" not in tensors:
        return None
    check_pictures(tensors, what)
    images = tensors.pop("images")
    return Pictures(images, {key.rpartition(_SEPARATOR)[0]: maps for key, maps in tensors.items()})


def _tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        return {}
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"'{path}' is not a whole safetensors file: {error}") from error


def _stored(tensor: Tensor) -> Tensor:
    # Figures need three digits, and the matrices of wide layers are what fills the disk.
    small = tensor.half() if tensor.ndim == 2 and tensor.is_floating_point() else tensor
    return small.contiguous().clone() if torch.isfinite(small).all() else tensor.contiguous().clone()
