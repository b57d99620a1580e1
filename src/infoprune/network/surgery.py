"""Cuts a network by a plan: returns a new network with smaller layers."""

from __future__ import annotations

from torch import nn

from infoprune.errors import InputError, unknown
from infoprune.network import equivalence
from infoprune.network.computed_weights import computed_layers, put_plain
from infoprune.network.coupled_groups import CoupledGroup, Examples, Groups, find_groups
from infoprune.network.equivalence import outside_inference_mode
from infoprune.network.layers import width
from infoprune.network.removal import Removal, cut
from infoprune.network.stored_values import Stored
from infoprune.plan import LayerDecision, Plan


@outside_inference_mode
def apply(
    plan: Plan, model: nn.Module, example: Examples, *, groups: Groups | None = None, check: bool = True
) -> nn.Module:
    """Return a copy of the network without the filters that the plan removes.

    The copy is an ordinary network of the same classes, with smaller layers, in the same train or eval mode, precision
    and memory format, and with the same ``requires_grad`` per parameter; the network itself is not changed. Layers that
    compute their weight, and are cut, become plain layers with that weight.

    Args:
        plan: The kept filters. Layers it does not name keep all filters.
        model: The network the plan was made for.
        example: ``(n, ...)`` one batch of inputs, or one of each shape; the values do not matter.
        groups: What ``find_groups`` returned for this network, if known.
        check: Test the plan on copies with randomised norms before it is applied.

    Raises:
        InputError: The plan is not for this network, names a layer whose filters cannot be removed, or removes only
            some of the filters that can only be removed together.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()
        >>> plan = Plan({"0": LayerDecision("0", 4, kept=(0, 2))})
        >>> small = apply(plan, net, torch.rand(2, 1, 8, 8))
        >>> tuple(small[0].weight.shape), tuple(small[2].weight.shape)
        ((2, 1, 3, 3), (2, 2, 3, 3))
    """
    groups = groups or find_groups(model, example, check=False)
    removal = removal_of(plan, groups, model)
    if check and removal:
        check_plan(plan, model, example, removal)
    small = equivalence.duplicate(model)
    if touched := made_plain(plan, removal, groups):
        whole = equivalence.copied(model)
        first = equivalence.placed(equivalence.batches_of(example)[0], whole)
        with equivalence.exactly(first.device):
            put_plain(small, computed_layers(whole, first), touched)
    cut(small, removal)
    return small


def made_plain(plan: Plan, removal: Removal, groups: Groups) -> list[str]:
    """Return the layers with computed weights that become plain: those that lose channels, and those the plan names.

    Example:
        >>> computed = Groups((), {}, computed={"first": "WeightNorm", "second": "WeightNorm", "third": "WeightNorm"})
        >>> plan = Plan({}, settings={"made_plain": {"second": "WeightNorm"}})
        >>> made_plain(plan, {("first", "out"): [1]}, computed)
        ['first', 'second']
    """
    named = {str(place) for place, _ in removal} | set(plan.settings.get("made_plain", ()))
    return [layer for layer in groups.computed if layer in named]


def removal_of(plan: Plan, groups: Groups, model: nn.Module) -> Removal:
    """Return the channels to remove, by layer and side.

    Raises:
        InputError: As for ``apply``.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()
        >>> plan = Plan({"0": LayerDecision("0", 4, kept=(0, 2))})
        >>> removal_of(plan, find_groups(net, torch.rand(2, 1, 8, 8)), net)
        {('0', 'out'): [1, 3], ('2', 'in'): [1, 3]}
    """
    by_name = groups.by_name()
    removed = {}
    for layer, decision in plan.decisions.items():
        if layer not in by_name:
            if not decision.removed and layer in groups.left_alone:
                continue
            raise _not_a_group(layer, groups, model)
        _check_units(decision, by_name[layer])
        removed[layer] = decision.removed
    removal = groups.removal(removed)
    _check_widths(removal, model)
    return {place: channels for place, channels in removal.items() if channels}


def _not_a_group(layer: str, groups: Groups, model: nn.Module) -> InputError:
    if layer in groups.left_alone:
        return InputError(f"layer '{layer}' cannot lose filters: {groups.left_alone[layer]}")
    for group in groups.groups:
        if layer in group.producers:
            return InputError(f"layer '{layer}' loses the same filters as '{group.name}': name that one in the plan")
    if layer in dict(model.named_modules()):
        return InputError(f"layer '{layer}' is no convolution or linear layer: it cannot be named in a plan")
    return InputError(f"the plan is for another network: {unknown('layer', layer, groups.by_name())}")


def _check_units(decision: LayerDecision, group: CoupledGroup) -> None:
    if decision.filters != group.filters:
        raise InputError(
            f"layer '{group.name}' has {group.filters} filters, but the plan was made for {decision.filters}"
        )
    gone = set(decision.removed)
    for unit in group.units:
        if 0 < len(gone & set(unit)) < len(unit):
            raise InputError(
                f"layer '{group.name}': filters {', '.join(map(str, unit))} can only be removed together, "
                f"but the plan keeps some of them"
            )


def _check_widths(removal: Removal, model: nn.Module) -> None:
    modules = dict(model.named_modules())
    for (layer, side), channels in removal.items():
        if side == "stored" or isinstance(layer, Stored):
            continue
        if channels and len(channels) >= width(modules[layer], side):
            what = "outputs" if side == "out" else "inputs"
            raise InputError(f"layer '{layer}' would be left without {what}: keep at least one of its filters")


def check_plan(plan: Plan, model: nn.Module, example: Examples, removal: Removal) -> None:
    """Cut a copy with randomised norms, and compare it with the whole network whose removed channels are zero.

    Args:
        plan: What is checked.
        model: The network that the plan was made for; left as it is.
        example: As for ``apply``.
        removal: What ``removal_of`` returned for the plan.

    Raises:
        InputError: They differ; the layer is named where it is known.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> net, images = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)), torch.rand(2, 1, 8, 8)
        >>> plan = Plan({"0": LayerDecision("0", 4, kept=(0, 2))})
        >>> check_plan(plan, net, images, removal_of(plan, find_groups(net, images), net))
    """
    problem = equivalence.Trial(model, equivalence.batches_of(example)).problem(removal)
    if not problem:
        return
    left_alone = find_groups(model, example).left_alone
    for layer, decision in plan.decisions.items():
        if decision.removed and layer in left_alone:
            raise InputError(f"layer '{layer}' cannot lose filters: {left_alone[layer]}")
    raise InputError(f"this plan cannot be carried out: {problem}")
