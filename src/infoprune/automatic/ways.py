"""Ways to divide a budget between layers, compared on held-out images after a short repair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from infoprune import cutoff
from infoprune.automatic.parts import Parts
from infoprune.criteria.base import Importance
from infoprune.criteria.reader_moments import is_reader
from infoprune.measure.divergence import Answers, Divergence, divergence_between
from infoprune.measure.metric import PLAIN, Quality
from infoprune.network import surgery
from infoprune.network.coupled_groups import CoupledGroup
from infoprune.network.layers import is_depthwise
from infoprune.options import PruneOptions, RepairOptions
from infoprune.progress import Progress
from infoprune.repair import repaired
from infoprune.selection.calibration import Calibration
from infoprune.selection.planning import choose_groups, plan_for


@dataclass(frozen=True)
class Way:
    """One way to divide a budget between layers, and its result.

    Args:
        name: What is cut: ``"every layer"`` or ``"layers inside blocks"``.
        skip: Layers that keep all filters.
        found: How far the network cut and repaired this way is from the original on held-out images; ``None`` where
            it was the only way, so that nothing was compared.

    Example:
        >>> Way("every layer", ()).to_dict()["way"]
        'every layer'
    """

    name: str
    skip: tuple[str, ...]
    found: Divergence | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the way as JSON values."""
        found = None if self.found is None else {"divergence": self.found.value, "agreement": self.found.agreement}
        return {"way": self.name, "whole_layers": list(self.skip), "held_out": found}


def possible_ways(calibration: Calibration, choice: PruneOptions) -> tuple[Way, ...]:
    """Return the ways that can meet the budget.

    Layers whose outputs are added to one another (residual streams) are read by many layers and often have no
    activation after them; whether they should lose filters depends on the network.

    Args:
        calibration: The network, and what is known of it.
        choice: The budget, and the layers that may lose filters.

    Example:
        >>> import torch, infoprune
        >>> whole = Calibration.of(infoprune.zoo.build("digits").eval(), [torch.rand(4, 1, 8, 8)])
        >>> len(possible_ways(whole, PruneOptions("reconstruction", ratio=0.5)))  # no residual connections: one way
        1
    """
    chosen = choose_groups(calibration.model, calibration.groups, choice)
    unscored = tuple(group.name for group in chosen if not _is_read(calibration.model, group))
    ways = [Way("every layer", unscored)]
    streams = tuple(
        group.name for group in chosen if _is_stream(calibration.model, group) and group.name not in unscored
    )
    if streams and len(streams) + len(unscored) < len(chosen):
        ways.append(Way("layers inside blocks", (*unscored, *streams)))
    return tuple(way for way in ways if _reaches(calibration, with_way(choice, way))) or (ways[0],)


def without_unread(calibration: Calibration, choice: PruneOptions) -> PruneOptions:
    """Return a choice that leaves the layers whole that no layer reads which the criterion can refit.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 3), nn.ConvTranspose2d(6, 2, 2))
        >>> choice = PruneOptions("l1", ratio=0.5)
        >>> without_unread(Calibration.of(net.eval(), [torch.rand(4, 1, 8, 8)]), choice).skip  # both are read
        ()
    """
    unread = (group.name for group in calibration.groups.groups if not _is_read(calibration.model, group))
    return replace(choice, skip=(*choice.skip, *(name for name in unread if name not in choice.skip)))


def with_way(choice: PruneOptions, way: Way) -> PruneOptions:
    """Return a choice whose way keeps these layers whole.

    Example:
        >>> choice = with_way(PruneOptions("l1", ratio=0.5), Way("blocks", ("conv1",)))
        >>> choice.skip
        ('conv1',)
    """
    return replace(choice, skip=(*choice.skip, *(name for name in way.skip if name not in choice.skip)))


def nearest_way(
    ways: Sequence[Way],
    calibration: Calibration,
    choice: PruneOptions,
    importances: Mapping[str, Importance],
    parts: Parts,
    progress: Progress,
    quality: Quality = PLAIN,
) -> tuple[Way, ...]:
    """Return the ways with what was found of each, the nearest to the original first.

    Args:
        ways: What is compared.
        calibration: The original network, in eval mode, and what is known of it.
        choice: The budget.
        importances: Of every group that a way may cut.
        parts: The images that the short repair fits, and those that judge.
        progress: Called after every way.
        quality: Which part of the output is compared with the original's.

    Example:
        >>> import torch, infoprune
        >>> from infoprune.automatic.descent import scores_of
        >>> from infoprune.progress import silent
        >>> _ = torch.manual_seed(0)
        >>> images = [torch.rand(16, 1, 8, 8)]
        >>> whole = Calibration.of(infoprune.zoo.build("digits").eval(), images)
        >>> choice = PruneOptions("reconstruction", ratio=0.5)
        >>> ways = possible_ways(whole, choice)
        >>> scores = scores_of(whole, choice, ways, silent)
        >>> len(nearest_way(ways, whole, choice, scores, Parts.of(images, whole.model), silent))
        1
    """
    model, groups = calibration.model, calibration.groups
    tried, original = [], Answers(quality.answers(model))
    for done, way in enumerate(ways, 1):
        plan = plan_for(calibration, with_way(choice, way), importances=importances).plan
        small = surgery.apply(plan, model, calibration.examples, groups=groups)
        small = repaired(small, model, parts.fit, plan, groups, how=RepairOptions("least-squares"))
        away = divergence_between(original, quality.answers(small.eval()), parts.held_out)
        tried.append(replace(way, found=away))
        progress("comparing ways to divide the budget", done, len(ways))
    # Equal ones: the way that was named first.
    return tuple(sorted(tried, key=lambda way: way.found.value if way.found is not None else float("inf")))


def _is_stream(model: nn.Module, group: CoupledGroup) -> bool:
    """Return whether outputs of several layers are added; a depthwise convolution only passes its inputs on."""
    return sum(not is_depthwise(model.get_submodule(layer)) for layer in group.producers) > 1


def _is_read(model: nn.Module, group: CoupledGroup) -> bool:
    """Return whether a convolution or linear layer reads the group, which the criterion needs."""
    inner = (model.get_submodule(member.layer) for member in group.members if member.side == "in")
    return any(map(is_reader, inner))


def _reaches(calibration: Calibration, choice: PruneOptions) -> bool:
    if choice.budget is None:
        return True
    groups = choose_groups(calibration.model, calibration.groups, choice)
    found = cutoff.reach(groups, calibration.costs, limits=choice.limits())
    shares = choice.budget.shares()
    return found.macs <= shares.get("macs", 1.0) and found.parameters <= shares.get("parameters", 1.0)
