"""Pruning in rounds as a callback of a Trainer of Hugging Face Transformers."""

from __future__ import annotations

import importlib
import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn

from infoprune.callbacks.rounds import Following, PruningRounds, RoundImages
from infoprune.declarations.validation import read_object
from infoprune.errors import InputError
from infoprune.files import written_whole
from infoprune.iterative.iterate import OnRound
from infoprune.iterative.schedule import PruningSchedule

# In the folder of a checkpoint of the Trainer.
STATE, BEFORE = "pruning.json", "pruning-before.safetensors"
# Epochs are counted by a Trainer as real numbers, in steps.
_ROUNDING = 1e-6


def _base() -> Any:
    """Return the class of callbacks of Transformers; ``object`` without it."""
    with suppress(ImportError):
        return importlib.import_module("transformers.trainer_callback").TrainerCallback
    return object


class TransformersPruning(Following, _base()):  # type: ignore[misc]
    """Prunes a network in rounds while a ``Trainer`` of Transformers trains it.

    The network is cut at the beginning of an epoch, and the state of the Trainer's optimizer with it. Where the
    accuracy floor is hit, the last round is undone and the training stops. Every checkpoint of the Trainer gets a file
    with what has been cut; call ``restore`` before ``train(resume_from_checkpoint=...)``.

    Args:
        schedule: What is removed in each round, and after how many epochs; see
            :class:`infoprune.callbacks.PruningRounds`. The Trainer needs ``num_train_epochs`` of at least that many.
        images: What scores the filters and measures the network.
        network: Name of the part of the model that is pruned; by default the whole model.
        on_round: Called after every round with its figures and the number of the last round there will be at most.

    Example:
        >>> import torch
        >>> from infoprune.iterative.schedule import LayerPace, Pace
        >>> from infoprune.training.recipe import Recipe
        >>> schedule = PruningSchedule((LayerPace("*", Pace(plus=4), 8),), Recipe(epochs=1), criterion="l1")
        >>> pruning = TransformersPruning(schedule, RoundImages(torch.rand(16, 1, 8, 8)))
        >>> # transformers.Trainer(model, arguments, train_dataset=images, callbacks=[pruning]).train()
        >>> pruning.rounds
        ()
    """

    def __init__(
        self,
        schedule: PruningSchedule,
        images: RoundImages,
        *,
        network: str = "",
        on_round: OnRound | None = None,
    ) -> None:
        self.schedule = schedule
        self.images = images
        self.network = network
        self.on_round = on_round

    def restore(self, model: nn.Module, checkpoint: str | Path) -> None:
        """Give a model the layers that it had in a checkpoint, so that its weights can be loaded.

        Args:
            model: As it was before the first cut, or after any.
            checkpoint: Folder of the checkpoint.

        Raises:
            InputError: The folder holds no pruning of this schedule.
        """
        folder = Path(checkpoint)
        state = read_object(folder / STATE, "the state of the pruning")
        before = load_file(folder / BEFORE) if (folder / BEFORE).is_file() else {}
        self._begun(model).load_state_dict({**state, "before": before})

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Refuse what cannot work when the Trainer is made."""
        if args.world_size > 1 or args.n_gpu > 1:
            raise InputError(
                "this Trainer runs on several devices, whose copies of the network a callback cannot cut: run it in "
                "one process with one device, or use infoprune.iterate or LightningPruning"
            )
        if args.torch_compile:
            raise InputError("a compiled network cannot be cut: leave out torch_compile until the pruning has ended")
        if args.load_best_model_at_end:
            raise InputError(
                "the best checkpoint can be of an earlier round, with other layers: leave out load_best_model_at_end, "
                "and use restore for a checkpoint of your choice"
            )

    def on_train_begin(self, args: Any, state: Any, control: Any, *, model: nn.Module, **kwargs: Any) -> None:
        """Refuse a training that is shorter than the schedule."""
        work = self._begun(model)
        if state.num_train_epochs < work.epochs:
            raise InputError(
                f"the schedule takes {work.epochs} epochs: give num_train_epochs={work.epochs} or more, or the "
                "schedule fewer rounds"
            )

    def on_epoch_begin(
        self, args: Any, state: Any, control: Any, *, model: nn.Module, optimizer: Any, **kwargs: Any
    ) -> None:
        """Cut the network where a round begins."""
        self._begun(model).before_epoch(int((state.epoch or 0) + _ROUNDING), optimizer)

    def on_epoch_end(
        self, args: Any, state: Any, control: Any, *, model: nn.Module, optimizer: Any, **kwargs: Any
    ) -> None:
        """Measure the network where a round ends."""
        work = self._begun(model)
        work.after_epoch(math.ceil(state.epoch - _ROUNDING) - 1, optimizer)
        control.should_training_stop |= work.undone

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write what has been cut into the checkpoint."""
        if self._work is None or not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        found = self._work.state_dict()
        before = found.pop("before")
        if before:
            with written_whole(folder / BEFORE, force=True) as temporary:
                save_file({name: value.contiguous() for name, value in before.items()}, temporary)
        with written_whole(folder / STATE, force=True) as temporary:
            temporary.write_text(json.dumps(found, indent=1), encoding="utf-8")

    def _begun(self, model: nn.Module) -> PruningRounds:
        if self._work is None:
            network = model.get_submodule(self.network)
            self._work = PruningRounds(network, self.schedule, self.images, on_round=self.on_round)
        return self._work
