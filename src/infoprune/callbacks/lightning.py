"""Pruning in rounds as a callback of a Lightning Trainer."""

from __future__ import annotations

import gc
import importlib
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import SimpleNamespace
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from infoprune.callbacks.rounds import Following, PruningRounds, RoundImages
from infoprune.errors import InputError
from infoprune.iterative.iterate import OnRound
from infoprune.iterative.run_state import Round
from infoprune.iterative.schedule import PruningSchedule
from infoprune.network.layers import is_convolution
from infoprune.runs.together import Processes, together


def _base() -> Any:
    """Return Lightning's class of callbacks, of the package that is imported already; ``object`` without either."""
    for name in sorted(("lightning.pytorch", "pytorch_lightning"), key=lambda name: name not in sys.modules):
        with suppress(ImportError):
            return importlib.import_module(f"{name}.callbacks").Callback
    return object


# Whose trainers can be cut: one process, or several that have the whole network each.
_WHOLE = {"SingleDeviceStrategy", "DDPStrategy"}
_SHARDED = {"DeepSpeedStrategy", "FSDPStrategy"}
# These hold copies of the weights, of the sizes before a cut.
_COPIES = {"WeightAveraging", "StochasticWeightAveraging"}


class LightningPruning(Following, _base()):  # type: ignore[misc]
    """Prunes a network in rounds while a Lightning ``Trainer`` trains it.

    The network is cut at the beginning of an epoch, and the states of the Trainer's optimizers with it. A checkpoint of
    the Trainer holds what has been cut: ``fit(ckpt_path=...)`` and ``test(ckpt_path=...)`` give the network the layers
    that it had. Where the accuracy floor is hit, the last round is undone and the training stops. The figures of every
    round go to the Trainer's loggers. With ``strategy="ddp"`` the processes share the images that score and measure.

    Args:
        schedule: What is removed in each round, and after how many epochs; see
            :class:`infoprune.callbacks.PruningRounds`. The Trainer needs ``max_epochs`` of at least that many.
        images: What scores the filters and measures the network.
        network: Name of the attribute of the module that is the network; by default the only one with convolutions.
        on_round: Called after every round with its figures and the number of the last round there will be at most.

    Example:
        >>> import torch
        >>> from infoprune.iterative.schedule import LayerPace, Pace
        >>> from infoprune.training.recipe import Recipe
        >>> layers = (LayerPace("features.0", Pace(plus=4), 8),)
        >>> schedule = PruningSchedule(layers, Recipe(epochs=1), criterion="l1")
        >>> pruning = LightningPruning(schedule, RoundImages(torch.rand(16, 1, 8, 8)))
        >>> # lightning.Trainer(max_epochs=2, callbacks=[pruning]).fit(module, loader)
        >>> pruning.rounds
        ()
    """

    def __init__(
        self,
        schedule: PruningSchedule,
        images: RoundImages,
        *,
        network: str | None = None,
        on_round: OnRound | None = None,
    ) -> None:
        super().__init__()
        self.schedule = schedule
        self.images = images
        self.network = network
        self.on_round = on_round
        self._tell: Callable[[Round], None] = lambda one: None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Let the module take the layers of a checkpoint before its weights."""
        loaded = pl_module.on_load_checkpoint

        def on_load_checkpoint(checkpoint: Mapping[str, Any]) -> None:
            state = checkpoint.get("callbacks", {}).get(self.state_key)
            if state:
                self._begun(pl_module).load_state_dict(state)
            loaded(checkpoint)

        # The weights are loaded after this hook of the module, and before those of callbacks.
        pl_module.on_load_checkpoint = on_load_checkpoint

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Leave the module as it was."""
        vars(pl_module).pop("on_load_checkpoint", None)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Refuse what cannot work before anything is trained."""
        _check_processes(trainer.strategy)
        for one in trainer.callbacks:
            if _COPIES & _kinds(one):
                raise InputError(f"{type(one).__name__} keeps a copy of the weights, which is not cut: leave it out")
        work, most = self._begun(pl_module), trainer.max_epochs
        if most is not None and 0 <= most < work.epochs:
            raise InputError(
                f"the schedule takes {work.epochs} epochs: give the Trainer max_epochs={work.epochs} or more, or the "
                "schedule fewer rounds"
            )
        self._tell = lambda one: _log(trainer, one)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Cut the network where a round begins."""
        work, number = self._begun(pl_module), trainer.current_epoch
        if work.begins_with(number):
            with _alone(trainer, work.network):
                work.before_epoch(number, *trainer.optimizers)
        self._stop(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Measure the network where a round ends."""
        work, number = self._begun(pl_module), trainer.current_epoch
        if work.ends_with(number):
            with _alone(trainer, work.network):
                work.after_epoch(number, *trainer.optimizers)
        self._stop(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint of the Trainer holds of the pruning."""
        return {} if self._work is None else self._work.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing: the state is read before the weights, see ``setup``."""

    def _begun(self, pl_module: nn.Module) -> PruningRounds:
        if self._work is None:
            network = _network_of(pl_module, self.network)
            self._work = PruningRounds(network, self.schedule, self.images, on_round=self._note)
        return self._work

    def _note(self, one: Round, last: int) -> None:
        self._tell(one)
        if self.on_round is not None:
            self.on_round(one, last)

    def _stop(self, trainer: Any) -> None:
        if self._work is not None and self._work.undone:
            trainer.should_stop = True


def _kinds(thing: Any) -> set[str]:
    return {kind.__name__ for kind in type(thing).__mro__}


def _check_processes(strategy: Any) -> None:
    if _SHARDED & _kinds(strategy) or not _WHOLE & _kinds(strategy):
        raise InputError(
            f"{type(strategy).__name__} does not keep the whole network in every process, so that it cannot be cut: "
            "use one device, or strategy='ddp'"
        )
    if type(strategy.launcher).__name__ == "_MultiProcessingLauncher":
        raise InputError(
            "processes that are forked or spawned cannot return a network of another size: use strategy='ddp', which "
            "starts the script in every process"
        )


def _network_of(module: nn.Module, name: str | None) -> nn.Module:
    children = {key: one for key, one in module.named_children() if any(map(is_convolution, one.modules()))}
    if name is None and len(children) != 1:
        raise InputError(
            "the module has no part with convolutions: make the network an attribute of it"
            if not children
            else f"the module has several networks, {', '.join(children)}: name the one to prune by network="
        )
    if name is None:
        return next(iter(children.values()))
    try:
        return module.get_submodule(name)
    except AttributeError as error:
        raise InputError(f"the module has no network '{name}': it has {', '.join(children) or 'none'}") from error


def _log(trainer: Any, one: Round) -> None:
    for logger in trainer.loggers:
        logger.log_metrics(one.metrics(), step=trainer.global_step)


@contextmanager
def _alone(trainer: Any, network: nn.Module) -> Iterator[None]:
    """Take the network out of DDP while it is cut, and let the processes decide together."""
    strategy = trainer.strategy
    is_wrapped = isinstance(strategy.model, DistributedDataParallel)
    if is_wrapped:
        # Its buckets have the sizes of the gradients before the cut; they are let go first.
        strategy.model = strategy.lightning_module
        gc.collect()
    python = random.getstate()
    joined = SimpleNamespace(
        world_size=trainer.world_size, global_rank=trainer.global_rank, device=strategy.root_device
    )
    with together(joined) as processes:  # type: ignore[arg-type]
        _agree(network, processes)
        yield
    random.setstate(python)
    if is_wrapped:
        strategy.configure_ddp()


def _agree(network: nn.Module, processes: Processes) -> None:
    """Copy the statistics of batch norm from the first process, whose batches they come from, to the others."""
    for buffer in network.buffers() if processes.several else ():
        buffer.copy_(processes.agreed(buffer))
