"""Several processes that run one program together: each reads its share of the images, and all reach the same result.

Every process runs the whole program on the same network and images. Where images are read, a process takes every n-th
batch of n processes; what it found is exchanged and joined in the order of the batches, as one process would have done
it. All decisions are then computed from equal values in every process, so that no process has to be asked.
"""

from __future__ import annotations

import io
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Value = TypeVar("Value")
_CPU = torch.device("cpu")

# Seconds in which the process that watches the others ends this one, after a connection to another one is lost.
_GRACE_SECONDS = 10.0


@dataclass(frozen=True)
class Message:
    """A tensor on its way from one process to another, which must stay as it is until it has arrived.

    Args:
        tensor: What is sent or received.
        work: What PyTorch returned for it.

    Example:
        >>> class Done:
        ...     def wait(self): print("arrived")
        >>> Message(torch.zeros(2), Done()).wait()
        arrived
    """

    tensor: Tensor
    work: Any

    def has_arrived(self) -> bool:
        """Return whether it has arrived."""
        return bool(self.work.is_completed())

    def wait(self) -> None:
        """Return when it has arrived."""
        with _lost_connections():
            self.work.wait()


@dataclass(frozen=True)
class Processes:
    """The processes that run a program together, as one of them sees them.

    Args:
        rank: The number of this one, from 0.
        world: How many there are.
        device: Where large tensors lie while they are moved: a GPU for NCCL, the CPU for gloo.
        words: The process group of gloo over which everything else is exchanged; ``None`` for the only one there is.

    Example:
        >>> alone = Processes()
        >>> alone.exchanged("found"), alone.agreed("decided"), alone.is_first
        (['found'], 'decided', True)
    """

    rank: int = 0
    world: int = 1
    device: torch.device = _CPU
    words: Any = None

    @property
    def is_first(self) -> bool:
        """Whether this is the first process, which alone writes and shows progress."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        """Whether there is more than one."""
        return self.world > 1

    @property
    def share(self) -> Callable[[int], bool] | None:
        """Which batches this process reads, by their numbers: every ``world``-th one; ``None`` for all.

        Example:
            >>> [batch for batch in range(5) if Processes(rank=1, world=2).share(batch)]
            [1, 3]
        """
        return self.reads if self.several else None

    def reads(self, number: int) -> bool:
        """Return whether what has this number is done by this process."""
        return number % self.world == self.rank

    def exchanged(self, value: Value) -> list[Value]:
        """Return the values of all processes, in the order of their ranks. All of them must call this.

        Args:
            value: Anything that can be pickled; tensors come to the device of the process that receives them.
        """
        if not self.several:
            return [value]
        packed = self._packed(value)
        with _lost_connections():
            sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world)]
            dist.all_gather(sizes, torch.tensor([len(packed)]), group=self.words)
            most = max(int(size) for size in sizes)
            parts = [torch.empty(most, dtype=torch.uint8) for _ in range(self.world)]
            dist.all_gather(parts, torch.cat([packed, packed.new_zeros(most - len(packed))]), group=self.words)
        pairs = enumerate(zip(parts, sizes, strict=True))
        return [value if rank == self.rank else self._unpacked(part[: int(size)]) for rank, (part, size) in pairs]

    def agreed(self, value: Value) -> Value:
        """Return the value of the first process, such as a time that was measured. All of them must call this."""
        if not self.several:
            return value
        packed = self._packed(value) if self.is_first else torch.empty(0, dtype=torch.uint8)
        with _lost_connections():
            size = torch.tensor([len(packed)])
            dist.broadcast(size, 0, group=self.words)
            packed = packed if self.is_first else torch.empty(int(size), dtype=torch.uint8)
            dist.broadcast(packed, 0, group=self.words)
        return value if self.is_first else self._unpacked(packed)

    def gathered(self, own: Mapping[int, Tensor], owner: int) -> list[Tensor]:
        """Bring the tensors of all processes to one of them. All of them must call this.

        Args:
            own: By number the tensors of this process.
            owner: The rank that receives them.

        Returns:
            The tensors in the order of their numbers; none in another process.
        """
        numbers = sorted(number for some in self.exchanged(list(own)) for number in some)
        names = {str(number): owner for number in numbers}
        moved = self.pass_on({str(number): one for number, one in own.items()}, names)
        return [one for name in names for one in moved.get(name, ())] if self.rank == owner else []

    def in_order(self, own: Sequence[Value]) -> list[Value]:
        """Return what all processes found for their batches, in the order of the batches; see ``share``."""
        parts = self.exchanged(list(own))
        return [part[turn] for turn in range(len(parts[0])) for part in parts if turn < len(part)]

    def in_rounds(self, own: Iterable[Value]) -> Iterator[Value]:
        """Yield what all processes find for their batches, in the order of the batches; see ``share``.

        Args:
            own: What this process finds, computed one by one as it is asked for. No more than one of each process is
                held at a time.
        """
        if not self.several:
            yield from own
            return
        mine = iter(own)
        while found := [one[0] for one in self.exchanged(list(islice(mine, 1))) if one]:
            yield from found

    def owners(self, loads: Mapping[str, float]) -> dict[str, int]:
        """Return by name the rank that works on it, so that the loads of all are about the same.

        Example:
            >>> Processes(0, 2).owners({"a": 1.0, "b": 5.0, "c": 3.0})
            {'b': 0, 'c': 1, 'a': 1}
        """
        taken = [0.0] * self.world
        found = {}
        for name in sorted(loads, key=lambda name: -loads[name]):
            rank = taken.index(min(taken))
            found[name] = rank
            taken[rank] += loads[name]
        return found

    def pass_on(self, own: Mapping[str, Tensor], owners: Mapping[str, int]) -> dict[str, list[Tensor]]:
        """Send each tensor to the process that works on it. All of them must call this.

        Args:
            own: By name the tensors of this process; any process may have none.
            owners: By name the rank that receives the tensors of all processes.

        Returns:
            By name, for those that this process works on, the tensors in the order of the ranks that had one.
        """
        if not self.several:
            return {name: [tensor] for name, tensor in own.items()}
        forms = self.exchanged({name: (tuple(one.shape), one.dtype) for name, one in own.items()})
        found: dict[str, list[Tensor]] = {name: [] for name, owner in owners.items() if owner == self.rank}
        waiting = []
        for name, owner in owners.items():
            for rank, form in enumerate(forms):
                if name not in form:
                    continue
                if owner == self.rank:
                    mine = own[name] if rank == self.rank else torch.empty(
                        form[name][0], dtype=form[name][1], device=self.device
                    )  # fmt: skip
                    found[name].append(mine)
                    if rank != self.rank:
                        waiting.append(dist.P2POp(dist.irecv, mine, rank))
                elif rank == self.rank:
                    waiting.append(dist.P2POp(dist.isend, own[name].to(self.device).contiguous(), owner))
        with _lost_connections():
            for one in dist.batch_isend_irecv(waiting) if waiting else ():
                one.wait()
        return found

    def part_of(self, tensor: Tensor) -> Tensor:
        """Return the rows of a tensor that this process works on; none where there are fewer rows than processes.

        Example:
            >>> Processes(rank=1, world=2).part_of(torch.arange(5)).tolist()
            [3, 4]
        """
        return tensor.tensor_split(self.world)[self.rank] if self.several else tensor

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their sums over all processes, in an order that depends on their number only."""
        if not self.several or not tensors:
            return
        together = torch.cat([one.flatten() for one in tensors]).to(self.device)
        with _lost_connections():
            dist.all_reduce(together)
        for one, total in zip(tensors, torch.split(together, [one.numel() for one in tensors]), strict=True):
            one.copy_(total.reshape(one.shape))

    def sending(self, tensor: Tensor, rank: int) -> Message:
        """Begin to send a large tensor to another process, which waits for it by ``receive``."""
        moved = tensor.to(self.device).contiguous()
        return Message(moved, dist.isend(moved, rank))

    def receive(self, tensor: Tensor, rank: int) -> Tensor:
        """Fill a tensor with what another process sends."""
        with _lost_connections():
            dist.recv(tensor, rank)
        return tensor

    def leave(self, note: Tensor, rank: int, tag: int) -> Message:
        """Begin to send a small tensor on the CPU under a tag, for which the other process calls ``awaited``."""
        return Message(note, dist.isend(note, rank, group=self.words, tag=tag))

    def awaited(self, note: Tensor, rank: int, tag: int) -> Message:
        """Begin to receive what another process leaves under a tag; begun early, it takes no time to arrive."""
        return Message(note, dist.irecv(note, rank, group=self.words, tag=tag))

    def _packed(self, value: Any) -> Tensor:
        file = io.BytesIO()
        torch.save(value, file)
        return torch.frombuffer(file.getbuffer(), dtype=torch.uint8)

    def _unpacked(self, packed: Tensor) -> Any:
        def here(storage: Any, location: str) -> Any:
            return storage if location == "cpu" else storage.to(device=self.device)

        # From a process of this run, which runs this program: not from a file.
        return torch.load(io.BytesIO(packed.numpy().tobytes()), map_location=here, weights_only=False)


ALONE = Processes()
_CURRENT: ContextVar[Processes] = ContextVar("processes", default=ALONE)


def current() -> Processes:
    """Return the processes that run this program together: one, outside of ``together``.

    Example:
        >>> current().world
        1
    """
    return _CURRENT.get()


def is_first_process() -> bool:
    """Return whether this process is the first of those that run one command together: it alone writes.

    Example:
        >>> is_first_process()
        True
    """
    ranks = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")
    return current().is_first and all(os.environ.get(rank, "0") in ("", "0") for rank in ranks)


@contextmanager
def together(fabric: Fabric | None) -> Iterator[Processes]:
    """Let the processes of a launched Fabric work together while the block runs, in all of them.

    All processes continue with the random numbers of the first. Where one of them dies or fails, the others end within
    seconds, with one sentence.

    Args:
        fabric: ``None``, or one of one process: each process works alone.

    Example:
        >>> with together(None) as processes:
        ...     processes.world
        1
    """
    if fabric is None or fabric.world_size == 1 or current().several:
        yield current()
        return
    from infoprune.runs.watch import watched

    over_gpus = dist.get_backend() != "gloo"
    words = dist.new_group(backend="gloo") if over_gpus else None
    device = fabric.device if over_gpus else _CPU
    found = Processes(fabric.global_rank, fabric.world_size, device, words)
    python, numbers = found.agreed((random.getstate(), torch.get_rng_state()))
    random.setstate(python)
    torch.set_rng_state(numbers)
    token = _CURRENT.set(found)
    try:
        with watched(found):
            yield found
    finally:
        _CURRENT.reset(token)


@contextmanager
def _lost_connections() -> Iterator[None]:
    """Leave it to the watch to report that another process has ended."""
    try:
        yield
    except RuntimeError:
        time.sleep(_GRACE_SECONDS)
        raise
