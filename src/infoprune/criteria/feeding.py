"""Feeds the feature maps of coupled groups to their criteria, in one process or several."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from infoprune.criteria.base import Criterion, CriterionInfo, Tap
from infoprune.data.batches import Batch, FirstImages, parse, some_batches
from infoprune.errors import InputError
from infoprune.network.coupled_groups import CoupledGroup
from infoprune.network.group_maps import capture_groups
from infoprune.progress import Progress, silent
from infoprune.runs.together import Processes

States = dict[str, Criterion]
"""By group, the criterion that scores it and what it has seen so far."""


@dataclass(frozen=True)
class PassProgress:
    """How far one of several passes over the images is.

    Example:
        >>> def shown(stage, done, total):
        ...     print(stage, done, total)
        >>> PassProgress(shown, number=1, passes=2)(3, 4)
        reading feature maps 7 8
    """

    progress: Progress
    number: int = 0
    passes: int = 1

    def __call__(self, done: int, batches: int) -> None:
        """Report that ``done`` of the batches of this pass are read."""
        done += self.number * batches
        self.progress("reading feature maps", done, max(self.passes * batches, done))


@dataclass(frozen=True)
class Reading:
    """How the feature maps that a criterion sees are read.

    Args:
        model: The network.
        images: The images.
        info: The criterion.
        tap: Where the maps are read.
        device: Where the batches are moved; ``None`` for the network's device.

    Example:
        >>> import infoprune
        >>> from infoprune.criteria import find
        >>> from infoprune.criteria.scoring import create_states
        >>> from infoprune.network.coupled_groups import find_groups
        >>> net, images = infoprune.zoo.build("digits").eval(), torch.rand(8, 1, 8, 8)
        >>> groups, info = find_groups(net, images).groups, find("variance")
        >>> states = create_states(net, groups, info)
        >>> Reading(net, FirstImages([images]), info, "activation", None).feed(states, groups)
        >>> states["features.0"].compute().scores.shape
        torch.Size([16])
    """

    model: nn.Module
    images: FirstImages
    info: CriterionInfo
    tap: Tap
    device: torch.device | str | None

    def feed(
        self, states: States, groups: Sequence[CoupledGroup], progress: PassProgress = PassProgress(silent)
    ) -> None:
        """Update the criteria of some groups in one pass, until all of them have seen enough."""

        def consume(name: str, maps: Tensor, labels: Tensor | None) -> None:
            if not _has_settled(states[name]):
                states[name].update(maps, _known(self.info, maps, labels))

        def until_settled() -> Iterator[Batch]:
            batches = self.images.number_of_batches()
            for done, batch in enumerate(self.images, 1):
                yield batch
                progress(done, batches)
                if all(_has_settled(states[group.name]) for group in groups):
                    return

        labelled = self.info.needs_labels
        capture_groups(self.model, until_settled(), groups, self.tap, consume, device=self.device, labelled=labelled)


@dataclass
class SharedReading:
    """One pass over the images by several processes: each reads its share and scores its share of the groups.

    Batches are read in rounds, one by each process. Where a criterion keeps maps, these are passed on to the process
    that scores the group, which is updated by the same maps in the same order as in one process. Where it streams, a
    criterion of its own has seen each batch, and these are merged in the order of the batches.

    Args:
        reading: The network and the images.
        processes: Those that read them.
        groups: The groups of this pass.
        owners: By group, the rank that scores it.
        states: By group its criterion; those of other processes are left as they are.
        blank: By group a criterion that has seen nothing, and stays so; empty where criteria keep maps.

    Example:
        >>> import infoprune
        >>> from infoprune.criteria import find
        >>> from infoprune.criteria.scoring import create_states
        >>> from infoprune.network.coupled_groups import find_groups
        >>> from infoprune.runs.together import current
        >>> net, images = infoprune.zoo.build("digits").eval(), torch.rand(8, 1, 8, 8)
        >>> groups, info = find_groups(net, images).groups, find("variance")
        >>> reading = Reading(net, FirstImages([images]), info, "activation", None)
        >>> owners = {group.name: 0 for group in groups}  # one process scores everything
        >>> states = create_states(net, groups, info)
        >>> blank = create_states(net, groups, info)
        >>> shared = SharedReading(reading, current(), groups, owners, states, blank)
        >>> shared.feed(PassProgress(silent))
        >>> states["features.0"].compute().scores.shape
        torch.Size([16])
    """

    reading: Reading
    processes: Processes
    groups: Sequence[CoupledGroup]
    owners: Mapping[str, int]
    states: States
    blank: States
    _maps: dict[str, Tensor] = field(default_factory=dict)
    _labels: dict[str, Tensor] = field(default_factory=dict)

    def feed(self, progress: PassProgress) -> None:
        """Update the criteria of the groups, until all of them have seen enough or there are no more images."""
        info, share = self.reading.info, some_batches(self.reading.images, self.processes.share)
        first = next(share, None)
        if not any(self.processes.exchanged(first is not None)):
            raise InputError("there are no images: the loader is empty, give at least one batch")
        open_, total = True, self.reading.images.number_of_batches()

        def batches() -> Iterator[Batch]:
            nonlocal open_
            for number, batch in chain([first] if first is not None else [], share):
                yield parse(batch)
                progress(number + 1, total)
                open_ = self._round(has_batch=True)
                if not open_:
                    return

        if first is not None:
            capture_groups(
                self.reading.model, batches(), self.groups, self.reading.tap, self._take, device=self.reading.device,
                labelled=info.needs_labels,
            )  # fmt: skip
        while open_:
            open_ = self._round(has_batch=False)

    def _take(self, name: str, maps: Tensor, labels: Tensor | None) -> None:
        self._maps[name], self._labels[name] = maps, _known(self.reading.info, maps, labels)

    def _round(self, *, has_batch: bool) -> bool:
        """Exchange what all processes found in one batch each, and return whether another round follows."""
        some_had = self._pass_on(has_batch) if self.reading.info.holds_maps else self._merge(has_batch)
        self._maps, self._labels = {}, {}
        if not some_had or not hasattr(next(iter(self.states.values())), "settled"):
            return some_had
        mine = (self.states[name] for name, owner in self.owners.items() if owner == self.processes.rank)
        return not all(self.processes.exchanged(all(map(_has_settled, mine))))

    def _pass_on(self, has_batch: bool) -> bool:
        labels = self.processes.exchanged(self._labels if has_batch else None)
        for name, maps in self.processes.pass_on(self._maps, self.owners).items():
            theirs = [part[name] for part in labels if part is not None and name in part]
            for some, classes in zip(maps, theirs, strict=True):
                if not _has_settled(self.states[name]):
                    self.states[name].update(some, classes.to(some.device))
        return any(part is not None for part in labels)

    def _merge(self, has_batch: bool) -> bool:
        seen = {name: _with(self.blank[name], copy.deepcopy(_state_of(self.blank[name]))) for name in self._maps}
        for name, criterion in seen.items():
            criterion.update(self._maps[name], self._labels[name])
        parts = self.processes.exchanged({name: _state_of(one) for name, one in seen.items()} if has_batch else None)
        for part in (part for part in parts if part is not None):
            for name, state in part.items():
                if self.owners[name] == self.processes.rank and not _has_settled(self.states[name]):
                    self.states[name].merge(_with(self.blank[name], state))
        return any(part is not None for part in parts)


def _with(criterion: Criterion, state: Mapping[str, Any]) -> Criterion:
    """Return a criterion like another one that has seen something else."""
    found = copy.copy(criterion)
    vars(found).update(state)
    return found


def _known(info: CriterionInfo, maps: Tensor, labels: Tensor | None) -> Tensor:
    if labels is None and info.needs_labels:
        raise InputError(f"the criterion '{info.name}' needs labels: give (images, labels) pairs")
    return torch.full((len(maps),), -1, device=maps.device) if labels is None else labels


def _state_of(criterion: Criterion) -> dict[str, Any]:
    """Return what a criterion has seen; the functions it is made of are the same in every process."""
    return {name: value for name, value in vars(criterion).items() if not callable(value)}


def _has_settled(criterion: Criterion) -> bool:
    return bool(getattr(criterion, "settled", False))
