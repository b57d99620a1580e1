"""Where the figures of a training are shown while it runs: TensorBoard, Weights & Biases, any logger of Lightning."""

from __future__ import annotations

import importlib
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lightning_fabric.loggers.logger import Logger
from lightning_fabric.loggers.tensorboard import TensorBoardLogger

from infoprune.errors import InputError
from infoprune.runs.together import is_first_process
from infoprune.user_code import reason

FORM = "tensorboard:DIR or wandb:PROJECT"


class MetricsLogger(Protocol):
    """What takes figures: every logger of Lightning and of Lightning Fabric does.

    Example:
        >>> class Shown:
        ...     def log_metrics(self, metrics, step=None):
        ...         print(step, metrics)
        >>> note([Shown()], {"loss": 0.5}, 1)
        1 {'loss': 0.5}
    """

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Note figures by name, at a step."""


@dataclass(frozen=True)
class Later:
    """A logger whose steps begin later, for one of several trainings.

    Args:
        logger: Takes the figures.
        by: Added to every step.

    Example:
        >>> class Shown:
        ...     def log_metrics(self, metrics, step=None):
        ...         print(step, metrics)
        >>> Later(Shown(), by=10).log_metrics({"loss": 0.5}, 1)
        11 {'loss': 0.5}
    """

    logger: MetricsLogger
    by: int

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Note figures by name, at a step."""
        self.logger.log_metrics(metrics, None if step is None else step + self.by)


class _WandbLogger(Logger):
    """Weights & Biases, for a Fabric: one run of a project.

    Args:
        project: Name of the project.

    Raises:
        InputError: The package is absent, or the run cannot be begun.
    """

    def __init__(self, project: str) -> None:
        super().__init__()
        wandb = _needed("wandb", "wandb")
        try:
            self._run = wandb.init(project=project)
        except Exception as error:  # of the service, of the network, of the settings
            raise InputError(
                f"a run of Weights & Biases cannot be begun: {reason(error)}; log in by 'wandb login', or set "
                "WANDB_MODE=offline"
            ) from error
        # Steps are those of the training, not of the calls.
        self._run.define_metric("*", step_metric="epochs")

    @property
    def name(self) -> str | None:
        """Name of the project."""
        return str(self._run.project)

    @property
    def version(self) -> str | None:
        """Number of the run."""
        return str(self._run.id)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Note figures by name, at a step."""
        self._run.log({**metrics, **({} if step is None else {"epochs": step})})

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Note settings."""
        self._run.config.update(vars(params) if isinstance(params, Namespace) else params)

    def finalize(self, status: str) -> None:
        """End the run."""
        self._run.finish(exit_code=0 if status == "success" else 1)


def open_logger(where: str) -> Logger:
    """Return the logger that a text names.

    Args:
        where: ``"tensorboard:DIR"`` or ``"wandb:PROJECT"``.

    Raises:
        InputError: It names none, its package is absent, or it cannot write.

    Example:
        >>> open_logger("paper:notes")
        Traceback (most recent call last):
            ...
        infoprune.errors.InputError: figures are logged to tensorboard:DIR or wandb:PROJECT, not to 'paper:notes'
    """
    kind, _, place = where.partition(":")
    if kind not in ("tensorboard", "wandb") or not place:
        raise InputError(f"figures are logged to {FORM}, not to '{where}'")
    if kind == "wandb":
        return _WandbLogger(place)
    _needed("torch.utils.tensorboard", "tensorboard")
    try:
        Path(place).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"'{place}' cannot be written: {error.strerror or error}") from error
    # In the folder itself, so that a run that is resumed goes on there.
    return TensorBoardLogger(place, name="", version="")


@contextmanager
def logging_to(where: str | None) -> Iterator[tuple[Logger, ...]]:
    """Open a logger while the block runs, in the first process only.

    Args:
        where: As for ``open_logger``; ``None`` for none.

    Raises:
        InputError: As for ``open_logger``.

    Example:
        >>> with logging_to(None) as loggers:
        ...     loggers
        ()
    """
    if where is None or not is_first_process():
        yield ()
        return
    logger = open_logger(where)
    try:
        yield (logger,)
    except BaseException:
        logger.finalize("failed")
        raise
    logger.finalize("success")


def note(loggers: Sequence[MetricsLogger], metrics: dict[str, float], step: int) -> None:
    """Note figures with all loggers.

    Example:
        >>> note([], {"loss": 0.5}, 1)
    """
    for one in loggers:
        one.log_metrics(metrics, step)


def _needed(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"figures are logged there by the package '{package}': pip install {package}") from error
