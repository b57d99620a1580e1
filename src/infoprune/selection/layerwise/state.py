"""What was found so far of a long plan, kept beside its output so that nothing is computed twice: JSON, no pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from infoprune.errors import InputError
from infoprune.files import write_text
from infoprune.network.fingerprint import add_values, add_weights


@dataclass
class State:
    """Finished layers by key, in a file that is written anew after each.

    Args:
        path: The file; ``None`` keeps nothing.
        run: What the state is of, from ``fingerprint_of_run``.
    """

    path: Path | None
    run: str
    _found: dict[str, Any] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.path is not None and self.path.exists():
            self._found = _read(self.path, self.run)

    def get(self, key: str) -> dict[str, Any] | None:
        """Return what was noted under a key, ``None`` where nothing was."""
        return self._found.get(key)

    def put(self, key: str, values: Mapping[str, Any]) -> None:
        """Note JSON values under a key."""
        self._found[key] = dict(values)
        if self.path is not None:
            write_text(self.path, json.dumps({"run": self.run, "found": self._found}), force=True)

    def part(self, name: str) -> State:
        """Return a state of its own, beside this one, for a process of its own."""
        return State(None if self.path is None else self.path.with_name(f"{self.path.name}.{name}"), self.run)


def remove_state(path: Path | None) -> None:
    """Remove a state and its parts, where there are any."""
    if path is not None:
        for one in (path, *path.parent.glob(f"{path.name}.*")):
            one.unlink(missing_ok=True)


def fingerprint_of_run(settings: Mapping[str, Any], model: nn.Module, *batches: Iterable[Any]) -> str:
    """Return a digest of everything that a plan follows from.

    Args:
        settings: JSON values.
        model: Its weights count.
        *batches: Images and labels that count.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    add_weights(digest, model.state_dict())
    for some in batches:
        for batch in some:
            for tensor in batch:
                if isinstance(tensor, Tensor):
                    add_values(digest, tensor)
    return digest.hexdigest()


def to_json(tensor: Tensor) -> dict[str, Any]:
    """Return a tensor as JSON values that give it back exactly."""
    return {"dtype": str(tensor.dtype).removeprefix("torch."), "values": tensor.detach().cpu().tolist()}


def from_json(values: Mapping[str, Any]) -> Tensor:
    """Return the tensor of ``to_json``."""
    return torch.tensor(values["values"], dtype=getattr(torch, values["dtype"]))


def _read(path: Path, run: str) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        theirs, found = data["run"], data["found"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"'{path}' is not the state of a plan: delete it, or name another output") from error
    if theirs != run or not isinstance(found, dict):
        raise InputError(
            f"'{path}' is the state of another run, with other settings, weights or images: delete it, or name "
            "another output"
        )
    return found
