"""The state from which the repair ``distil`` resumes, in a safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from infoprune.declarations.validation import check_regular, parsed_object, validated
from infoprune.errors import InputError
from infoprune.files import written_whole
from infoprune.network.fingerprint import fingerprint
from infoprune.repair.base import Pair
from infoprune.runs.resuming import as_noted, check_same_run
from infoprune.runs.together import current, is_first_process

_MARK = "state of the infoprune repair distil"
Parts = Mapping[str, Mapping[str, Tensor]]


class DistilState:
    """Start and progress of a distillation, in a file that is rewritten after every epoch.

    Args:
        pair: The networks and the images. The state lies beside the file ``pair.resume``; ``None`` saves nothing.
        settings: Further settings that the result depends on, as JSON values.

    Raises:
        InputError: The file is the state of another repair, or cannot be read.

    Example:
        >>> import infoprune, torch
        >>> _ = torch.manual_seed(0)
        >>> whole, images = infoprune.zoo.build("digits").eval(), torch.rand(20, 1, 8, 8)
        >>> plan = infoprune.plan(whole, [images], criterion="l1", macs=0.5)
        >>> pair = Pair.of(whole, plan, [images])
        >>> state = DistilState(pair, {"epochs": 1})
        >>> state.note_start(pair.small.state_dict(), seconds=0.5)
        >>> state.figures
        {'seconds before': 0.5}
    """

    def __init__(self, pair: Pair, settings: Mapping[str, Any]) -> None:
        self.path = _beside(pair.resume)
        self.start: dict[str, Tensor] | None = None
        self.parts: dict[str, dict[str, Tensor]] = {}
        self.figures: dict[str, float] = {}
        if self.path is None:
            return
        self.run = as_noted({**settings, **_conditions(pair)})
        processes = current()
        if processes.is_first and self.path.exists():
            self._read(self.path)
        self.start, self.parts, self.figures = processes.agreed((self.start, self.parts, self.figures))

    def note_start(self, weights: Mapping[str, Tensor], seconds: float) -> None:
        """Save the weights that the training starts from, and the seconds spent on them."""
        self.start = {name: value.detach().cpu().clone() for name, value in weights.items()}
        self.figures = {"seconds before": seconds}
        self._write()

    def note(self, parts: Parts, **figures: float) -> None:
        """Save tensors by part and name, and figures, after an epoch.

        Args:
            parts: For example the weights, the best weights and the moments of the optimiser.
            figures: For example the number of steps and the seconds spent; they are restored exactly.
        """
        if self.path is None:
            return
        self.parts = {
            part: {name: value.detach().cpu() for name, value in some.items()} for part, some in parts.items()
        }
        self.figures = {**self.figures, **figures}
        self._write()

    def _write(self) -> None:
        if self.path is None or not is_first_process():
            return
        parts = {**self.parts, "start": self.start or {}}
        tensors = {
            f"{part}/{name}": one.contiguous().clone() for part, some in parts.items() for name, one in some.items()
        }
        notes = {"what": _MARK, "run": json.dumps(self.run), "figures": json.dumps(self.figures)}
        with written_whole(self.path, force=True) as temporary:
            save_file(tensors, temporary, metadata=notes)

    def _read(self, path: Path) -> None:
        check_regular(path)
        notes = _notes(path)
        if notes.get("what") != _MARK:
            raise InputError(f"'{path}' is not the state of a repair: delete it, or name another output")
        refusal = f"'{path}' is not the whole state of a repair: delete it to start from the beginning"
        try:
            run, figures = (parsed_object(notes[name], name) for name in ("run", "figures"))
            figures = validated(dict[str, float], figures, "its figures")
        except (KeyError, ValueError, RecursionError) as error:
            raise InputError(refusal) from error
        check_same_run(path, run, self.run)
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118
                part, _, name = key.partition("/")
                self.parts.setdefault(part, {})[name] = file.get_tensor(key)
        if "start" not in self.parts or not {"seconds before"} <= figures.keys():
            raise InputError(refusal)
        self.start, self.figures = self.parts.pop("start"), figures


def remove_state(resume: Path | None) -> None:
    """Remove the state beside a file, if there is one.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "small.safetensors"
        >>> remove_state(file)
        >>> file.exists()
        False
    """
    path = _beside(resume)
    if is_first_process() and path is not None and path.is_file() and _notes(path).get("what") == _MARK:
        path.unlink()


def _beside(resume: Path | None) -> Path | None:
    return None if resume is None else resume.with_name(f"{resume.name}.distil")


def _notes(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError):
        return {}


def _conditions(pair: Pair) -> dict[str, Any]:
    sizes = [len(images) for images in pair.images()]
    return {
        "pruned network": _digest(pair.small),
        "original network": _digest(pair.original),
        "number of repair images": sum(sizes),
        "batch size": max(sizes),
        "set of repair images": fingerprint({f"{i}": images for i, images in enumerate(pair.images())}),
    }


def _digest(network: nn.Module) -> str:
    return fingerprint(network.state_dict())


def moments_of(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the tensors of an optimiser's state, by index of the parameter and name.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> optimiser = torch.optim.Adam(layer.parameters())
        >>> layer(torch.ones(1, 2)).sum().backward()
        >>> optimiser.step()
        >>> sorted(moments_of(optimiser))[:3]
        ['0/exp_avg', '0/exp_avg_sq', '0/step']
    """
    places = {
        weight: i for i, weight in enumerate(weight for some in optimiser.param_groups for weight in some["params"])
    }
    return {
        f"{places[weight]}/{name}": value
        for weight, values in optimiser.state.items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }


def restore_moments(optimiser: torch.optim.Optimizer, moments: Mapping[str, Tensor]) -> None:
    """Restore the tensors of ``moments_of``, in the memory format of their parameters.

    Example:
        >>> optimiser = torch.optim.Adam(nn.Linear(2, 1, bias=False).parameters())
        >>> restore_moments(optimiser, {"0/exp_avg": torch.ones(1, 2)})
        >>> moments_of(optimiser)["0/exp_avg"].tolist()
        [[1.0, 1.0]]
    """
    weights = [weight for some in optimiser.param_groups for weight in some["params"]]
    for key, value in moments.items():
        place, name = key.split("/")
        weight = weights[int(place)]
        # The number of steps is a scalar, not a moment of the weights.
        kept = value.clone() if value.ndim == 0 else torch.empty_like(weight).copy_(value)
        optimiser.state[weight][name] = kept
