"""Sums of normal equations in portions: the same result, bit for bit, from one process or several.

A rounded sum depends on the order in which it is formed. The batches are therefore divided into at most 16 portions of
successive batches, whatever the number of processes. Each portion is summed by itself, in one process, and the
portions are added in their order. With more than 16 processes there is one portion for each, and results differ by
rounding, and where portions are compared, by their number.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from infoprune.regression.few_samples import Samples
from infoprune.regression.normal_equations import Equations, NormalEquations
from infoprune.regression.products import Products
from infoprune.regression.sampling import PortionMoments, sampling_errors
from infoprune.runs.together import Message, current

PORTIONS = 16
# Batches in a portion where nobody knows how many there are.
_BATCHES_OF_STREAM = 8


class Portions:
    """Normal equations by name, summed portion by portion over batches that several processes share.

    Args:
        shapes: By name ``(g, F, O)``: groups, features and outputs.
        batches: Number of batches, 0 where it is not known.
        device: Where the sums are.
        receivers: By name the ranks that need the sum; by default the first.
        few: Names whose samples are kept in place of sums.
        compared: Whether portions are compared, for :meth:`sampling_errors`.

    Example:
        >>> portions = Portions({"fc": (1, 2, 1)}, batches=2)
        >>> for batch in range(2):
        ...     portions.products(batch)["fc"].add(torch.ones(1, 2, 3), torch.ones(1, 1, 3))
        >>> portions.equations()["fc"].count
        6
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, int, int]],
        batches: int,
        device: torch.device | None = None,
        receivers: Mapping[str, Sequence[int]] | None = None,
        few: Collection[str] = (),
        *,
        compared: bool = False,
    ) -> None:
        self.processes = current()
        self._shapes = {name: shape for name, shape in shapes.items() if name not in few}
        self._samples = {name: Samples(*shapes[name][1:], device) for name in shapes if name in few}
        self._device = device
        self._receivers = dict.fromkeys(shapes, (0,)) if receivers is None else receivers
        self._portion_of = portion_of(batches, self.processes.world)
        # Where the number of batches is known, so is the number of portions, and nobody has to be asked.
        self._portions = self._portion_of(batches - 1) + 1 if batches else None
        self._sums: dict[str, NormalEquations] = {}
        self._compared: dict[str, list[PortionMoments]] | None = {} if compared else None
        # Those of the portion before. Their memory is used again: the system takes long to clear new memory.
        self._spent: dict[str, NormalEquations] = {}
        self._products: dict[str, Products] | None = None
        self._sending: list[Message] = []
        self._round = 0

    @property
    def share(self) -> Callable[[int], bool] | None:
        """Which batches this process reads, by their numbers; ``None`` for all."""
        return (lambda batch: self.processes.reads(self._portion_of(batch))) if self.processes.several else None

    def products(self, batch: int) -> Mapping[str, Products | Samples]:
        """Return the sums that a batch is added to; this process reads it, and batches come in their order."""
        wanted = self._portion_of(batch) // self.processes.world
        while self._round < wanted:
            self._finish_round()
        if self._products is None:
            self._products = {
                name: Products(*shape, self._device, memory=self._spent.pop(name, None))
                for name, shape in self._shapes.items()
            }
        for samples in self._samples.values():
            samples.batch = batch
        return {**self._products, **self._samples}

    def equations(self) -> dict[str, Equations]:
        """Return the sums over all batches of all processes, by the names that this process receives."""
        while self._finish_round():
            pass
        self._sent()
        rank = self.processes.rank
        kept = {name: one.together(self._receivers[name]) for name, one in self._samples.items()}
        found: dict[str, Equations] = {}
        for name, ranks in self._receivers.items():
            if rank not in ranks:
                continue
            if name in kept:
                found[name] = kept[name][rank]
            else:
                found[name] = self._sums.get(name) or _nothing(self._shapes[name], self._device)
        return found

    def sampling_errors(self) -> dict[str, Tensor | None]:
        """Return how far the covariances are from those of all images, after :meth:`equations`, by the same names.

        ``(g,)``, squared; ``None`` where there is one portion, or where samples are kept.
        """
        compared = self._compared or {}
        return {name: sampling_errors(compared.get(name, ())) for name in self._receivers}

    def _finish_round(self) -> bool:
        """Bring the portions of one round, one of each process, to those that receive them; return if there was one."""
        own = None if self._products is None else {name: one.equations() for name, one in self._products.items()}
        self._products = None
        senders = self._senders(own is not None)
        self._round += 1
        self._sent()
        for name in self._shapes:
            ranks = self._receivers[name]
            for sender in senders:
                if sender == self.processes.rank:
                    found = _nothing(self._shapes[name], self._device) if own is None else own[name]
                    # In one message: a message costs about as much time as a megabyte.
                    packed = _packed(found) if any(rank != sender for rank in ranks) else torch.empty(0)
                    self._sending += [self.processes.sending(packed, rank) for rank in ranks if rank != sender]
                elif self.processes.rank in ranks:
                    found = self._received(name, sender)
                if self.processes.rank in ranks:
                    self._add(name, found)
        return bool(senders)

    def _senders(self, has_one: bool) -> list[int]:
        """Return the processes that have a portion in this round."""
        if self._portions is None:
            return [rank for rank, there in enumerate(self.processes.exchanged(has_one)) if there]
        left = self._portions - self._round * self.processes.world
        return list(range(max(0, min(left, self.processes.world))))

    def _sent(self) -> None:
        """Wait until what was sent in the round before has been received: no more than one round is held."""
        for one in self._sending:
            one.wait()
        self._sending = []

    def _received(self, name: str, sender: int) -> NormalEquations:
        found = _nothing(self._shapes[name], self.processes.device)
        sizes = [tensor.numel() for tensor in found.tensors()]
        packed = torch.empty(sum(sizes) + 1, dtype=torch.float64, device=found.gram.device)
        *parts, count = torch.split(self.processes.receive(packed, sender), [*sizes, 1])
        for tensor, part in zip(found.tensors(), parts, strict=True):
            tensor.copy_(part.reshape(tensor.shape))
        found.count = int(count)
        return found

    def _add(self, name: str, found: NormalEquations) -> None:
        if self._compared is not None:
            self._compared.setdefault(name, []).append(PortionMoments.of(found))
        if name not in self._sums:
            self._sums[name] = found
            return
        total = self._sums[name]
        for mine, theirs in zip(total.tensors(), found.tensors(), strict=True):
            mine += theirs.to(mine.device)
        total.count += found.count
        self._spent[name] = found


def portion_of(batches: int, processes: int = 1) -> Callable[[int], int]:
    """Return the function from the number of a batch to the number of its portion.

    Args:
        batches: Number of batches, 0 where it is not known.
        processes: Number of processes.

    Example:
        >>> [portion_of(32)(batch) for batch in (0, 1, 2, 31)]
        [0, 0, 1, 15]
    """
    portions = min(max(PORTIONS, processes), batches)
    if not batches:
        return lambda batch: batch // _BATCHES_OF_STREAM
    return lambda batch: min(batch, batches - 1) * portions // batches


def _nothing(shape: tuple[int, int, int], device: torch.device | None) -> NormalEquations:
    return NormalEquations.of(torch.empty(*shape, device=device))


def _packed(equations: NormalEquations) -> Tensor:
    count = equations.gram.new_tensor([equations.count])
    return torch.cat([*(tensor.reshape(-1) for tensor in equations.tensors()), count])
