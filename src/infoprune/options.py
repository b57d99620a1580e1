"""What is removed and by what rule, as values: the words of the command line and of ``infoprune.prune``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from infoprune.declarations.option import Names, Option
from infoprune.declarations.option_values import assembled, check_fields, words_of
from infoprune.errors import InputError, unknown
from infoprune.network.taps import Tap
from infoprune.plan import Budget

if TYPE_CHECKING:
    from infoprune.cutoff import Limits

Keep = Mapping[str, int | Sequence[int]]
Conditioning: TypeAlias = Literal["none", "compact", "full", "all"]
Direction: TypeAlias = Literal["forward", "backward", "both"]
Effort: TypeAlias = Literal["quick", "normal", "thorough"]

# The repair that is chosen for the network: the one that comes nearest to the original on held-out images.
AUTO = "auto"


def _rules() -> list[str]:
    from infoprune.cutoff import all_rules

    return [info.name for info in all_rules()]


def _repairs() -> list[str]:
    from infoprune.repair import all_repairs

    return [info.name for info in all_repairs()]


def _repairs_and_auto() -> list[str]:
    return [AUTO, *_repairs()]


RULE = Names("cut-off rule", _rules)
REPAIR = Names("repair", _repairs)
REPAIR_OR_AUTO = Names("repair", _repairs_and_auto)


@dataclass(frozen=True)
class LayerwiseOptions:
    """How layers are pruned one after the other.

    ``conditioning`` chooses the maps of other layers that the criterion ``cmi`` conditions on: ``"none"``;
    ``"compact"``, the kept maps of the neighbour in the data flow that was pruned last; ``"full"``, those of all
    layers pruned before in this branch; ``"all"``, those of all layers pruned before. ``direction`` is
    ``"forward"``, ``"backward"``, or ``"both"``: every layer alone first, then from the one that would lose the
    largest share to the last and to the first. With a ``tolerance``, the first i of L layers may cost i/L of it,
    and a whole layer is always a candidate; without, the best candidate of the rule is taken. A ``class_tolerance``
    limits in the same way what each class may lose (PMC, Ahmadluei et al. 2023), so that no class pays for all.

    Example:
        >>> LayerwiseOptions(cutoff="scree", direction="backward").is_asked_for
        True
    """

    cutoff: Annotated[str | None, Option("Cut each layer's curve by a rule of 'infoprune cutoffs'.", names=RULE)] = None
    cutoff_options: Annotated[Mapping[str, Any], Option("Options of the cut-off rule.")] = field(default_factory=dict)
    conditioning: Annotated[Conditioning, Option("Which maps of other layers cmi conditions on.")] = "none"
    direction: Annotated[Direction, Option("In which order the layers are pruned.")] = "forward"
    tolerance: Annotated[
        float | None,
        Option("Held-out accuracy that the cut-off may cost.", ge=0, unit="percentage points", default="no limit"),
    ] = None
    class_tolerance: Annotated[
        float | None,
        Option("Held-out accuracy that the cut-off may cost in any one class.", ge=0, unit="percentage points",
               default="no limit"),
    ] = None  # fmt: skip
    parallel: Annotated[
        bool, Option("With --direction both, run the forward and the backward branch in two processes.")
    ] = False
    repair_between_layers: Annotated[
        str | None, Option("Repair the network after each layer, before the next one is read.", names=REPAIR)
    ] = None
    candidate_repair: Annotated[
        str | None,
        Option("Repair each candidate of a cut-off, and the reference, before its accuracy is measured.", names=REPAIR),
    ] = None
    candidate_bf16: Annotated[bool, Option("Measure candidates in bfloat16, which is faster.")] = False

    def __post_init__(self) -> None:
        check_fields(self)
        if self.parallel and (self.direction != "both" or self.conditioning == "all"):
            raise InputError("two processes take the two branches of direction 'both', with any conditioning but 'all'")
        if self.repair_between_layers is not None and self.direction == "both":
            raise InputError(
                "the iterative form is forward or backward: with 'both' the branches start from one network"
            )
        if self.cutoff is not None:
            from infoprune.cutoff import check_rule

            check_rule(self.cutoff, self.cutoff_options)

    @property
    def is_asked_for(self) -> bool:
        """Whether the cut of one layer must be known before the next is ordered."""
        return self.cutoff is not None or self.conditioning != "none" or self.repair_between_layers is not None

    def said(self) -> dict[str, Any]:
        """Return the words that are not as by default."""
        return {name: value for name, value in asdict(self).items() if value != getattr(AT_ONCE, name)}


AT_ONCE = LayerwiseOptions()


# Images of a repair where the user did not say how many; all of them are read by the repair by gradient alone.
REPAIR_IMAGES, GRADIENT_IMAGES = 1000, 20_000


@dataclass(frozen=True)
class RepairOptions:
    """How a pruned network is repaired, without labels.

    Example:
        >>> RepairOptions("least-squares", images=500).minutes is None
        True
    """

    method: Annotated[
        str | None,
        Option(
            "Repair without labels or fine-tuning: auto, bn, least-squares, ...", flag="--repair", names=REPAIR_OR_AUTO
        ),
    ] = AUTO
    images: Annotated[
        int | None,
        Option("Training images to repair with, without labels, drawn at random.", ge=1, unit="images",
               flag="--repair-images",
               default=f"{REPAIR_IMAGES:,}; {GRADIENT_IMAGES:,} where a gradient repairs and no criterion is given"),
    ] = None  # fmt: skip
    minutes: Annotated[
        float | None,
        Option("Time that the repair distil may take.", gt=0, unit="minutes", flag="--repair-minutes",
               default="as long as it needs"),
    ] = None  # fmt: skip
    epochs: Annotated[int, Option("Epochs of the repair distil.", ge=1, unit="epochs", flag="--repair-epochs")] = 20
    rounds: Annotated[
        int, Option("Rounds of the repair alternating at most.", ge=1, unit="rounds", flag="--repair-rounds")
    ] = 6

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class EffortOptions:
    """How much time a run without a criterion of its own may take, and what it may lose.

    Example:
        >>> EffortOptions(minutes=20).minutes
        20.0
    """

    effort: Annotated[Effort, Option("How much time may be spent on a smaller loss.")] = "normal"
    minutes: Annotated[float | None, Option("Time for the whole run, in place of --effort.", gt=0, unit="minutes")] = (
        None
    )
    max_loss: Annotated[
        float | None,
        Option("In place of a budget: the smallest network that loses no more on held-out images.", ge=0,
               unit="percentage points"),
    ] = None  # fmt: skip

    def __post_init__(self) -> None:
        check_fields(self)
        if self.effort != EffortOptions.effort and self.minutes is not None:
            raise InputError(
                f"the effort '{self.effort}' and {self.minutes:g} minutes both say how much time may be spent: pass one"
            )

    def says_how_long(self) -> bool:
        """Return whether an effort or a time was chosen."""
        return self.effort != EffortOptions.effort or self.minutes is not None


@dataclass(frozen=True)
class PruneOptions:
    """What is removed, and by what rule.

    Exactly one of ``ratio``, ``keep``, ``budget``, ``threshold`` and a cut-off rule of ``layerwise`` is given.

    Example:
        >>> PruneOptions(criterion="l1", budget=Budget(macs=0.5)).criterion
        'l1'
        >>> PruneOptions(ratio=1.5)
        Traceback (most recent call last):
        ...
        infoprune.errors.InputError: ratio takes a number from 0 to below 1, not 1.5
    """

    criterion: Annotated[
        str,
        Option("What scores the filters: a name of 'infoprune criteria', or package.module:function.",
               default="chosen for the network; cmi for cut-off rules and thresholds"),
    ] = ""  # fmt: skip
    ratio: Annotated[float | None, Option("Share of the filters removed from every layer.", ge=0, lt=1)] = None
    keep: Annotated[
        Keep | None,
        Option("By layer or pattern, how many filters are kept or which; other layers are left. Any layer of a coupled "
               "group stands for it, in its own numbering.", on_command_line=False,
               form="by layer the number or the list of the kept filters"),
    ] = None  # fmt: skip
    budget: Budget | None = None
    threshold: Annotated[
        float | None, Option("Remove the filters of every layer that score below this, in the criterion's unit.")
    ] = None
    layerwise: LayerwiseOptions = AT_ONCE
    layers: Annotated[
        tuple[str, ...],
        Option(
            "Pattern of layers that may lose filters; repeatable.",
            default="all convolutions, and linear layers run at each position; all layers where a budget needs them",
        ),
    ] = ()
    skip: Annotated[tuple[str, ...], Option("Pattern of layers that may not; repeatable.", default="none")] = ()
    tap: Annotated[Tap | None, Option("Where the feature maps are read.", default="as in the criterion's paper")] = None
    multiple: Annotated[
        int, Option("Numbers of kept filters are multiples of this; layers with fewer filters are left.", ge=1)
    ] = 1
    keep_at_least: Annotated[int, Option("Filters kept in every layer.", ge=1, unit="filters")] = 1
    keep_share: Annotated[
        float, Option("Share of the filters kept in every layer, whatever the ranking over all layers.", ge=0, le=1)
    ] = 0.0
    seed: Annotated[int, Option("Seed of every random choice.", ge=0)] = 0
    criterion_options: Annotated[Mapping[str, Any], Option("Options of the criterion.")] = field(default_factory=dict)
    budget_by: Annotated[
        str | None,
        Option("Criterion that divides the budget between the layers, by loss for saving.",
               default="one global ranking relative to the layers' means"),
    ] = None  # fmt: skip
    reselect: Annotated[bool, Option("Select the filters again, layer by layer, in the already pruned network.")] = (
        False
    )

    def __post_init__(self) -> None:
        for name in ("layers", "skip"):
            patterns = getattr(self, name)
            if isinstance(patterns, str):
                object.__setattr__(self, name, (patterns,))
        object.__setattr__(self, "keep", plain_counts(self.keep))
        check_fields(self)
        if not self.criterion:
            by_curve = self.layerwise.is_asked_for or self.threshold is not None
            object.__setattr__(self, "criterion", "cmi" if by_curve else "reconstruction")
        ways = {"ratio": self.ratio, "keep": self.keep, "budget": self.budget, "threshold": self.threshold}
        given = [name for name, value in (ways | {"cutoff": self.layerwise.cutoff}).items() if value is not None]
        if len(given) != 1:
            raise InputError(
                "name how much is removed by one of a ratio, explicit counts, a budget, a cut-off or a threshold, "
                f"not by {' and '.join(given) or 'nothing'}"
            )
        if self.budget_by is not None and self.budget is None:
            raise InputError("budget_by divides a budget between the layers: pass a budget with it")
        if self.layerwise.is_asked_for:
            self._check_layer_by_layer()
        elif said := next(iter(self.layerwise.said()), None):
            raise InputError(f"{said} is for layers that are cut one after the other: choose a cut-off with it")

    def _check_layer_by_layer(self) -> None:
        way = "budget" if self.budget is not None else "threshold" if self.threshold is not None else None
        if way is not None:
            rest = "leave out the conditioning and the iterative form with it"
            raise InputError(f"a {way} cuts all layers at once: {rest}")
        if self.keep is not None and not all(isinstance(count, int) for count in self.keep.values()):
            raise InputError("filters that are listed need no order: pass counts, or leave out the conditioning")
        if self.layerwise.conditioning != "none" and self.criterion != "cmi":
            raise InputError(
                f"only the criterion 'cmi' can be conditioned on other layers, not '{self.criterion}': leave out the "
                "conditioning"
            )
        if self.reselect:
            raise InputError(
                "reselect needs all layers to be cut at once: leave out reselect, or the layer-by-layer options"
            )

    def words(self) -> dict[str, Any]:
        """Return the choice as keyword arguments of ``prune`` and ``plan``."""
        own = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "layerwise"}
        return own | {one.name: getattr(self.layerwise, one.name) for one in fields(self.layerwise)}

    def settings(self) -> dict[str, Any]:
        """Return every option that has a value, as JSON values."""
        own = asdict(self)
        layerwise = own.pop("layerwise")
        if self.budget is not None:
            own["budget"] = self.budget.shares()
        stated = own | layerwise if self.layerwise.is_asked_for else own
        return {name: value for name, value in stated.items() if value not in (None, (), {})}

    def limits(self) -> Limits:
        """Return how far a layer may be cut."""
        from infoprune.cutoff import Limits

        return Limits(self.keep_at_least, self.keep_share, self.multiple)


def check_words(words: Iterable[str]) -> None:
    """Refuse words that are no options of pruning.

    Raises:
        InputError: A word is unknown; the nearest one is named.

    Example:
        >>> check_words(["ratio", "criterion"])
    """
    known = (*words_of(PruneOptions), "budget", "layerwise")
    for word in words:
        if word not in known:
            raise unknown("option of pruning", word, known)


def plain_counts(keep: Any) -> Any:
    """Return the counts and lists of ``keep``, where they are of NumPy or PyTorch, as Python's own.

    Args:
        keep: By layer how many filters are kept or which; anything else is returned as it is.

    Example:
        >>> import torch
        >>> plain_counts({"conv1": torch.tensor(4), "conv2": torch.tensor([0, 2])})
        {'conv1': 4, 'conv2': [0, 2]}
    """
    return {layer: _plain(some) for layer, some in keep.items()} if isinstance(keep, Mapping) else keep


def _plain(some: Any) -> Any:
    if isinstance(some, (list, tuple)):
        return [_plain(one) for one in some]
    return some.tolist() if hasattr(some, "tolist") else some


def chosen(**words: Any) -> PruneOptions:
    """Return the options that these words make, those of ``LayerwiseOptions`` and ``Budget`` among them.

    Raises:
        InputError: A word is unknown, or a value is of a wrong type or out of range.

    Example:
        >>> chosen(macs=0.5, criterion="l1").budget
        Budget(macs=0.5, parameters=None, latency=None)
    """
    check_words(words)
    return assembled(PruneOptions, words)
