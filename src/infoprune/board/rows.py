"""The cells of a board and what was measured in each, with their form as JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import torch

from infoprune.criteria.base import Importance
from infoprune.declarations.validation import validated


class Cell(NamedTuple):
    """What identifies a row.

    Example:
        >>> Cell("l1", 0, "uniform", 0.5, "bn").budget
        0.5
    """

    criterion: str
    seed: int
    sharing: str
    budget: float
    repair: str


@dataclass(frozen=True)
class Row:
    """One cell of a board.

    Args:
        criterion: What scored the filters.
        seed: Which sample of calibration images; also the seed of a criterion that draws.
        sharing: ``"uniform"`` or ``"global"``.
        budget: Share of the MACs to keep.
        repair: The repair, ``"none"`` for the network as cut.
        accuracy: Top-1 on the test images, percent.
        tuned: The same after fine-tuning, where it was asked for.
        loss: Mean cross entropy, nats.
        macs: Multiply-adds for one image.
        parameters: Number of parameters.
        latency_ms: Median milliseconds of one image.
        dead_filters: Kept filters that are constant on all calibration images.
        repair_seconds: Wall time of the repair.
        reason: Why nothing was measured; empty where it was.

    Example:
        >>> Row("l1", 0, "uniform", 0.5, "bn", accuracy=91.0).cell.criterion
        'l1'
    """

    criterion: str
    seed: int
    sharing: str
    budget: float
    repair: str
    accuracy: float | None = None
    tuned: float | None = None
    loss: float | None = None
    macs: int | None = None
    parameters: int | None = None
    latency_ms: float | None = None
    dead_filters: int | None = None
    repair_seconds: float | None = None
    reason: str = ""

    @property
    def cell(self) -> Cell:
        """What identifies it."""
        return Cell(self.criterion, self.seed, self.sharing, self.budget, self.repair)


@dataclass(frozen=True)
class Scored:
    """What one criterion made of one sample of images, and what that took.

    Args:
        criterion: The criterion.
        seed: Which sample.
        importances: Its answer by layer; empty where it could not run.
        seconds: Wall time.
        passes: Processor time over that of one forward pass of the network over the same images.
        memory_mib: Peak of memory above what was in use before, where the system reports it.
        reason: Why it could not run; empty where it could.

    Example:
        >>> Scored("needs-labels", 0, reason="the images have no labels").importances
        {}
    """

    criterion: str
    seed: int
    importances: Mapping[str, Importance] = field(default_factory=dict)
    seconds: float = 0.0
    passes: float = 0.0
    memory_mib: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Reference:
    """The network before pruning.

    Args:
        accuracy: Top-1 on the test images, percent.
        loss: Mean cross entropy, nats.
        images: Number of test images.
        macs: Multiply-adds for one image.
        parameters: Number of parameters.
        latency_ms: Median milliseconds of one image.
        coupled: By layer that names a group, how many layers share its filters.

    Example:
        >>> Reference(93.4, 0.3, 2000, 125_000_000, 850_000, 9.1, {"conv1": 10}).coupled["conv1"]
        10
    """

    accuracy: float
    loss: float
    images: int
    macs: int
    parameters: int
    latency_ms: float
    coupled: Mapping[str, int]


@dataclass(frozen=True)
class Board:
    """All rows of a board.

    Args:
        base: The network before pruning.
        scored: What every criterion made of every sample.
        rows: One for each cell.

    Example:
        >>> base = Reference(93.4, 0.3, 2000, 125_000_000, 850_000, 9.1, {})
        >>> Board(base, (), (Row("l1", 0, "uniform", 0.5, "none", accuracy=55.0),)).rows[0].accuracy
        55.0
    """

    base: Reference
    scored: tuple[Scored, ...]
    rows: tuple[Row, ...]

    @property
    def failures(self) -> dict[str, str]:
        """Why a criterion could not run, by criterion."""
        named = [(row.criterion, row.reason) for row in self.rows] + [
            (one.criterion, one.reason) for one in self.scored
        ]
        return {criterion: reason for criterion, reason in sorted(named) if reason}


def to_json(one: Row | Scored | Reference) -> dict[str, Any]:
    """Return a record of a board as JSON values, from which :func:`from_json` makes it again.

    Example:
        >>> row = Row("l1", 0, "uniform", 0.5, "bn", accuracy=91.0)
        >>> from_json(to_json(row)) == row
        True
    """
    if isinstance(one, Scored):
        plain = {
            name: getattr(one, name) for name in ("criterion", "seed", "seconds", "passes", "memory_mib", "reason")
        }
        return {"kind": "scored", **plain, "layers": {name: _plain(imp) for name, imp in one.importances.items()}}
    return {"kind": "row" if isinstance(one, Row) else "base", **asdict(one)}


def from_json(values: Any) -> Row | Scored | Reference:
    """Return the record that JSON values stand for.

    Raises:
        InputError: They are no record of a board.

    Example:
        >>> row = Row("l1", 0, "uniform", 0.5, "bn", accuracy=91.0)
        >>> from_json(to_json(row)) == row
        True
    """
    found = validated(dict[str, Any], values, "the record of a board")
    kind = found.pop("kind", None)
    if kind == "scored":
        return validated(_ScoredLine, found, "the scores of a board").scored()
    if kind == "base":
        return validated(Reference, found, "the first record of a board")
    return validated(Row, found, "the row of a board")


@dataclass(frozen=True)
class _Layer:
    scores: list[float]
    out_by: list[float]
    order: list[int]
    comparable: bool = False

    def importance(self) -> Importance:
        scores, out_by = (torch.tensor(some, dtype=torch.float64) for some in (self.scores, self.out_by))
        return Importance(scores, tuple(self.order), comparable=self.comparable, rounding=out_by)


@dataclass(frozen=True)
class _ScoredLine:
    """``Scored`` as JSON values."""

    criterion: str
    seed: int
    seconds: float
    passes: float
    memory_mib: float | None
    reason: str
    layers: dict[str, _Layer]

    def scored(self) -> Scored:
        importances = {name: layer.importance() for name, layer in self.layers.items()}
        return Scored(self.criterion, self.seed, importances, self.seconds, self.passes, self.memory_mib, self.reason)


def _plain(importance: Importance) -> dict[str, Any]:
    return {
        "scores": importance.scores.detach().cpu().double().tolist(),
        "out_by": importance.out_by.tolist(),
        "order": list(importance.order),
        "comparable": importance.comparable,
    }
