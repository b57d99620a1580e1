"""The schedules of HRel (Sarvani et al. 2022, arXiv 2202.10716), UFKT (2022) and PRF (2024) by name.

Those of HRel are as published and shortened; those of UFKT and PRF follow the published code, and no run of them is
claimed to reach the published figures.

"x 0.1 at epoch 20 of 40" is a step at the share 0.5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from infoprune.errors import InputError, unknown
from infoprune.iterative.schedule import LayerPace, Pace, PruningSchedule
from infoprune.training.recipe import Recipe

_PAPER = Recipe(schedule="steps", nesterov=False)
_VGG_CONVOLUTIONS = (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40)
_VGG_KEPT = (20, 48, 64, 64, 95, 107, 107, 175, 71, 71, 44, 44, 56)
_VGG_FILTERS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
_VGG_SHARES = (0.02,) * 2 + (0.04,) * 2 + (0.05,) * 3 + (0.1,) * 6


def _lenet5() -> PruningSchedule:
    recipe = replace(_PAPER, epochs=40, learning_rate=0.1)
    return PruningSchedule(
        layers=(LayerPace("conv1", Pace(0.04, 1), 2), LayerPace("conv2", Pace(0.12, 1), 3)),
        initial=replace(recipe, step_at=(0.5, 0.75)),
        retraining=replace(recipe, step_at=(0.25, 0.5)),
        batch_size=100,
        augmentation=False,
    )


def _lenet5_short() -> PruningSchedule:
    cycle = Recipe(weight_decay=5e-4)
    # Two and three filters learn labels by heart, and the last rate kills them where the gradient is not clipped.
    taught = replace(cycle, distillation=1.0, temperature=2.0, clip=2.0)
    return replace(
        _lenet5(),
        initial=replace(cycle, epochs=8, learning_rate=0.05),
        retraining=replace(taught, epochs=2, learning_rate=0.02),
        last=replace(taught, epochs=120, learning_rate=0.05, weight_decay=1e-4),
        augmentation=True,
    )


def _vgg16() -> PruningSchedule:
    return PruningSchedule(
        layers=tuple(
            LayerPace(f"features.{place}", Pace(share, 1), kept)
            for place, share, kept in zip(_VGG_CONVOLUTIONS, _VGG_SHARES, _VGG_KEPT, strict=True)
        ),
        initial=replace(_PAPER, epochs=300, learning_rate=0.1, step_at=(80 / 300, 140 / 300, 230 / 300)),
        retraining=replace(_PAPER, epochs=90, learning_rate=0.01, step_at=(40 / 90, 70 / 90)),
        batch_size=100,
    )


def _vgg16_short() -> PruningSchedule:
    cycle = Recipe(learning_rate=0.02, weight_decay=5e-4, distillation=0.5)
    return replace(
        _vgg16(),
        layers=tuple(
            LayerPace(f"features.{place}", in_rounds(filters, kept, 6), kept)
            for place, filters, kept in zip(_VGG_CONVOLUTIONS, _VGG_FILTERS, _VGG_KEPT, strict=True)
        ),
        initial=replace(cycle, epochs=12, learning_rate=0.1, distillation=0.0),
        retraining=replace(cycle, epochs=1),
        last=replace(cycle, epochs=20, learning_rate=0.05),
    )


def _resnet56(inner_only: bool) -> PruningSchedule:
    recipe = replace(_PAPER, weight_decay=2e-4, nesterov=True)
    layers = ".*.conv1" if inner_only else ".*"
    return PruningSchedule(
        layers=tuple(
            LayerPace(f"layer{stage}{layers}", Pace(plus=goes), kept)
            for stage, goes, kept in ((1, 1, 8), (2, 2, 15), (3, 4, 30))
        ),
        initial=replace(recipe, epochs=182, learning_rate=0.1, step_at=(91 / 182, 136 / 182)),
        retraining=replace(recipe, epochs=100, learning_rate=0.01, step_at=(0.2, 0.7)),
        tap="convolution",
        batch_size=100,
    )


def _resnet56_short(inner_only: bool) -> PruningSchedule:
    cycle = Recipe(learning_rate=0.02, weight_decay=2e-4)
    full = _resnet56(inner_only)
    return replace(
        full,
        layers=tuple(replace(one, pace=Pace(plus=2 * one.pace.plus)) for one in full.layers),
        initial=replace(cycle, epochs=20, learning_rate=0.1),
        retraining=replace(cycle, epochs=1),
        last=replace(cycle, epochs=2),
    )


def _resnet50(kept: tuple[int, int, int, int]) -> PruningSchedule:
    recipe = replace(_PAPER, weight_decay=2e-4)
    return PruningSchedule(
        layers=tuple(
            LayerPace(f"layer{stage}.*.conv{inner}", Pace(share, 1), kept[stage - 1])
            for stage, share in ((1, 0.09), (2, 0.09), (3, 0.09), (4, 0.07))
            for inner in (1, 2)
        ),
        initial=replace(recipe, epochs=3, learning_rate=1e-4, schedule="constant"),
        retraining=replace(recipe, epochs=33, learning_rate=1e-3, step_at=(10 / 33, 25 / 33)),
        tap="convolution",
        batch_size=80,
    )


def _ufkt_lenet5() -> PruningSchedule:
    recipe = replace(_PAPER, epochs=30, learning_rate=0.01, step_at=(1 / 3, 2 / 3))
    return PruningSchedule(
        layers=(LayerPace("conv1", Pace(0.04, 1), 3), LayerPace("conv2", Pace(0.1, 1), 3)),
        retraining=recipe,
        before=replace(_PAPER, epochs=15, learning_rate=1e-4, schedule="constant", weight_decay=0.0),
        penalty="ufkt",
        penalty_options={"strength": 1e-2, "form": "code"},
        criterion="l1",
        batch_size=100,
        augmentation=False,
    )


def _ufkt_resnet56() -> PruningSchedule:
    return PruningSchedule(
        layers=tuple(
            LayerPace(f"layer{stage}.*.conv1", Pace(plus=goes), 6) for stage, goes in ((1, 1), (2, 2), (3, 4))
        ),
        retraining=replace(_PAPER, epochs=80, learning_rate=0.01, step_at=(20 / 80, 70 / 80)),
        before=replace(_PAPER, epochs=15, learning_rate=1e-4, schedule="constant", weight_decay=0.0),
        penalty="ufkt",
        penalty_options={"strength": 1e-3, "form": "code"},
        criterion="l1",
        batch_size=100,
    )


def _prf_vgg16() -> PruningSchedule:
    published = _vgg16()
    return replace(published, initial=None, criterion="prf", options={"similarity": 0.46})


def in_rounds(filters: int, limit: int, rounds: int) -> Pace:
    """Return the pace that brings a layer from ``filters`` to ``limit`` in about ``rounds`` equal rounds.

    Raises:
        InputError: The limit is not below the number of filters, or there are no rounds.

    Example:
        >>> in_rounds(64, 16, 4).filters(64)
        19
    """
    if not 0 < limit < filters or rounds < 1:
        raise InputError(f"{filters} filters cannot come down to {limit} in {rounds} rounds")
    return Pace(round(1 - (limit / filters) ** (1 / rounds), 4), 1)


@dataclass(frozen=True)
class NamedSchedule:
    """A schedule that has a name.

    Args:
        make: Makes it.
        network: Name in the zoo of the network it is for.
        data: The data set it is for.
        description: One line.

    Example:
        >>> named_schedule("hrel-lenet5").data
        'mnist'
    """

    make: Callable[[], PruningSchedule]
    network: str
    data: str
    description: str


_NAMED = {
    "hrel-lenet5": NamedSchedule(_lenet5, "lenet5_hrel", "mnist", "2 and 3 of 20 and 50 filters, as published"),
    "hrel-lenet5-short": NamedSchedule(
        _lenet5_short, "lenet5_hrel", "mnist", "as hrel-lenet5, 162 epochs in place of 760, distilled"
    ),
    "hrel-vgg16": NamedSchedule(_vgg16, "vgg16_hrel", "cifar10", "the published widths, as published"),
    "hrel-vgg16-short": NamedSchedule(
        _vgg16_short, "vgg16_hrel", "cifar10", "the same widths in 6 rounds of one epoch, then 20, with distillation"
    ),
    "hrel-resnet56": NamedSchedule(
        lambda: _resnet56(False), "resnet56", "cifar10", "8, 15, 30 filters by stage, residual streams too"
    ),
    "hrel-resnet56-inner": NamedSchedule(
        lambda: _resnet56(True), "resnet56", "cifar10", "8, 15, 30 filters in the first convolutions of the blocks"
    ),
    "hrel-resnet56-short": NamedSchedule(
        lambda: _resnet56_short(False),
        "resnet56",
        "cifar10",
        "as hrel-resnet56, in 5 rounds of one epoch, the last of 2",
    ),
    "hrel-resnet56-inner-short": NamedSchedule(
        lambda: _resnet56_short(True),
        "resnet56",
        "cifar10",
        "as hrel-resnet56-inner, in 5 rounds of one epoch, the last of 2",
    ),
    "hrel-resnet50": NamedSchedule(
        lambda: _resnet50((27, 49, 93, 235)), "resnet50", "folder", "63.99 % of the MACs, as published"
    ),
    "hrel-resnet50-small": NamedSchedule(
        lambda: _resnet50((25, 45, 85, 219)), "resnet50", "folder", "66.42 % of the MACs, as published"
    ),
    "ufkt-lenet5": NamedSchedule(
        _ufkt_lenet5, "lenet5_hrel", "mnist", "L1 norms, the filters to be cut shrunk first, for a trained network"
    ),
    "ufkt-resnet56": NamedSchedule(
        _ufkt_resnet56, "resnet56", "cifar10", "as ufkt-lenet5, the first convolutions of the blocks down to 6 filters"
    ),
    "prf-vgg16": NamedSchedule(
        _prf_vgg16,
        "vgg16_hrel",
        "cifar10",
        "clusters of similar filters, pace and limits of hrel-vgg16, for a trained network",
    ),
}


def named_schedules() -> Mapping[str, NamedSchedule]:
    """Return every schedule that has a name.

    Example:
        >>> len(named_schedules()) > 0
        True
    """
    return dict(_NAMED)


def named_schedule(name: str) -> NamedSchedule:
    """Return the schedule of that name.

    Raises:
        InputError: There is none.

    Example:
        >>> named_schedule("hrel-lenet5").network
        'lenet5_hrel'
    """
    if name not in _NAMED:
        raise unknown("schedule", name, _NAMED)
    return _NAMED[name]
