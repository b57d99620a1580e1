"""What was found so far of a long plan, kept beside its output so that nothing is computed twice: JSON, no pickle."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from infoprune.data.batches import Batches, parsed
from infoprune.declarations.validation import check_regular
from infoprune.errors import InputError
from infoprune.files import write_text
from infoprune.network.fingerprint import add_values, fingerprint
from infoprune.network.origin import origin_of
from infoprune.runs.resuming import as_noted, check_same_run
from infoprune.runs.together import current, is_first_process

_MARK = "state of an infoprune plan"
_PARTS = re.compile(r"(\.sample-\d+)?(\.forward|\.backward)?")


@dataclass
class State:
    """Finished layers by key, in a file that is written again after each.

    Args:
        path: The file; ``None`` keeps nothing.
        run: What the state is of, from ``conditions_of``.

    Example:
        >>> state = State(None, {"seed": 0})
        >>> state.put("layer/conv1", {"kept": [0, 2]})
        >>> state.get("layer/conv1")
        {'kept': [0, 2]}
    """

    path: Path | None
    run: Mapping[str, Any]
    _found: dict[str, Any] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.run = as_noted(self.run)
        processes = current()
        if processes.is_first and self.path is not None and self.path.exists():
            self._found = _read(self.path, self.run)
        self._found = processes.agreed(self._found)

    def get(self, key: str) -> dict[str, Any] | None:
        """Return what was noted under a key, ``None`` where nothing was."""
        return self._found.get(key)

    def put(self, key: str, values: Mapping[str, Any]) -> None:
        """Note JSON values under a key."""
        self._found[key] = dict(values)
        if self.path is not None and is_first_process():
            write_text(self.path, json.dumps({"what": _MARK, "run": self.run, "found": self._found}), force=True)

    def part(self, name: str) -> State:
        """Return a state of its own, beside this one, for a process of its own."""
        return State(None if self.path is None else self.path.with_name(f"{self.path.name}.{name}"), self.run)


def state_of_sample(path: Path | None, number: int) -> Path | None:
    """Return where the state of the plan from another sample of images is kept, beside that of the first plan.

    Example:
        >>> state_of_sample(Path("small.state"), 2).name
        'small.state.sample-2'
    """
    return None if path is None else path.with_name(f"{path.name}.sample-{number}")


def remove_state(path: Path | None) -> None:
    """Remove a state and its parts, where there are any. A file that is no state of a plan is left alone.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "small"
        >>> _ = file.write_text("somebody's own file")
        >>> remove_state(file)
        >>> file.exists()
        True
    """
    for file in () if path is None or not is_first_process() else list(_files(path)):
        if _is_state(file):
            file.unlink(missing_ok=True)


def _files(path: Path) -> Iterator[Path]:
    for file in path.parent.iterdir() if path.parent.is_dir() else ():
        if file.name.startswith(path.name) and _PARTS.fullmatch(file.name[len(path.name) :]):
            yield file


def _is_state(file: Path) -> bool:
    start = json.dumps({"what": _MARK})[:-1].encode()
    try:
        with file.open("rb") as opened:
            return opened.read(len(start)) == start
    except OSError:
        return False


def conditions_of(settings: Mapping[str, Any], model: nn.Module, **batches: Batches) -> dict[str, Any]:
    """Return everything that a plan follows from, by name.

    Args:
        settings: JSON values.
        model: Its weights count, and what it expects of its images where that is noted on it.
        **batches: Images and labels that count, by what they are for.

    Example:
        >>> import torch
        >>> found = conditions_of({"seed": 0}, nn.Linear(2, 2), calibration=[torch.rand(4, 2)])
        >>> "network" in found
        True
    """
    origin = origin_of(model)
    known = None if origin is None else origin.preprocessing
    found = {**settings, "network": fingerprint(model.state_dict())}
    found["preprocessing"] = {} if known is None else known.to_dict()
    for name, some in batches.items():
        sizes, digest = _digest(some)
        found[f"batch size of the {name} images"] = sizes
        found[f"set of {name} images"] = digest
    return found


def _digest(batches: Batches) -> tuple[int, str]:
    digest, largest = hashlib.sha256(), 0
    for batch in parsed(batches):
        largest = max(largest, len(batch))
        add_values(digest, batch.images)
        if isinstance(batch.labels, Tensor):
            add_values(digest, batch.labels)
        elif batch.labels is not None:
            digest.update(repr(batch.labels).encode())
    return largest, digest.hexdigest()


def to_json(tensor: Tensor) -> dict[str, Any]:
    """Return a tensor as JSON values that give it back exactly.

    Example:
        >>> to_json(torch.tensor([1.0, 2.0]))
        {'dtype': 'float32', 'values': [1.0, 2.0]}
    """
    return {"dtype": str(tensor.dtype).removeprefix("torch."), "values": tensor.detach().cpu().tolist()}


def from_json(values: Mapping[str, Any]) -> Tensor:
    """Return the tensor of ``to_json``.

    Example:
        >>> from_json({"dtype": "float32", "values": [1.0, 2.0]})
        tensor([1., 2.])
    """
    return torch.tensor(values["values"], dtype=getattr(torch, values["dtype"]))


def _read(path: Path, run: Mapping[str, Any]) -> dict[str, Any]:
    check_regular(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        theirs, found = data["run"], data["found"]
        right = data["what"] == _MARK and isinstance(found, dict)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        right = False
    if not right:
        raise InputError(f"'{path}' is not the state of a plan: delete it, or name another file to resume from")
    check_same_run(path, theirs, run)
    values: dict[str, Any] = found
    return values
