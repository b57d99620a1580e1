"""Select again which filters are kept, layer by layer, in the pruned network; the plan sets how many.

A plan is made from the whole network, but what a filter is worth changes as the layers before it lose theirs. Here the
layers are taken front to back as in ``repair.least_squares``, refitted on what the pruned network feeds them. Where one
of them is the only reader of a coupled group that loses filters, its normal equations, with the original's result as
the target, first say by backward elimination which of them it does best without.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from infoprune.criteria.reconstruction import Share, eliminate, inverse_of
from infoprune.data.batches import Batches, check_repeatable, examples_of
from infoprune.network import surgery
from infoprune.network.coupled_groups import CoupledGroup, Groups, find_groups
from infoprune.network.equivalence import copied, duplicate
from infoprune.network.removal import Removal
from infoprune.plan import LayerDecision, Plan
from infoprune.progress import Progress, silent
from infoprune.regression.layer_fit import Site, best_solution, norm_scale_of, write_solution
from infoprune.regression.normal_equations import Equations, Solution
from infoprune.regression.patches import as_matrix, features_of
from infoprune.repair.base import Pair
from infoprune.repair.walks import MEMORY, Walks, layers_to_refit, moments_of, refit, sites_of
from infoprune.runs.together import current


@torch.no_grad()
def reselect(
    plan: Plan, model: nn.Module, batches: Batches, *, memory: int = MEMORY, progress: Progress = silent
) -> Plan:
    """Return a plan that keeps as many filters of every layer, but those the network that is left does best with.

    Args:
        plan: How many filters stay, and which of those that several layers read or that are written by none alone.
        model: The network it was made for; left as it is.
        batches: Images, with or without labels (they are not read), iterable more than once and the same every time.
        memory: Bytes of feature maps that may be kept between layers.
        progress: Called after every layer.

    Returns:
        A plan in which scores and orders are those of the given one only where nothing was selected again.

    Raises:
        InputError: The plan is for another network, there are no images, or they can be read only once.

    Example:
        >>> import torch, infoprune
        >>> _ = torch.manual_seed(0)
        >>> net, images = infoprune.zoo.build("digits").eval(), torch.rand(32, 1, 8, 8)
        >>> first = infoprune.plan(net, [images], criterion="l1", ratio=0.5)
        >>> again = reselect(first, net, [images])
        >>> all(len(again.kept[layer]) == len(kept) for layer, kept in first.kept.items())
        True
    """
    check_repeatable(batches)
    groups = find_groups(model, examples_of(batches, model))
    return reselected(plan, model, batches, groups, memory=memory, progress=progress)


@torch.no_grad()
def reselected(
    plan: Plan,
    model: nn.Module,
    batches: Batches,
    groups: Groups,
    *,
    memory: int = MEMORY,
    progress: Progress = silent,
) -> Plan:
    """Return a plan with filters selected again, as ``reselect``, where the groups are known already.

    Raises:
        InputError: As for ``reselect``.

    Example:
        >>> import torch, infoprune
        >>> from infoprune.network.coupled_groups import find_groups
        >>> _ = torch.manual_seed(0)
        >>> net, images = infoprune.zoo.build("digits").eval(), torch.rand(32, 1, 8, 8)
        >>> first = infoprune.plan(net, [images], criterion="l1", ratio=0.5)
        >>> len(reselected(first, net, [images], find_groups(net, images)).kept["features.0"])
        8
    """
    whole = copied(model)
    removal = surgery.removal_of(plan, groups, whole)
    open_groups = _readers(whole, plan, groups, _behind(whole, plan, groups, removal, batches))
    settled = {name: one for name, one in plan.decisions.items() if name not in {g.name for g in open_groups.values()}}
    pair = _cut(whole, Plan(settled), groups, batches)
    small = duplicate(pair.small)
    # Removed filters keep their place until the end, with zero weights after them: it is the same network.
    layers = layers_to_refit(replace(pair, removal=removal), small, every=True)
    decisions = dict(plan.decisions)
    with Walks.of(pair, small, layers, memory) as walks:
        for done, site in enumerate(walks.sites, 1):
            group = open_groups.get(site.name)
            if group is None:
                refit(walks, site)
            else:
                moments, count = moments_of(walks, site), len(plan.kept[group.name])
                found = current().agreed(None if moments is None else _chosen(pair, site, group, moments, count))
                assert found is not None  # the first process has the moments
                kept, solution = found
                write_solution(site, solution)
                decisions[group.name] = _decision(plan.decisions[group.name], kept)
            progress("selecting filters again", done, len(walks.sites))
    return replace(plan, decisions=decisions)


def _cut(whole: nn.Module, plan: Plan, groups: Groups, batches: Batches) -> Pair:
    return Pair.of(whole, plan, batches, groups=groups)


def _behind(whole: nn.Module, plan: Plan, groups: Groups, removal: Removal, batches: Batches) -> set[str]:
    """Return the layers that can be refitted and whose result can be followed in the whole network."""
    pair = Pair(whole, whole, plan, groups, removal, batches)
    layers = layers_to_refit(pair, whole, every=True)
    return {site.name for site in sites_of(replace(pair, removal={}), whole, layers)}


def _readers(whole: nn.Module, plan: Plan, groups: Groups, refitted: set[str]) -> dict[str, CoupledGroup]:
    """Return, by the only layer that reads it, the groups that lose filters and can be selected again."""
    found: dict[str, CoupledGroup] = {}
    for group in groups.groups:
        decision = plan.decisions.get(group.name)
        readers = [member.layer for member in group.members if member.side == "in"]
        if decision is None or not decision.removed or len(readers) != 1 or readers[0] not in refitted:
            continue
        if getattr(whole.get_submodule(readers[0]), "groups", 1) == 1:
            # Of two branches side by side the first is selected again, the other keeps its plan.
            found.setdefault(readers[0], group)
    return found


@dataclass(frozen=True)
class _Features:
    """Which features of a reading layer belong to each filter of a group, and how many there are."""

    rows: list[Tensor]
    count: int

    def without(self, gone: Iterable[int]) -> Tensor:
        """Return the features that are left, ascending."""
        left = torch.ones(self.count, dtype=torch.bool)
        for filter_ in gone:
            left[self.rows[filter_].cpu()] = False
        return left.nonzero().flatten()


def _chosen(
    pair: Pair, site: Site, group: CoupledGroup, equations: tuple[Equations, Equations], count: int
) -> tuple[tuple[int, ...], Solution]:
    """Return the filters that stay, and the refitted layer that reads them as if the others were gone."""
    fit, held_out = equations
    start = as_matrix(site.small)
    first = best_solution(site, fit, held_out)
    weights = start * norm_scale_of(site)[:, None, :] if first is None else first.weights
    rows = _Features(_rows(pair, site, group), start.shape[1])
    units = [torch.cat([rows.rows[filter_] for filter_ in unit]) for unit in group.units]
    both = fit + held_out
    inverse = inverse_of(both.moments(centred=site.has_constant())[0], both.count)
    share = Share(inverse, weights[0], units, 1.0)
    gone: set[int] = set()
    for unit, _ in eliminate([share], len(units)):
        if any(set(part) <= gone | set(group.units[unit]) for part in group.parts):
            continue
        if group.filters - len(gone) - len(group.units[unit]) < count:
            break
        gone |= set(group.units[unit])
    left = rows.without(gone).to(start.device)
    found = best_solution(site, fit.among(left), held_out.among(left), left)
    kept = torch.zeros_like(weights)
    kept[:, left] = weights[:, left] if found is None else found.weights
    constant = _constant(site, both, kept) if found is None else found.constant
    stay = tuple(filter_ for filter_ in range(group.filters) if filter_ not in gone)
    return stay, Solution(kept, constant)


def _constant(site: Site, equations: Equations, weights: Tensor) -> Tensor:
    return equations.solve(weights, float("inf"), constant=site.has_constant()).constant


def _rows(pair: Pair, site: Site, group: CoupledGroup) -> list[Tensor]:
    """Return by filter its features, in a reading layer that may have lost other inputs already."""
    member = next(one for one in group.members if one.layer == site.name and one.side == "in")
    whole = pair.original.get_submodule(site.name)
    weight = whole.weight
    assert isinstance(weight, Tensor)
    place = {channel: at for at, channel in enumerate(pair.kept(site.name, "in", weight.shape[1]))}
    channels = [[place[channel] for channel in some if channel in place] for some in member.channels]
    return [features_of(site.small, some).to(weight.device) for some in channels]


def _decision(planned: LayerDecision, kept: tuple[int, ...]) -> LayerDecision:
    reason = f"{planned.reason}; which of them was selected again in the pruned network".lstrip("; ")
    return LayerDecision(planned.layer, planned.filters, kept, coupled=planned.coupled, reason=reason)
