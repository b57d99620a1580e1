"""Forward passes of many batches that advance together, layer by layer: every operation runs once.

Each batch has its own forward pass, in a thread that waits before the result of a chosen layer is used. Only one
thread runs at a time. A waiting pass keeps only the tensors that its Python frames hold. Nothing is computed twice, for
any forward of the network, and weights may change after the layer that all passes have reached.

The operations of all passes are computed by the thread that waits for them. The C library keeps what a thread frees for
that thread: with operations in the thread of each pass, several times the maps that are alive would be held, or cleared
by the system again and again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from infoprune.errors import InputError
from infoprune.network.deep_copy import deep_copy
from infoprune.network.layer_io import Reading, Watch, storage_of
from infoprune.network.spill import Spill

Change = Callable[[int, Reading], None]


class ForwardPasses:
    """The forward passes of all batches through one network, each paused at the same layer.

    Args:
        model: In eval mode. Its weights may be changed in place at any time: later layers use the new weights.
        layers: Dotted names of the layers to pause at, in the order of ``layer_io.read_all``.
        batches: The images, ``(n, ...)`` each.
        spill: Keeps the feature maps of waiting passes.
        refitted: Whether the layers' weights change while the passes wait at them: their results are then computed
            once, with the new weights, instead of before.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from infoprune.network.spill import Spill
        >>> from infoprune.network.stepwise import ForwardPasses
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)).eval()
        >>> batches = [torch.ones(3, 2), torch.zeros(1, 2)]
        >>> with Spill(1 << 20) as spill, ForwardPasses(model, ["0", "2"], batches, spill) as passes:
        ...     first = [tuple(passes.advance(number, "0").inputs.shape) for number in range(2)]
        ...     second = [tuple(passes.advance(number, "2").result.shape) for number in range(2)]
        >>> first, second
        ([(3, 2), (1, 2)], [(3, 1), (1, 1)])
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str],
        batches: Sequence[Tensor],
        spill: Spill,
        *,
        refitted: bool = False,
    ) -> None:
        self._spill = spill
        self._passes = [_Pass(model, layers, images, refitted) for images in batches]
        self._changes: Change | None = None
        self._name = f"passes{id(self)}"

    def advance(self, number: int, layer: str) -> Reading:
        """Run the pass of one batch to a layer, and return the reading there.

        Every batch is advanced once to each of the layers, in their order; ``put_away`` is called in between. A batch
        that starts late runs through the layers before with the weights that they have by then.

        Raises:
            InputError: The layers of this batch run in another order than those of other batches.
        """
        waiting = self._passes[number]
        self._spill.bring_back(self._owner(number))
        if self._changes is not None and waiting.reading is not None:
            self._changes(number, waiting.reading)
        late = not waiting.started
        waiting.run()
        while late and waiting.layer != layer and waiting.reading is not None:
            waiting.run()
        if waiting.layer != layer or waiting.reading is None:
            raise InputError(f"layer '{layer}' runs for some images only, or not always in the same order")
        return waiting.reading

    def started(self, number: int) -> bool:
        """Return whether the pass of a batch has begun."""
        return self._passes[number].started

    def size_of(self, number: int) -> int:
        """Return the bytes in memory of a batch that is put away."""
        return self._spill.size_of(self._owner(number))

    def put_away(self, number: int) -> None:
        """Mark the reading of a batch as not used until it is advanced again."""
        self._spill.put_away(self._owner(number), self._passes[number].alive())

    def before_next(self, change: Change | None) -> None:
        """Set a function that changes the tensors of each waiting pass before it continues to the next layer."""
        self._changes = change

    def close(self) -> None:
        """End the passes where they are."""
        for one in self._passes:
            one.close()

    def __enter__(self) -> ForwardPasses:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _owner(self, number: int) -> str:
        return f"{self._name}-{number}"


class _ClosedError(BaseException):
    """The pass is no longer needed; not an ``Exception``, so that the code of a network does not catch it."""


class _Pass:
    """One batch's forward pass, in a thread that runs only while ``run`` waits for it."""

    def __init__(self, model: nn.Module, layers: Sequence[str], images: Tensor, refitted: bool) -> None:
        # A copy with shared weights: modules may store values between calls.
        shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        self.model = deep_copy(model, dict(shared))
        self.images = images
        self.watch = Watch(self.model, layers, self._wait, blank=refitted, where=self._in_the_other_thread)
        self.layer = ""
        self.reading: Reading | None = None
        self.kept: tuple[Tensor, ...] = ()
        self._borrowed = {storage_of(tensor) for tensor in (*shared.values(), images)}
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._closed = False
        self._error: BaseException | None = None
        # What the other thread shall compute, and what that returned or raised.
        self._asked: Callable[[], Any] | None = None
        self._answer: tuple[Any, BaseException | None] | None = None
        self._thread = threading.Thread(target=self._forward, daemon=True)

    @property
    def started(self) -> bool:
        """Whether the pass has begun."""
        return self._thread.ident is not None

    def run(self) -> None:
        """Continue to the next layer, or to the end."""
        self.layer, self.reading = "", None
        if self._closed:
            return
        if not self.started:
            self._thread.start()
        else:
            self._go.release()
        # As in a new thread, whatever the caller has set in its own.
        plain = torch.autocast(self.images.device.type, enabled=False)
        with torch.inference_mode(False), torch.no_grad(), plain:
            self._compute_until_stopped()
        if self._error is not None:
            raise self._error

    def _compute_until_stopped(self) -> None:
        """Compute what the pass asks for, until it reaches a layer or its end."""
        self._stopped.acquire()
        while self._asked is not None:
            compute, self._asked = self._asked, None
            try:
                self._answer = compute(), None
            except BaseException as error:
                self._answer = None, error
            del compute
            self._go.release()
            self._stopped.acquire()

    def _in_the_other_thread(self, compute: Callable[[], Any]) -> Any:
        """Let the thread that waits for this pass compute, and return what it returns."""
        if self._closed:  # nobody waits: the network clears up after itself
            return compute()
        self._asked = compute
        self._stopped.release()
        self._go.acquire()
        answer, self._answer = self._answer, None
        if answer is None:  # the other thread was interrupted before it could compute
            raise _ClosedError
        found, error = answer
        if error is not None:
            raise error
        return found

    def alive(self) -> list[Tensor]:
        """Return the tensors that this pass still needs and does not share."""
        return [tensor for tensor in self.watch.alive() if storage_of(tensor) not in self._borrowed]

    def close(self) -> None:
        if self._thread.is_alive() and not self._closed:
            self._closed = True
            self._go.release()
        if self._thread.ident is not None:
            self._thread.join()
        self.reading = None

    @torch.no_grad()
    def _forward(self) -> None:
        try:
            with self.watch.hooks(), self.watch:
                self.watch.finish(self.model(self.images))
        except _ClosedError:
            pass
        except BaseException as error:
            self._error = error
        self._closed = True
        self._stopped.release()

    def _wait(self, layer: str, reading: Reading) -> None:
        self.layer, self.reading = layer, reading
        if not self._closed:
            self._stopped.release()
            self._go.acquire()
        if self._closed:
            raise _ClosedError
