"""Runs a repair by name: takes the two networks and images, and returns a repaired network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from infoprune.data.batches import Batches, check_repeatable, examples_of
from infoprune.data.fixed_sample import read_once
from infoprune.declarations.option_values import words_of
from infoprune.errors import InputError, unknown
from infoprune.network.coupled_groups import Groups, find_groups
from infoprune.network.equivalence import copied
from infoprune.network.origin import carry_notes, plan_of
from infoprune.network.several_inputs import takes_several_inputs
from infoprune.options import AUTO, RepairOptions
from infoprune.plan import Plan
from infoprune.progress import Progress, silent
from infoprune.repair.base import Pair, all_repairs, find
from infoprune.repair.distil_state import remove_state
from infoprune.runs.together import together

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@takes_several_inputs
def repair(
    small: nn.Module,
    model: nn.Module,
    batches: Batches,
    plan: Plan | None = None,
    *,
    method: str | RepairOptions = "bn",
    resume: Path | None = None,
    fabric: Fabric | None = None,
    progress: Progress = silent,
    **options: Any,
) -> nn.Module:
    """Return a repaired copy of a pruned network, of the same shape. No labels are used.

    Args:
        small: The pruned network; it is not changed.
        model: The network it was cut from; it is not changed.
        batches: Images, ``(n, C, H, W)``, with or without labels (they are not read), iterable more than once.
        plan: The kept filters; by default the plan that is noted on the pruned network.
        method: A name of ``infoprune.all_repairs()``, or the options of a repair.
        resume: ``distil`` saves its state beside this file, under the same name with ``.distil``. The same call resumes
            from it after an interruption. The state is removed at the end.
        fabric: A launched Fabric, in each process of which this is called; they share the images.
        progress: Called with the progress of the repair.
        options: Further options of the repair, those of ``RepairOptions``: ``method="distil", minutes=2``.

    Returns:
        A new network, on the device and in the mode of ``small``.

    Raises:
        InputError: There is no such method or option, no plan is known, the plan is for another network, or the
            images do not fit.

    Example:
        >>> import infoprune
        >>> _ = torch.manual_seed(0)
        >>> model, images = infoprune.zoo.build("digits").eval(), torch.rand(20, 1, 8, 8)
        >>> plan = infoprune.plan(model, [images], criterion="l1", macs=0.5)
        >>> small = infoprune.apply(plan, model, images)
        >>> better = repair(small, model, [images], plan, method="merge")
        >>> better.features[0].out_channels == small.features[0].out_channels
        True
    """
    how = repair_options(method, **options)
    check_read(how)
    if plan is None:
        plan = plan_of(small)
        if plan is None:
            raise InputError("no plan is noted on the pruned network: pass the plan it was cut by")
    check_repeatable(batches)
    images = read_once(batches, model)
    groups = find_groups(model, examples_of(images, model))
    with together(fabric):
        found = repaired(small, model, images, plan, groups, how=how, resume=resume, progress=progress)
        remove_state(resume)
    return found


def repaired(
    small: nn.Module,
    model: nn.Module,
    batches: Batches,
    plan: Plan,
    groups: Groups,
    *,
    how: str | RepairOptions,
    resume: Path | None = None,
    progress: Progress = silent,
) -> nn.Module:
    """Return a repaired network, as ``repair`` does, when the groups of the original are already known.

    The state beside ``resume`` is kept.

    Raises:
        InputError: As for ``repair``.

    Example:
        >>> import infoprune
        >>> _ = torch.manual_seed(0)
        >>> model, images = infoprune.zoo.build("digits").eval(), torch.rand(20, 1, 8, 8)
        >>> groups = find_groups(model, images)
        >>> plan = infoprune.plan(model, [images], criterion="l1", macs=0.5)
        >>> small = infoprune.apply(plan, model, images)
        >>> repaired(small, model, [images], plan, groups, how="bn").training
        False
    """
    how = repair_options(how)
    check_repeatable(batches)
    modes = {name: module.training for name, module in small.named_modules()}
    whole = copied(model)
    # A repair may iterate several times.
    images = read_once(batches, whole)
    pair = Pair.of(whole, plan, images, small=copied(small), groups=groups, options=how, resume=resume)
    with torch.no_grad():
        better = find(how.method or "").function(pair, progress)
    stored = next((p.dtype for p in small.parameters() if p.is_floating_point()), torch.float32)
    better = better.to(stored)
    for name, module in better.named_modules():
        module.training = modes.get(name, small.training)
    return carry_notes(better, small)


def check_read(how: RepairOptions) -> None:
    """Refuse options that the chosen repair does not read.

    Raises:
        InputError: There is no such repair, or one of its options would be ignored.

    Example:
        >>> check_read(RepairOptions("bn", minutes=3))
        Traceback (most recent call last):
            ...
        infoprune.errors.InputError: the repair 'bn' has no minutes to choose: leave them out, or repair with 'distil'
    """
    reads = () if how.method in (None, AUTO) else find(how.method or "").reads
    usual = RepairOptions()
    for name in sorted({name for info in all_repairs() for name in info.reads}):
        if name not in reads and getattr(how, name) != getattr(usual, name):
            readers = " or ".join(f"'{info.name}'" for info in all_repairs() if name in info.reads)
            raise InputError(
                f"the repair '{how.method}' has no {name} to choose: leave them out, or repair with {readers}"
            )


def repair_options(how: str | RepairOptions, **options: Any) -> RepairOptions:
    """Return the options of a repair from its name, or from other options.

    Raises:
        InputError: There is no such repair or option, or a value is of a wrong type or out of range.

    Example:
        >>> repair_options("distil", minutes=2).minutes
        2.0
    """
    for word in options:
        if word not in words_of(RepairOptions):
            raise unknown("option of a repair", word, words_of(RepairOptions))
    return replace(how, **options) if isinstance(how, RepairOptions) else RepairOptions(how, **options)
