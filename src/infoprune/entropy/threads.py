"""One BLAS thread per worker and a pool over chunks: small matrices are slower, not faster, under threaded BLAS."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from infoprune.entropy.precision import full_precision

# Entries of (n, n) matrices worked on at a time by one worker, 2 MiB in float64; this bounds the memory of everything
# that does not return Gram matrices itself.
_ENTRIES_OF_A_CORE = 1 << 18
_ENTRIES_OF_A_GPU = 1 << 26


# How many threads the caller had before BLAS was held at one.
_workers: ContextVar[int | None] = ContextVar("workers", default=None)


@contextmanager
def one_blas_thread() -> Iterator[int]:
    """Hold BLAS at one thread in the calling thread and those it starts; yield how many it had, for use as workers.

    Its products in single precision are those of :func:`full_precision`. What it had comes back at the end, whether
    or not something was raised. Within, another call gives the same.

    Example:
        >>> with one_blas_thread() as workers:
        ...     workers >= 1
        True
    """
    threads = torch.get_num_threads()
    workers = _workers.get() or threads
    token = _workers.set(workers)
    torch.set_num_threads(1)
    try:
        with full_precision():
            yield workers
    finally:
        torch.set_num_threads(threads)
        _workers.reset(token)


def in_chunks(work: Callable[[slice], Tensor], shape: Sequence[int], device: torch.device, caches: int = 1) -> Tensor:
    """Return what ``work`` gives for runs of variables, in one tensor, from as many workers as the caller had threads.

    Args:
        work: From a run of the variables to a tensor whose first axis is that run.
        shape: ``(C, n, d)`` of the variables. A run is as long as its ``(n, n)`` and ``(n, d)`` matrices stay in the
            cache of a core, or fill a GPU, whatever the number of workers: the result does not depend on that.
        device: Where the work is done.
        caches: On a CPU a run may be up to this factor longer, where most of the work is on one matrix after another.

    Example:
        >>> in_chunks(lambda part: torch.arange(5)[part], (5, 10, 4), torch.device("cpu")).tolist()
        [0, 1, 2, 3, 4]
    """
    variables, samples, features = shape
    entries = caches * _ENTRIES_OF_A_CORE if device.type == "cpu" else _ENTRIES_OF_A_GPU
    size = max(1, entries // (samples * max(samples, features)))
    runs = [slice(start, min(start + size, variables)) for start in range(0, variables, size)]
    with one_blas_thread() as workers:
        if workers == 1 or len(runs) < 2:
            return torch.cat([work(run) for run in runs])
        inference, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

        def in_the_mode_of_the_caller(run: slice) -> Tensor:
            with torch.inference_mode(inference), torch.set_grad_enabled(gradients):
                return work(run)

        with ThreadPoolExecutor(min(workers, len(runs))) as pool:
            return torch.cat(list(pool.map(in_the_mode_of_the_caller, runs)))
