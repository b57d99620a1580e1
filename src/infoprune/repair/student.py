"""A pruned network that is trained towards the original, and its best weights so far.

The weights with the lowest divergence may name the class of the original less often than the start did. Weights on the
straight line between both often have a low divergence and lose no class (Wortsman et al. 2022, arXiv 2109.01903).
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from infoprune.measure.divergence import Divergence, agrees_as_often
from infoprune.repair.distil_state import DistilState, moments_of, restore_moments
from infoprune.runs.together import Processes

_LEAST_SIZE = 1e-3
# Where the divergence after an epoch is this multiple of the lowest, the rate was too high. On EfficientNet-Lite0, with
# 79.4 % after least squares, a rate of 1e-2 ends at 41.6 %, and 1e-3 at 78.2 % with a cross entropy of 1.09 in place of
# 1.25 (500 images, six minutes).
_MUCH_WORSE, _LOWER = 2.0, 1 / 3
# Losses of batches of 16 images differ by more than a factor of two from batch to batch.
_LOST = 5.0
# What is matched, and how the loss of its first batch is saved; below zero where there is none.
_MATCHED = MAPS, MAPS_AND_LOGITS = "maps", "maps and logits"
_FIRST = "first loss of "
# Shares of the way from the start to the nearest weights that are tried at the end.
_SHARES = (0.75, 0.5, 0.25)


@dataclass
class Student:
    """A network in training by Adam, and the weights of it that came nearest to the original.

    Args:
        network: The network.
        optimiser: Of its weights.
        begun: How far it was from the original at the start, on held-out images.
        start: The weights at the start.
        best: The weights that came nearest, among those that name the original's class as often as the start does.
        least: How far they are.
        nearest: The weights that came nearest, whatever class they name.
        away: How far these are.
        rate: The learning rate, relative to the size of each weight tensor.
        first: Losses of the first batches since the start or the last return, by what is matched.
        steps: Number of steps so far.

    Example:
        >>> from infoprune.runs.together import current
        >>> network = nn.Linear(2, 1)
        >>> student = Student.of(network, Divergence(0.5, 1.0, 8), rate=0.01)
        >>> student.step_down(network(torch.ones(4, 2)).square().mean(), share=0.0, processes=current())
        >>> student.judge(Divergence(0.4, 1.0, 8))
        >>> student.steps, student.least
        (1, 0.4)
    """

    network: nn.Module
    optimiser: torch.optim.Optimizer
    begun: Divergence
    start: dict[str, Tensor]
    best: dict[str, Tensor]
    least: float
    nearest: dict[str, Tensor]
    away: float
    rate: float
    first: dict[str, float] = field(default_factory=dict)
    steps: int = 0

    @classmethod
    def of(cls, network: nn.Module, begun: Divergence, rate: float) -> Student:
        """Begin with the weights that a network has; they are trained in place."""
        weights = [p.requires_grad_(True) for p in network.parameters() if p.is_floating_point()]
        optimiser = torch.optim.Adam([{"params": [weight], "size": _size(weight)} for weight in weights])
        start, away = copy.deepcopy(network.state_dict()), begun.value
        return cls(network, optimiser, begun, start, start, away, start, away, rate)

    @property
    def weights(self) -> list[Tensor]:
        """The weights that are trained."""
        return [weight for some in self.optimiser.param_groups for weight in some["params"]]

    def step_down(self, loss: Tensor | None, share: float, processes: Processes) -> None:
        """Take a step down the loss of a batch.

        Args:
            loss: That of the part of the batch that this process has; ``None`` where it has none.
            share: Finished share of the training; the rate falls along a cosine to zero.
            processes: Whose gradients are added up.
        """
        for some in self.optimiser.param_groups:
            some["lr"] = some["size"] * self.rate * (1 + math.cos(math.pi * share)) / 2
        self.optimiser.zero_grad()
        if loss is not None:
            torch.autograd.backward(loss)
        _add_up_gradients(processes, self.weights)
        nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimiser.step()
        self.steps += 1

    def judge(self, found: Divergence) -> None:
        """Keep the weights if they are the best so far; go back to the best, with a lower rate, from much worse ones.

        Args:
            found: How far the network is from the original now, on the images of ``begun``.
        """
        if found.value < self.away:
            self.nearest, self.away = copy.deepcopy(self.network.state_dict()), found.value
        if not self._keep_if_best(found) and found.value > _MUCH_WORSE * self.least:
            self.go_back()

    def is_lost(self, loss: float, what: str) -> bool:
        """Return whether the loss of a batch is much worse than that of the first batch, or not finite.

        Args:
            loss: Of the batch, before the step.
            what: What is matched; the first loss of each is kept.
        """
        return not loss <= _LOST * self.first.setdefault(what, loss)

    def go_back(self) -> None:
        """Return to the best weights so far, with a lower rate."""
        self.network.load_state_dict(self.best)
        self.optimiser.state.clear()
        self.rate *= _LOWER
        # A batch may be harder than the first one: the next one, at these weights, is what others are compared with.
        self.first.clear()

    def look_between(self, judged: Callable[[nn.Module], Divergence]) -> None:
        """Look for better weights between the start and the nearest ones, where these name fewer of the classes.

        Args:
            judged: Returns how far a network is from the original, on the images of ``begun``.
        """
        for share in _SHARES if self.away < self.least else ():
            self.network.load_state_dict(_between(self.start, self.nearest, share))
            self._keep_if_best(judged(self.network))

    def _keep_if_best(self, found: Divergence) -> bool:
        """Keep the weights of the network if they are the best so far, and return whether they are."""
        is_best = found.value < self.least and agrees_as_often(found, self.begun)
        if is_best:
            self.best, self.least = copy.deepcopy(self.network.state_dict()), found.value
        return is_best

    def note(self, state: DistilState, seconds: float) -> None:
        """Save all that the rest of the training depends on, and the seconds spent so far."""
        parts = {
            "weights": self.network.state_dict(),
            "best": self.best,
            "nearest": self.nearest,
            "moments": moments_of(self.optimiser),
        }
        figures = {_FIRST + what: self.first.get(what, -1.0) for what in _MATCHED}
        state.note(parts, step=self.steps, least=self.least, away=self.away, rate=self.rate, seconds=seconds, **figures)

    def restore(self, state: DistilState) -> None:
        """Go on from what was saved."""
        self.network.load_state_dict(state.parts["weights"])
        restore_moments(self.optimiser, state.parts.get("moments", {}))
        self.best, self.least, self.rate = state.parts["best"], state.figures["least"], state.figures["rate"]
        self.nearest, self.away = state.parts["nearest"], state.figures["away"]
        self.steps = int(state.figures["step"])
        first = {what: state.figures[_FIRST + what] for what in _MATCHED}
        self.first = {what: loss for what, loss in first.items() if loss >= 0}


def _add_up_gradients(processes: Processes, weights: Sequence[Tensor]) -> None:
    """Replace the gradients of the parts of a batch by those of the whole batch; the first process has a part."""
    if not processes.several:
        return
    used = processes.agreed([weight.grad is not None for weight in weights])
    for weight in itertools.compress(weights, used):
        weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
    processes.add_up([weight.grad for weight in weights if weight.grad is not None])


def _between(start: Mapping[str, Tensor], end: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Return the weights at a share of the way; what is not a floating point number is that of the start."""
    return {
        name: torch.lerp(one, end[name].to(one), share) if one.is_floating_point() else one
        for name, one in start.items()
    }


def _size(weight: Tensor) -> float:
    return max(float(weight.detach().double().square().mean().sqrt()), _LEAST_SIZE)
