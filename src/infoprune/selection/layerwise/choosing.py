"""From a choice to the way in which layers are ordered and cut one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from infoprune import criteria, cutoff
from infoprune.criteria.base import create
from infoprune.criteria.cmi import conditional_mutual_information_order, permutation_p_value
from infoprune.criteria.scoring import filters_of, score
from infoprune.cutoff.ratio import left_by_ratio
from infoprune.cutoff.rules.curve import Curve
from infoprune.data.batches import Batches
from infoprune.errors import InputError
from infoprune.network.coupled_groups import CoupledGroup
from infoprune.network.execution_order import flow
from infoprune.options import PruneOptions
from infoprune.progress import Progress, silent
from infoprune.selection.calibration import Calibration
from infoprune.selection.layerwise.judging import Judge, Kept
from infoprune.selection.layerwise.maps import LayerMaps
from infoprune.selection.layerwise.sequence import Conditional, Cutting, Layers, Orders, Outcome, Ready, in_sequence
from infoprune.selection.layerwise.state import State, conditions_of


@dataclass(frozen=True)
class ByRule:
    """Candidates of a cut-off rule.

    Example:
        >>> ByRule("scree", {}).name
        'scree'
    """

    name: str
    options: Mapping[str, Any]

    def __call__(self, group: CoupledGroup, curve: Curve) -> Sequence[int]:
        """Return them."""
        return cutoff.candidates(self.name, curve, self.options)


@dataclass(frozen=True)
class ByRatio:
    """The same share of filters goes from every layer.

    Example:
        >>> ByRatio(0.5).ratio
        0.5
    """

    ratio: float

    def __call__(self, group: CoupledGroup, curve: Curve) -> Sequence[int]:
        """Return the kept filters of a group."""
        return (left_by_ratio(group.filters, self.ratio),)


@dataclass(frozen=True)
class ByCount:
    """So many filters of each named layer stay.

    Example:
        >>> ByCount({"conv1": 8}).keep["conv1"]
        8
    """

    keep: Mapping[str, int]

    def __call__(self, group: CoupledGroup, curve: Curve) -> Sequence[int]:
        """Return the count of a group.

        Raises:
            InputError: The group has fewer filters.
        """
        count = self.keep.get(group.name, group.filters)
        if not 1 <= count <= group.filters:
            raise InputError(f"layer '{group.name}' can keep 1 to {group.filters} filters, not {count}")
        return (count,)


@dataclass(frozen=True)
class Repairing:
    """Cuts a network further and repairs it: what happens between two layers of the iterative form.

    Example:
        >>> Repairing("least-squares").method
        'least-squares'
    """

    method: str

    def __call__(self, judge: Judge, kept: Kept) -> nn.Module:
        """Return the repaired network."""
        return Judge(judge.model, judge.examples, judge.groups, (), self.method, judge.repair_images).cut(kept)


def cutting(choice: PruneOptions) -> Cutting:
    """Return how layers are taken and cut.

    Example:
        >>> from infoprune.options import LayerwiseOptions
        >>> cutting(PruneOptions(layerwise=LayerwiseOptions(cutoff="scree"))).how.cutoff
        'scree'
    """
    how = choice.layerwise
    rule: Any
    if how.cutoff is not None:
        rule = ByRule(how.cutoff, how.cutoff_options)
    elif choice.ratio is not None:
        rule = ByRatio(choice.ratio)
    else:
        assert choice.keep is not None
        rule = ByCount({layer: count for layer, count in choice.keep.items() if isinstance(count, int)})
    between = None if how.repair_between_layers is None else Repairing(how.repair_between_layers)
    return Cutting(rule, how, choice.limits(), between)


def plan_layer_by_layer(
    calibration: Calibration,
    chosen: Sequence[CoupledGroup],
    choice: PruneOptions,
    *,
    held_out: Batches | None = None,
    resume: Path | None = None,
    progress: Progress = silent,
) -> Outcome:
    """Order and cut the chosen groups one after the other.

    Args:
        calibration: The network and its images.
        chosen: What may lose filters.
        choice: What is removed, and by what rule.
        held_out: Images that choose among the candidates of a rule; by default the calibration images.
        resume: File in which finished layers are kept until the plan is made.
        progress: Receives the progress.

    Raises:
        InputError: The criterion gives no curve, or the file is of another run.

    Example:
        >>> import torch
        >>> from infoprune import zoo
        >>> from infoprune.options import LayerwiseOptions
        >>> _ = torch.manual_seed(0)
        >>> net, images = zoo.build("digits").eval(), [(torch.rand(16, 1, 8, 8), torch.arange(16) % 4)]
        >>> whole = Calibration.of(net, images)
        >>> choice = PruneOptions("cmi", layerwise=LayerwiseOptions(cutoff="scree"))
        >>> list(plan_layer_by_layer(whole, whole.groups.groups[:1], choice).decided)
        ['features.0']
    """
    model, batches, examples = calibration.model, calibration.batches, calibration.examples
    info, how = criteria.resolve(choice.criterion), choice.layerwise
    judged = batches if held_out is None else held_out
    following = flow(model, chosen, examples)
    by_name = {group.name: group for group in chosen}
    in_order = tuple(by_name[name] for name in following.order)
    settings = {name: value for name, value in choice.settings().items() if name != "parallel"}
    state = State(resume, {} if resume is None else conditions_of(settings, model, calibration=batches, judging=judged))
    judge = Judge(model, examples, calibration.groups, judged, how.candidate_repair, batches, half=how.candidate_bf16)
    maps = LayerMaps(model, in_order, batches, choice.tap or info.tap, info.images, progress=progress)
    orders: Orders
    if choice.criterion == "cmi":
        create(info, filters_of(model, in_order[0]), options=choice.criterion_options)  # refuses unknown options
        orders = Conditional(
            partial(conditional_mutual_information_order, **choice.criterion_options),
            partial(permutation_p_value, seed=choice.seed, **choice.criterion_options),
        )
    else:
        if how.repair_between_layers is not None:
            raise InputError(
                "the iterative form reads feature maps again for every layer, which only the criterion 'cmi' does here"
            )
        found = score(
            model,
            in_order,
            batches,
            info,
            tap=choice.tap,
            seed=choice.seed,
            options=choice.criterion_options,
            progress=progress,
        )
        if how.cutoff is not None:
            _check_curves(choice, found)
        orders = Ready(found)
    layers = Layers(model, in_order, following, maps, judge)
    return in_sequence(layers, orders, cutting(choice), state, progress=progress)


def _check_curves(choice: PruneOptions, found: Mapping[str, criteria.Importance]) -> None:
    rule = choice.layerwise.cutoff
    assert rule is not None
    if cutoff.find_rule(rule).from_scores:
        negative = next((name for name, one in found.items() if one.curve is None and one.scores.min() < 0), None)
        if negative is not None:
            raise InputError(
                f"the cut-off '{rule}' adds up scores, and the criterion '{choice.criterion}' has negative ones in "
                f"layer '{negative}': take another criterion"
            )
        return
    if rule != "grid" and any(importance.curve is None for importance in found.values()):
        raise InputError(
            f"the criterion '{choice.criterion}' gives no curve for the cut-off '{rule}' to cut: take the criterion "
            "'cmi', or the cut-off 'grid' or 'cumulative'"
        )
