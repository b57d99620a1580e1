"""The smallest network that loses no more than is allowed, on held-out images."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from infoprune.automatic.descent import Level
from infoprune.automatic.effort import Allowance
from infoprune.automatic.prune import Automatic, Setting, finish, prepare
from infoprune.automatic.ways import without_unread
from infoprune.cutoff import reach
from infoprune.data.batches import Batch, EveryNth
from infoprune.device import place_of
from infoprune.errors import InputError
from infoprune.measure.metric import PLAIN, Quality
from infoprune.network.equivalence import copied
from infoprune.options import PruneOptions, chosen
from infoprune.plan import Budget
from infoprune.progress import Progress, silent
from infoprune.regression.layer_fit import HELD_OUT_EVERY
from infoprune.selection.calibration import Calibration
from infoprune.selection.planning import choose_groups

Score = Callable[[nn.Module], float]
"""What is measured of a network on held-out images, in points: higher is better."""

# What is removed in one step at first, and the finest step, in shares of the original's MACs.
_FIRST_STEP = 0.1
_FINEST_STEP = 0.02
_LEAST = 0.05
_COMPARED_AT = 0.7


@dataclass(frozen=True)
class Tried:
    """One network that was judged.

    Args:
        macs: Share of the MACs that was asked for.
        loss: Points lost on held-out images.
        allowed: Whether that is within the loss that is allowed.

    Example:
        >>> Tried(macs=0.8, loss=0.4, allowed=True).allowed
        True
    """

    macs: float
    loss: float
    allowed: bool


def prune_within(
    calibration: Calibration,
    max_loss: float,
    words: Mapping[str, Any],
    spend: Allowance,
    *,
    quality: Quality = PLAIN,
    progress: Progress = silent,
) -> Automatic:
    """Return the smallest network that loses no more than is allowed.

    Every fifth image judges, and no repair sees it.

    Args:
        calibration: The trained network, which is left as it is, and its images, with or without labels.
        max_loss: Points that may be lost: of the metric, hundredths of its unit, where there is one; of accuracy where
            the images have labels; else images in a hundred on which another class is named than by the original.
        words: Words of ``PruneOptions`` without a budget: layers and limits.
        spend: What the run may spend.
        quality: What may be lost, and of which part of the output.
        progress: Called in every stage.

    Raises:
        InputError: A budget or ``keep_share`` is passed too, there is nothing to measure a loss by, or not even the
            smallest cut stays within the loss.

    Example:
        >>> import torch, infoprune
        >>> from infoprune.automatic.effort import allowance
        >>> from infoprune.selection.calibration import Calibration
        >>> _ = torch.manual_seed(0)
        >>> whole = Calibration.of(infoprune.zoo.build("digits").eval(), [torch.rand(16, 1, 8, 8)])
        >>> found = prune_within(whole, 100.0, {"layers": ("features.0",)}, allowance("quick", None))
        >>> found.repair
        'least-squares'
    """
    for way in ("budget", "macs", "parameters", "ratio", "keep"):
        if words.get(way) is not None:
            raise InputError(f"a limit on the loss decides how much is removed: leave out {way}")
    if words.get("keep_share"):
        raise InputError(
            "under a limit on the loss, filters are removed step by step, each from the last: say how many stay at "
            "least, not which share"
        )
    begun = time.perf_counter()
    choice = without_unread(calibration, chosen(**words, macs=_COMPARED_AT))
    choice = _compared_at_a_size_where_ways_differ(calibration, choice)
    judges = list(EveryNth(calibration.batches, HELD_OUT_EVERY, chosen=True))
    others = EveryNth(calibration.batches, HELD_OUT_EVERY, chosen=False)
    fitted = replace(calibration, batches=others, count=calibration.count - sum(map(len, judges)))
    score = _score_on(judges, copied(calibration.model), quality)
    setting = prepare(fitted, choice, spend, quality=quality, progress=progress)
    left = None if spend.minutes is None else spend.minutes - (time.perf_counter() - begun) / 60
    found, tried = smallest_within(setting, max_loss, score, spend, left)
    return replace(found, tried=tuple(asdict(one) for one in tried))


def _compared_at_a_size_where_ways_differ(calibration: Calibration, choice: PruneOptions) -> PruneOptions:
    """Return the choice with the smallest size that its limits and layers allow, where this is above its budget."""
    groups = choose_groups(calibration.model, calibration.groups, choice)
    least = reach(groups, calibration.costs, limits=choice.limits()).macs
    return replace(choice, budget=Budget(macs=max(_COMPARED_AT, least)))


def smallest_within(
    setting: Setting, max_loss: float, score: Score, spend: Allowance, minutes: float | None = None
) -> tuple[Automatic, tuple[Tried, ...]]:
    """Prune in steps while the held-out loss is allowed; where it is not, halve the step.

    Every network is cut from the repaired one before it, so that what was computed is used again.

    Args:
        setting: What the run starts with.
        max_loss: Points that may be lost, as ``score`` counts them.
        score: Measures a network on images that no repair of this run fits.
        spend: What the last repair may spend.
        minutes: Minutes left for the last repair.

    Raises:
        InputError: Not even the smallest cut stays within the loss.

    Example:
        >>> import infoprune
        >>> from infoprune.automatic.effort import allowance
        >>> from infoprune.selection.calibration import Calibration
        >>> _ = torch.manual_seed(0)
        >>> whole = Calibration.of(infoprune.zoo.build("digits").eval(), [torch.rand(16, 1, 8, 8)])
        >>> spend = allowance("quick", None)
        >>> choice = PruneOptions("reconstruction", budget=Budget(macs=0.8), layers=("features.0",))
        >>> setting = prepare(whole, choice, spend)
        >>> found, tried = smallest_within(setting, 1.0, lambda model: 99.0, spend)
        >>> all(one.allowed for one in tried)
        True
    """
    whole = score(setting.descent.original)
    level, reached, step = setting.start, 1.0, _FIRST_STEP
    last: Level | None = None
    tried: list[Tried] = []
    while step >= _FINEST_STEP and reached - step >= _LEAST:
        asked = reached - step
        try:
            cut = setting.descent.cut(level, Budget(macs=asked))
        except InputError:
            step /= 2  # the layers' limits are reached
            continue
        below = setting.descent.repair(cut)
        loss = whole - score(below.model)
        tried.append(Tried(asked, loss, loss <= max_loss))
        if loss <= max_loss:
            level, last, reached = below, below, asked
        else:
            step /= 2
    if last is None:
        least = min(one.loss for one in tried) if tried else float("nan")
        raise InputError(
            f"no smaller network stays within {max_loss:g} points: the least loss was {least:.2f} points at "
            f"{100 * (1 - _FINEST_STEP):g} % of the MACs; allow more, or pass more images"
        )
    # The network that was judged is the one that is returned, unless a further repair comes nearer.
    judged = finish(setting, {1: last}, spend, minutes)
    if whole - score(judged.model) > max_loss:
        assert last.plan is not None
        judged = replace(judged, plan=last.plan, model=last.model, repair="least-squares")
    return judged, tuple(tried)


def _score_on(judges: Sequence[Batch], original: nn.Module, quality: Quality) -> Score:
    """Return what measures a network on these images, in points; what cannot be measured is refused before the work."""
    if not judges:
        raise InputError(
            f"every {HELD_OUT_EVERY}th image is held out to measure the loss, and there is none: pass more"
        )
    if quality.metric is not None:
        quality.measure(original, judges)
        return lambda model: quality.points(quality.measure(model, judges)[0])
    place = place_of(original)
    images = [some.placed(*place) for some in judges]
    labels = [some.known_classes() for some in judges]
    known = [one for one in labels if one is not None]
    _check_classes(quality.answers(original), images[0], labelled=len(known) == len(labels))
    if len(known) == len(labels):
        return accuracy_on(images, known, quality)
    return agreement_on(images, original, quality)


@torch.no_grad()
def _check_classes(original: Callable[[Tensor], Any], images: Tensor, *, labelled: bool) -> None:
    output = original(images)
    if not isinstance(output, Tensor) or output.ndim < 2 or output.shape[1] < 2 or (labelled and output.ndim > 2):
        given = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"type {type(output).__name__}"
        raise InputError(
            f"a loss in points counts images by their class, which outputs of {given} do not name: choose the "
            "(n, classes) outputs by 'output', or pass what may be lost as 'metric'"
        )


def accuracy_on(images: Sequence[Tensor], labels: Sequence[Tensor], quality: Quality = PLAIN) -> Score:
    """Return what measures top-1 accuracy in percent.

    Example:
        >>> net = nn.Flatten()
        >>> accuracy_on([torch.eye(3)], [torch.tensor([0, 1, 0])])(net) > 66
        True
    """

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        named = quality.answers(model)
        right = sum(int((named(x).argmax(1) == y.to(x.device)).sum()) for x, y in zip(images, labels, strict=True))
        return 100 * right / max(1, sum(one.numel() for one in labels))

    return score


def agreement_on(images: Sequence[Tensor], original: nn.Module, quality: Quality = PLAIN) -> Score:
    """Return what measures on how many images a network names the class that the original names, in percent.

    Of ``(n, classes, ...)`` outputs, every position counts.

    Example:
        >>> agreement_on([torch.eye(3)], nn.Flatten())(nn.Flatten())
        100.0
    """
    with torch.no_grad():
        named = [quality.answers(original)(some).argmax(1) for some in images]
    return accuracy_on(images, named, quality)
