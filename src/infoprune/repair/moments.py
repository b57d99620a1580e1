"""Moments of batch norms over all batches, in the order of the batches, by one process or several."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from infoprune.errors import InputError
from infoprune.runs.together import Message, Processes


@dataclass
class Moments:
    """Exact running moments of channels, over any number of batches.

    Args:
        count: Values per channel so far.
        mean: ``(C,)`` float64.
        squares: ``(C,)`` float64, the sum of squared distances from the mean.

    Example:
        >>> moments = Moments.of(torch.tensor([[[1.0, 3.0]]]))
        >>> moments.join(Moments.of(torch.tensor([[[5.0, 7.0]]])))
        >>> moments.count, moments.mean.tolist(), round(moments.squares.item(), 3)
        (4, [4.0], 20.0)
    """

    count: int
    mean: Tensor
    squares: Tensor

    @classmethod
    def of(cls, maps: Tensor) -> Moments:
        """Return the moments of ``(n, C, ...)`` maps.

        Sums over one image are float32 or better, sums over images float64: converting all maps to float64 would take
        most of the time of a pass. The rounding of the mean to float32 is corrected.
        """
        values = maps.detach().reshape(*maps.shape[:2], -1)
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        mean = values.mean(dim=2).double().mean(dim=0)
        about = mean.to(values.dtype)
        distances = torch.linalg.vector_norm(values - about[:, None], dim=2).double()
        count = values.shape[0] * values.shape[2]
        return cls(count, mean, distances.square().sum(dim=0) - count * (mean - about).square())

    def join(self, other: Moments) -> None:
        """Add the moments of further values (Chan, Golub and LeVeque 1983)."""
        total = self.count + other.count
        difference = other.mean - self.mean
        self.mean = self.mean + difference * (other.count / total)
        self.squares = self.squares + other.squares + difference.square() * (self.count * other.count / total)
        self.count = total

    def write(self, norm: _BatchNorm) -> None:
        """Write these as the running statistics of a batch norm."""
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.copy_(self.mean)
        norm.running_var.copy_(self.squares / self.count)


@dataclass
class Relay:
    """The moments of all batches so far, handed from the process of one batch to that of the next, norm by norm.

    A process waits at a norm only until the process of the batch before has passed it: all run their batches at the
    same time, one a norm behind the other. The moments are joined in the order of the batches, as in one process.

    Args:
        processes: Those that share the batches, one after the other.
        norms: The batch norms, each of which runs at most once in a forward pass where there are several processes.

    Example:
        >>> from infoprune.runs.together import current
        >>> Relay(current(), []).norms
        []
    """

    processes: Processes
    norms: list[_BatchNorm]
    _seen: dict[_BatchNorm, Moments] = field(default_factory=dict)
    _left: list[Message] = field(default_factory=list)
    _awaited: list[Message] = field(default_factory=list)
    _met: set[_BatchNorm] = field(default_factory=set)
    _number: int = -1

    def begin(self, number: int) -> None:
        """Begin the batch of that number, from 0."""
        self._number = number
        self._met.clear()
        if number and self.processes.several:
            before = (number - 1) % self.processes.world
            notes = [torch.empty(2 * norm.num_features + 1, dtype=torch.float64) for norm in self.norms]
            # All at once: the other process then sends without asking whether this one is ready.
            self._awaited = [self.processes.awaited(note, before, tag) for tag, note in enumerate(notes)]

    def joined(self, norm: _BatchNorm, found: Moments) -> Moments:
        """Return the moments of all batches up to this one, whose own are ``found``."""
        if self.processes.several:
            if norm in self._met:
                raise InputError(
                    "a batch norm runs several times in one forward pass: re-estimate it in one process, without "
                    "--devices"
                )
            self._met.add(norm)
            self._receive(norm)
        if norm in self._seen:
            self._seen[norm].join(found)
        else:
            self._seen[norm] = found
        self._pass_on(norm)
        return self._seen[norm]

    def end(self) -> None:
        """End a batch: what a norm that did not run has seen is handed on as it is."""
        if self.processes.several:
            for norm in self.norms:
                if norm not in self._met:
                    self._receive(norm)
                    self._pass_on(norm)
            self._settle()

    def finish(self) -> None:
        """Write the moments over all batches of all processes into the norms.

        Raises:
            InputError: There were no batches.
        """
        last = max(self.processes.exchanged(self._number))
        if last < 0:
            raise InputError("there are no images: the loader is empty, give at least one batch")
        if not self.processes.several:
            return
        # The process whose turn would be next has received what all have seen.
        after = (last + 1) % self.processes.world
        if self.processes.rank == after:
            self.begin(last + 1)
            for norm in self.norms:
                self._receive(norm)
        found = self.processes.exchanged([self._seen.get(norm) for norm in self.norms])[after]
        for norm, moments in zip(self.norms, found, strict=True):
            if moments is not None:
                moments.write(norm)
        for one in self._left:
            one.wait()

    def _receive(self, norm: _BatchNorm) -> None:
        if self._number == 0:
            return
        waiting = self._awaited[self.norms.index(norm)]
        waiting.wait()
        note = waiting.tensor
        if note[0]:
            assert norm.running_mean is not None
            mean, squares = note[1:].to(norm.running_mean.device).chunk(2)
            self._seen[norm] = Moments(int(note[0]), mean, squares)

    def _pass_on(self, norm: _BatchNorm) -> None:
        if not self.processes.several:
            return
        known = self._seen.get(norm)
        note = torch.zeros(2 * norm.num_features + 1, dtype=torch.float64)
        if known is not None:
            note = torch.cat([note.new_tensor([known.count]), known.mean.cpu(), known.squares.cpu()])
        after = (self._number + 1) % self.processes.world
        self._left.append(self.processes.leave(note, after, self.norms.index(norm)))

    def _settle(self) -> None:
        """Forget the notes that have arrived."""
        self._left = [one for one in self._left if not one.has_arrived()]
