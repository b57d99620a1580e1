"""Whether what lies in the folder of a run is what a report can show: types, sizes, ranges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch
from torch import Tensor

from infoprune.declarations.validation import validated
from infoprune.errors import InputError
from infoprune.iterative.run_state import Round
from infoprune.measure.record import Figures
from infoprune.plan import Plan

# Values of the pictures of one layer, and of all images: beyond it a page could not be opened.
_LARGEST_PICTURE = 2**27


@dataclass(frozen=True)
class _LayerCost:
    macs: int
    macs_after: int


@dataclass(frozen=True)
class _Network:
    architecture: str | None = None


@dataclass(frozen=True)
class _Machine:
    device: str = ""
    processor: str = ""


@dataclass(frozen=True)
class _Settings:
    criterion: str | None = None
    network: _Network | None = None
    machine: _Machine | None = None


@dataclass(frozen=True)
class _Record:
    """The entries of a record that a report shows."""

    base: Figures
    pruned: Figures
    as_cut: Figures | None = None
    settings: _Settings = field(default_factory=_Settings)
    layers: dict[str, _LayerCost] = field(default_factory=dict)
    weight_bytes: dict[str, int] = field(default_factory=dict)
    architecture: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Exported:
    file: str
    bytes: int
    max_abs_difference: float
    largest_output: float
    images: int = 0
    sizes: Literal["any", "one"] = "one"
    outputs: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Export:
    latency_ms: dict[str, dict[str, float]]
    onnx: _Exported | None = None
    program: _Exported | None = None


def check_record(record: Mapping[str, Any], what: str) -> None:
    """Refuse a record that is not one of a pruning.

    Args:
        record: JSON values.
        what: The file, for the message.

    Raises:
        InputError: An entry that a report shows is missing, of another type or out of range.

    Example:
        >>> check_record({"plan": {}}, "record.json")
        Traceback (most recent call last):
            ...
        infoprune.errors.InputError: record.json is not the record of a pruning
    """
    if not isinstance(record.get("base"), dict) or not isinstance(record.get("pruned"), dict):
        raise InputError(f"{what} is not the record of a pruning: it has no figures of base and pruned")
    known = _chosen(_Record, record)
    if isinstance(known.get("settings"), dict):
        settings = _chosen(_Settings, known["settings"])
        for name, kind in (("network", _Network), ("machine", _Machine)):
            if isinstance(settings.get(name), dict):
                settings[name] = _chosen(kind, settings[name])
        known["settings"] = settings
    found = validated(_Record, known, what)
    for figures in (found.base, found.pruned):
        if figures.macs < 1 or figures.parameters < 1:
            raise InputError(f"{what} is not the record of a pruning: MACs and parameters must be at least 1")
        if figures.accuracy is not None and figures.images is None:
            raise InputError(f"{what} is not the record of a pruning: an accuracy needs its number of images")
    _check_rounds(record.get("rounds", []), what)


def check_export(record: Mapping[str, Any], what: str) -> None:
    """Refuse what is not the record of an export.

    Raises:
        InputError: An entry that a report shows is missing or of another type.

    Example:
        >>> check_export({}, "export.json")
        Traceback (most recent call last):
            ...
        infoprune.errors.InputError: export.json is not the record of an export
    """
    found = validated(_Export, _chosen(_Export, record), what)
    if any(record.get(kind, found) is None for kind in ("onnx", "program")):
        raise InputError(f"{what} is not the record of an export: a kind of file that was not written is left out")
    if "network" not in found.latency_ms:
        raise InputError(f"{what} is not the record of an export: its latency_ms has no 'network'")


def by_layer(tensors: Mapping[str, Tensor], separator: str) -> dict[str, dict[str, Tensor]]:
    """Return tensors named ``layer|name`` by layer and name.

    Example:
        >>> import torch
        >>> list(by_layer({"conv1|similarity": torch.eye(2)}, "|")["conv1"])
        ['similarity']
    """
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        layer, _, name = key.rpartition(separator)
        found.setdefault(layer, {})[name] = tensor
    return found


def check_evidence(evidence: Mapping[str, Mapping[str, Tensor]], plan: Plan, what: str) -> None:
    """Refuse tensors that do not fit the layers of the plan.

    Raises:
        InputError: A matrix is not ``(filters, filters)``, or a number is not one.

    Example:
        >>> import torch
        >>> from infoprune.plan import LayerDecision
        >>> plan = Plan({"conv1": LayerDecision("conv1", 3, (0,))})
        >>> check_evidence({"conv1": {"similarity": torch.eye(2)}}, plan, "evidence.safetensors")
        Traceback (most recent call last):
            ...
        infoprune.errors.InputError: a matrix is of another size
    """
    for layer, decision in plan.decisions.items():
        found = evidence.get(layer, {})
        similarity, counts = found.get("similarity"), found.get("candidates")
        if similarity is not None and similarity.shape != (decision.filters, decision.filters):
            raise InputError(
                f"{what}: the similarity of layer '{layer}' must be {decision.filters} x {decision.filters}"
            )
        for name in ("saturated_at", "saturation"):
            if name in found and (found[name].numel() != 1 or not torch.isfinite(found[name]).all()):
                raise InputError(f"{what}: '{name}' of layer '{layer}' must be one finite number")
        accuracies = found.get("candidate_accuracy", counts)
        if counts is not None and (counts.ndim != 1 or accuracies is None or accuracies.shape != counts.shape):
            raise InputError(f"{what}: layer '{layer}' must have one accuracy for each candidate")


def check_pictures(tensors: Mapping[str, Tensor], what: str) -> None:
    """Refuse pictures and maps that are not ``(images, C, H, W)`` of uint8.

    Raises:
        InputError: One is of another shape or type, empty, or too large.

    Example:
        >>> import torch
        >>> check_pictures({"images": torch.zeros(2, 1, 8, 8, dtype=torch.uint8)}, "pictures.safetensors")
    """
    for name, tensor in tensors.items():
        if tensor.ndim != 4 or tensor.dtype != torch.uint8 or not 0 < tensor.numel() <= _LARGEST_PICTURE:
            raise InputError(f"{what}: '{name}' must be (images, C, H, W) bytes, not {tuple(tensor.shape)}")


def _chosen(kind: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    return {one.name: values[one.name] for one in fields(kind) if one.name in values}


def _check_rounds(rounds: Any, what: str) -> None:
    for one in validated(list[dict[str, Any]], rounds, f"the rounds of {what}"):
        found = validated(Round, {"convolution_macs": 0, **one}, f"a round of {what}")
        if found.macs < 1 or found.parameters < 1:
            raise InputError(f"a round of {what} must have at least 1 MAC and 1 parameter")
