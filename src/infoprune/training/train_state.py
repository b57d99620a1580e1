"""The saved state of a training, from which it resumes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from infoprune.declarations.validation import check_regular, parsed_object, validated
from infoprune.errors import InputError
from infoprune.files import written_whole
from infoprune.network.deep_copy import deep_copy
from infoprune.network.fingerprint import fingerprint
from infoprune.network.memory_format import laid_out
from infoprune.runs.resuming import as_noted, check_same_run
from infoprune.runs.together import current
from infoprune.training.recipe import Epoch, Recipe


def epochs_of(path: Path) -> int | None:
    """Return the number of epochs of the training whose state a file holds, ``None`` where there is no such file.

    Raises:
        InputError: The file is no state of a training.

    Example:
        >>> epochs_of(Path("small.safetensors.resume")) is None
        True
    """
    if not path.exists():
        return None
    check_regular(path)
    try:
        with safe_open(path, "pt") as file:
            return int(parsed_object((file.metadata() or {})["run"], "its conditions")["epochs"])
    except _UNREADABLE as error:
        raise _no_state(path) from error


_UNREADABLE = (SafetensorError, OSError, KeyError, ValueError, TypeError, RecursionError)


def _no_state(path: Path) -> InputError:
    return InputError(f"'{path}' is not the state of a training: delete it to start from the beginning")


class TrainState:
    """The saved state of a training: weights, momentum, the best weights and the figures of all epochs so far.

    Example:
        >>> fabric = Fabric(accelerator="cpu", devices=1)
        >>> state = TrainState.start(nn.Linear(2, 1), fabric, Recipe(), torch.contiguous_format)
        >>> state.note(Epoch(0, loss=0.5, held_out=90.0, seconds=1.0))
        >>> state.best, sorted(state.weights())
        (0, ['bias', 'weight'])
    """

    def __init__(
        self,
        fabric: Fabric,
        model: nn.Module,
        optimizer: torch.optim.SGD,
        recipe: Recipe,
        layout: torch.memory_format,
    ) -> None:
        self.fabric = fabric
        self.recipe = recipe
        self.layout = layout
        self.model = model
        self.average = _average_of(self.plain_model(), recipe.average)
        self.optimizer = optimizer
        self.epochs: list[Epoch] = []
        self.best = -1
        self.best_weights: dict[str, Tensor] = {}
        self.run: dict[str, Any] = {}

    @classmethod
    def start(
        cls,
        model: nn.Module,
        fabric: Fabric,
        recipe: Recipe,
        layout: torch.memory_format,
        conditions: Mapping[str, Any] | None = None,
    ) -> TrainState:
        """Return the state before the first step.

        Args:
            model: The network to train; it is not changed.
            fabric: Devices and precision.
            recipe: How to train.
            layout: Memory format of the feature maps.
            conditions: What else the result depends on, by name, as JSON values.
        """
        trained = laid_out(deep_copy(model), layout)
        decayed = [p for p in trained.parameters() if p.ndim > 1 and p.requires_grad]
        others = [p for p in trained.parameters() if p.ndim <= 1 and p.requires_grad]
        optimizer = torch.optim.SGD(
            [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov and recipe.momentum > 0,
        )
        wrapped, optimizer = fabric.setup(trained, optimizer)
        state = cls(fabric, wrapped, optimizer, recipe, layout)
        state.best_weights = state.weights()
        shapes = [[name, list(value.shape)] for name, value in state.best_weights.items()]
        weights = {"network": shapes, "set of weights to start from": fingerprint(state.best_weights)}
        state.run = as_noted({**asdict(recipe), **(conditions or {}), **weights})
        return state

    def weights(self) -> dict[str, Tensor]:
        """Return copies of all weights, on the CPU."""
        return _copied(self.model)

    def plain_model(self) -> nn.Module:
        """Return the network without the wrapper of Fabric."""
        # Fabric wraps the network to set the precision.
        return cast(nn.Module, getattr(self.model, "module", self.model))

    def judged_model(self) -> nn.Module:
        """Return the network that is judged and kept: the running average, if the recipe has one."""
        return self.plain_model() if self.average is None else self.average.module

    def follow(self) -> None:
        """Let the running average follow the weights, after a step."""
        if self.average is not None:
            self.average.update_parameters(self.plain_model())

    def agree_on_buffers(self) -> None:
        """Copy the statistics of batch norm from the first process, whose batches they come from, to the others."""
        for model in dict.fromkeys((self.plain_model(), self.judged_model())):
            for buffer in model.buffers():
                buffer.copy_(current().agreed(buffer))

    def note(self, epoch: Epoch) -> None:
        """Add an epoch, and keep its weights if they are the best so far on held-out images."""
        self.epochs.append(epoch)
        best = max((e.held_out or 0.0 for e in self.epochs[:-1]), default=-1.0)
        if epoch.held_out is None or epoch.held_out >= best:
            self.best, self.best_weights = epoch.number, _copied(self.judged_model())

    def best_model(self, model: nn.Module) -> nn.Module:
        """Return a copy of a network with the best weights."""
        trained = deep_copy(model)
        trained.load_state_dict(self.best_weights)
        return trained

    def momenta(self) -> dict[str, Tensor]:
        """Return the optimiser's momentum by parameter."""
        buffers = self.optimizer.state
        found = {}
        for name, parameter in self.model.named_parameters():
            buffer = buffers.get(parameter, {}).get("momentum_buffer")
            if buffer is not None:
                found[name] = buffer.detach().cpu()
        return found

    def write(self, path: Path) -> None:
        """Write the state atomically."""
        parts = {"weights": self.weights(), "best": self.best_weights, "momentum": self.momenta()}
        if self.average is not None:
            parts["average"] = _copied(self.average)
        tensors = {f"{part}/{name}": t.contiguous() for part, named in parts.items() for name, t in named.items()}
        notes = {
            "run": json.dumps(self.run),
            "epochs": json.dumps([asdict(epoch) for epoch in self.epochs]),
            "best": str(self.best),
        }
        with written_whole(path, force=True) as temporary:
            save_file(tensors, temporary, metadata=notes)

    def read(self, path: Path) -> None:
        """Resume from a state.

        Raises:
            InputError: The file is the state of another training, or cannot be read.
        """
        check_regular(path)
        try:
            with safe_open(path, "pt") as file:
                notes = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            run = parsed_object(notes["run"], "its conditions")
            epochs = validated(list[Epoch], json.loads(notes["epochs"]), "its epochs")
            best = int(notes["best"])
        except _UNREADABLE as error:
            raise _no_state(path) from error
        check_same_run(path, run, self.run)
        parts: dict[str, dict[str, Tensor]] = {"weights": {}, "best": {}, "momentum": {}}
        for key, tensor in tensors.items():
            part, _, name = key.partition("/")
            parts.setdefault(part, {})[name] = tensor
        self._load(path, parts)
        self.epochs = epochs
        self.best, self.best_weights = best, parts["best"]

    def _load(self, path: Path, parts: dict[str, dict[str, Tensor]]) -> None:
        try:
            self.model.load_state_dict(parts["weights"])
            if self.average is not None:
                self.average.load_state_dict(parts.get("average", {}))
        except RuntimeError as error:
            raise InputError(
                f"'{path}' does not hold the weights of this network: delete it to start from the beginning"
            ) from error
        for name, parameter in self.model.named_parameters():
            if name in parts["momentum"]:
                momentum = torch.empty_like(parameter).copy_(parts["momentum"][name])
                self.optimizer.state[parameter]["momentum_buffer"] = momentum


def _average_of(model: nn.Module, decay: float) -> AveragedModel | None:
    if not decay:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)  # type: ignore[no-untyped-call]


def _copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
