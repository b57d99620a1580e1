"""The door to every repair: names and networks in, a repaired network out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from infoprune.errors import InputError
from infoprune.measure.accuracy import check_repeatable
from infoprune.network import surgery
from infoprune.network.coupled_groups import Groups, find_groups
from infoprune.network.equivalence import copied
from infoprune.network.origin import origin_of, set_origin
from infoprune.plan import Plan
from infoprune.progress import Progress, silent
from infoprune.repair.base import Pair, find, images_of
from infoprune.repair.distil_state import remove_state


def repair(
    small: nn.Module,
    model: nn.Module,
    batches: Iterable[Any],
    plan: Plan | None = None,
    *,
    method: str = "bn",
    minutes: float | None = None,
    resume: Path | None = None,
    progress: Progress = silent,
) -> nn.Module:
    """Return a better pruned network of the same shape: closed form, no labels, no gradient.

    Args:
        small: The pruned network; left as it is.
        model: The network it was cut from; left as it is.
        batches: Images, ``(n, C, H, W)``, with or without labels (they are not read), iterable more than once.
        plan: What stayed; by default what is noted on the pruned network.
        method: A name of ``infoprune.repair.all_repairs()``.
        minutes: How long ``distil`` may take altogether, by default as long as its epochs need; least squares, which it
            starts from, and the other repairs take what they take.
        resume: Beside this file ``distil`` keeps its state, under the same name and ``.distil``: the same call goes on
            after an interruption. It is removed at the end.
        progress: Told how far the repair is.

    Returns:
        A new network, on the device and in the mode of ``small``.

    Raises:
        InputError: There is no such method, no plan is known, the plan is for another network, or the images do not
            fit.
    """
    find(method)
    if plan is None:
        origin = origin_of(small)
        if origin is None or origin.plan is None:
            raise InputError("nothing is noted on the pruned network: give the plan it was cut by")
        plan = origin.plan
    example = next(iter(images_of(batches, model)))[:2]
    groups = find_groups(model, example)
    found = repaired(small, model, batches, plan, groups, method=method, minutes=minutes, resume=resume,
                     progress=progress)  # fmt: skip
    remove_state(resume)
    return found


def repaired(
    small: nn.Module,
    model: nn.Module,
    batches: Iterable[Any],
    plan: Plan,
    groups: Groups,
    *,
    method: str,
    minutes: float | None = None,
    resume: Path | None = None,
    progress: Progress = silent,
) -> nn.Module:
    """Return a better pruned network, as ``repair``, where the groups of the original are known already.

    The state beside ``resume`` stays.

    Raises:
        InputError: As for ``repair``.
    """
    info = find(method)
    if minutes is not None and not minutes > 0:
        raise InputError(f"a repair may take so many minutes, more than none, not {minutes}")
    check_repeatable(batches)
    removal = surgery.removal_of(plan, groups, model)
    modes = {name: module.training for name, module in small.named_modules()}
    pair = Pair(copied(model), copied(small), plan, groups, removal, batches, minutes, resume)
    with torch.no_grad():
        better = info.function(pair, progress)
    stored = next((p.dtype for p in small.parameters() if p.is_floating_point()), torch.float32)
    better = better.to(stored)
    for name, module in better.named_modules():
        module.training = modes.get(name, small.training)
    origin = origin_of(small)
    return better if origin is None else set_origin(better, origin)
