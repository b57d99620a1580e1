"""What a board compares: criteria, repairs, budgets, ways to share them out, and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Annotated

from infoprune.board.rows import Cell
from infoprune.declarations.option import Option
from infoprune.declarations.option_values import check_fields
from infoprune.errors import InputError, unknown

# Without these two nothing can be said of a criterion.
BASELINES = ("random", "l1")
ALL = "all"
# Other names of criteria that have one already: the same column twice would move every rank.
ALIASES = {"qsfm": "qsfm-ssim"}
AS_CUT = "none"
UNIFORM, GLOBAL = "uniform", "global"


@dataclass(frozen=True)
class BoardOptions:
    """What a board compares.

    Words may be joined with commas. The baselines ``random`` and ``l1`` are always added, and so is the network as cut
    (the repair ``none``).

    Example:
        >>> BoardOptions(criteria=("cmi,hrel",), repairs=("bn",)).criteria
        ('random', 'l1', 'cmi', 'hrel')
        >>> BoardOptions(budgets=(0.5,), sharing=("evenly",))
        Traceback (most recent call last):
        ...
        infoprune.errors.InputError: unknown sharing 'evenly': choose from uniform, global
    """

    criteria: Annotated[
        tuple[str, ...],
        Option("Criteria with commas between them, or all; the baselines random and l1 are always added."),
    ] = (ALL,)
    repairs: Annotated[
        tuple[str, ...], Option("Repairs with commas between them; none, the network as cut, is always added.")
    ] = (AS_CUT, "bn", "least-squares")
    budgets: Annotated[tuple[float, ...], Option("Shares of the MACs to keep.", gt=0, lt=1)] = (0.7, 0.5, 0.3)
    sharing: Annotated[
        tuple[str, ...],
        Option("How a budget is shared out: uniform removes the same share of filters from every layer, global follows "
               "one ranking over all layers; both with a comma between them."),
    ] = (UNIFORM, GLOBAL)  # fmt: skip
    seeds: Annotated[int, Option("Samples of calibration images, and draws of criteria that draw.", ge=1)] = 3
    layers: Annotated[
        tuple[str, ...],
        Option(
            "Pattern of layers that may lose filters; repeatable.",
            default="all convolutions, and linear layers run at each position",
        ),
    ] = ()
    skip: Annotated[tuple[str, ...], Option("Pattern of layers that may not; repeatable.", default="none")] = ()
    fine_tune_epochs: Annotated[
        int,
        Option("Epochs of fine-tuning after every repair, with the original as teacher; 0 for no fine-tuning.", ge=0,
               unit="epochs"),
    ] = 0  # fmt: skip
    fine_tune_images: Annotated[
        int | None, Option("Training images of an epoch of the fine-tuning.", ge=1, default="all")
    ] = None
    fine_tune_rate: Annotated[
        float, Option("Largest learning rate of the fine-tuning.", gt=0, flag="--fine-tune-lr")
    ] = 0.01
    bf16: Annotated[
        bool,
        Option("Measure accuracy in bfloat16, which is faster where the processor multiplies it; a few images in ten "
               "thousand are classified differently."),
    ] = False  # fmt: skip

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("criteria", "repairs", "sharing"):
            object.__setattr__(self, name, _words(getattr(self, name)))
        object.__setattr__(self, "criteria", _criteria(self.criteria))
        object.__setattr__(self, "repairs", _repairs(self.repairs))
        object.__setattr__(self, "budgets", tuple(sorted(set(self.budgets), reverse=True)))
        for word in self.sharing:
            if word not in (UNIFORM, GLOBAL):
                raise unknown("sharing", word, (UNIFORM, GLOBAL))
        for name in ("budgets", "sharing"):
            if not getattr(self, name):
                raise InputError(f"{name} is empty: name one or more")

    def units(self) -> list[tuple[str, int]]:
        """Return every criterion with every seed, in the order in which they are measured."""
        return [(criterion, seed) for seed in range(self.seeds) for criterion in self.criteria]

    def cells(self, criterion: str, seed: int) -> list[Cell]:
        """Return the cells of one criterion and seed."""
        return [
            Cell(criterion, seed, sharing, budget, repair)
            for sharing, budget, repair in product(self.sharing, self.budgets, self.repairs)
        ]


def _words(given: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word.strip() for one in given for word in one.split(",") if word.strip()))


def _criteria(words: Sequence[str]) -> tuple[str, ...]:
    from infoprune.criteria import all_criteria, resolve

    known = [info.name for info in all_criteria() if info.name not in ALIASES] if ALL in words else []
    found = tuple(dict.fromkeys((*BASELINES, *known, *(word for word in words if word != ALL))))
    for word in found:
        resolve(word)
    return found


def _repairs(words: Sequence[str]) -> tuple[str, ...]:
    from infoprune.repair import all_repairs

    known = [info.name for info in all_repairs()]
    for word in words:
        if word != AS_CUT and word not in known:
            raise unknown("repair", word, (AS_CUT, *known))
    return tuple(dict.fromkeys((AS_CUT, *words)))
