"""From a choice to the way in which layers are ordered and cut one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from infoprune import criteria, cutoff
from infoprune.criteria.base import create
from infoprune.criteria.cmi import conditional_mutual_information_order, permutation_p_value
from infoprune.cutoff.curve import Curve
from infoprune.cutoff.ratio import left_by_ratio
from infoprune.errors import InputError
from infoprune.layerwise.judging import Judge, Kept
from infoprune.layerwise.maps import LayerMaps
from infoprune.layerwise.sequence import Conditional, Cutting, Layers, Orders, Outcome, Ready, in_sequence
from infoprune.layerwise.state import State, fingerprint_of_run
from infoprune.network.flow import flow
from infoprune.network.groups import CoupledGroup, Groups
from infoprune.progress import Progress, silent
from infoprune.repair import find as find_repair
from infoprune.scoring import filters_of, score

if TYPE_CHECKING:
    from infoprune.planning import Choice

Batches = Iterable[Any]


@dataclass(frozen=True)
class ByRule:
    """Candidates of a cut-off rule."""

    name: str
    options: Mapping[str, Any]

    def __call__(self, group: CoupledGroup, curve: Curve) -> Sequence[int]:
        """Return them."""
        return cutoff.candidates(self.name, curve, self.options)


@dataclass(frozen=True)
class ByRatio:
    """The same share of filters goes from every layer."""

    ratio: float

    def __call__(self, group: CoupledGroup, curve: Curve) -> Sequence[int]:
        """Return what is left of a group."""
        return (left_by_ratio(group.filters, self.ratio),)


@dataclass(frozen=True)
class ByCount:
    """So many filters of each named layer stay."""

    keep: Mapping[str, int]

    def __call__(self, group: CoupledGroup, curve: Curve) -> Sequence[int]:
        """Return the count of a group.

        Raises:
            InputError: The group has not so many filters.
        """
        count = self.keep.get(group.name, group.filters)
        if not 1 <= count <= group.filters:
            raise InputError(f"layer '{group.name}' can keep 1 to {group.filters} filters, not {count}")
        return (count,)


@dataclass(frozen=True)
class Repairing:
    """Cuts a network further and repairs it: what happens between two layers of the iterative form."""

    method: str

    def __call__(self, judge: Judge, kept: Kept) -> nn.Module:
        """Return the repaired network."""
        return Judge(judge.model, judge.example, judge.groups, (), self.method, judge.repair_images).cut(kept)


def check_layerwise(choice: Choice) -> None:
    """Refuse what cannot be done layer by layer.

    Raises:
        InputError: The choice does not hold together.
    """
    if not choice.layer_by_layer:
        usual = {"direction": "forward", "tolerance": None, "parallel": False}
        word = next((word for word, value in usual.items() if getattr(choice, word) != value), None)
        if word is not None:
            raise InputError(f"{word} is for layers that are cut one after the other: choose a cut-off with it")
        return
    way = next((way for way in ("budget", "threshold") if getattr(choice, way) is not None), None)
    if way is not None:
        rest = "leave out the conditioning and the iterative form with it"
        raise InputError(f"a {way} cuts all layers at once: {rest}")
    if choice.keep is not None and not all(isinstance(count, int) for count in choice.keep.values()):
        raise InputError("filters that are listed need no order: give counts, or leave out the conditioning")
    if choice.conditioning != "none" and choice.criterion != "cmi":
        raise InputError(
            f"only the criterion 'cmi' can be conditioned on other layers, not '{choice.criterion}': leave out the "
            "conditioning"
        )
    if choice.cutoff is not None:
        cutoff.check_rule(choice.cutoff, choice.cutoff_options)
    for repair in (choice.between, choice.judge_after):
        if repair is not None:
            find_repair(repair)
    cutting(choice)


def cutting(choice: Choice) -> Cutting:
    """Return how layers are taken and cut.

    Raises:
        InputError: A name or number is not one that is known.
    """
    rule: Any
    if choice.cutoff is not None:
        rule = ByRule(choice.cutoff, choice.cutoff_options)
    elif choice.ratio is not None:
        rule = ByRatio(choice.ratio)
    else:
        assert choice.keep is not None
        rule = ByCount({layer: count for layer, count in choice.keep.items() if isinstance(count, int)})
    between = None if choice.between is None else Repairing(choice.between)
    return Cutting(
        rule,
        choice.conditioning,
        choice.direction,
        choice.tolerance,
        choice.limits(),
        choice.parallel,
        between,
    )


def plan_layer_by_layer(
    model: nn.Module,
    example: Tensor,
    groups: Groups,
    chosen: Sequence[CoupledGroup],
    batches: Batches,
    choice: Choice,
    *,
    held_out: Batches | None = None,
    resume: Path | None = None,
    progress: Progress = silent,
) -> Outcome:
    """Order and cut the chosen groups one after the other.

    Args:
        model: The network; left as it is.
        example: A batch to trace with.
        groups: Everything that could lose filters.
        chosen: What may.
        batches: Calibration images.
        choice: What is removed, and by what rule.
        held_out: Images that choose among the candidates of a rule; by default the calibration images.
        resume: File in which finished layers are kept until the plan is made.
        progress: Told how far it is.

    Raises:
        InputError: The criterion gives no curve, or the file is of another run.
    """
    info = criteria.resolve(choice.criterion)
    judged = batches if held_out is None else held_out
    following = flow(model, chosen, example)
    by_name = {group.name: group for group in chosen}
    in_order = tuple(by_name[name] for name in following.order)
    told = {name: value for name, value in asdict(choice).items() if name != "parallel"}
    state = State(resume, "" if resume is None else fingerprint_of_run(told, model, batches, judged))
    judge = Judge(model, example, groups, judged, choice.judge_after, batches, half=choice.judge_half)
    maps = LayerMaps(model, in_order, batches, choice.tap or info.tap, info.images, progress=progress)
    orders: Orders
    if choice.criterion == "cmi":
        create(info, filters_of(model, in_order[0]), options=choice.options)  # refuses unknown options
        orders = Conditional(
            partial(conditional_mutual_information_order, **choice.options),
            partial(permutation_p_value, seed=choice.seed, **choice.options),
        )
    else:
        if choice.between is not None:
            raise InputError(
                "the iterative form reads maps anew for every layer, which only the criterion 'cmi' does here"
            )
        found = score(
            model, in_order, batches, info, tap=choice.tap, seed=choice.seed, options=choice.options, progress=progress
        )
        if choice.cutoff is not None:
            _check_curves(choice, found)
        orders = Ready(found)
    layers = Layers(model, in_order, following, maps, judge)
    return in_sequence(layers, orders, cutting(choice), state, progress=progress)


def _check_curves(choice: Choice, found: Mapping[str, criteria.Importance]) -> None:
    if any(importance.curve is None for importance in found.values()) and choice.cutoff != "grid":
        raise InputError(
            f"the criterion '{choice.criterion}' gives no curve for the cut-off '{choice.cutoff}' to cut: take the "
            "criterion 'cmi' or the cut-off 'grid'"
        )
