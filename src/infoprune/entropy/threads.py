"""One BLAS thread per worker and a pool over chunks: small matrices are slower, not faster, under threaded BLAS."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

_lock = threading.Lock()
_holders = 0
_threads_of_caller = 1


@contextmanager
def one_blas_thread() -> Iterator[int]:
    """Hold BLAS at one thread, and give the number of threads the caller had, as the number of workers to use.

    The setting belongs to the whole process, so calls from several threads share it: the first one in changes it,
    the last one out puts it back, whether or not something was raised.
    """
    global _holders, _threads_of_caller
    with _lock:
        if _holders == 0:
            _threads_of_caller = torch.get_num_threads()
            torch.set_num_threads(1)
        _holders += 1
    try:
        yield _threads_of_caller
    finally:
        with _lock:
            _holders -= 1
            if _holders == 0:
                torch.set_num_threads(_threads_of_caller)


def over_chunks(work: Callable[[Item], Result], chunks: Sequence[Item]) -> list[Result]:
    """Return ``[work(chunk) for chunk in chunks]``, computed by as many workers as the caller had BLAS threads.

    The chunks must not depend on the number of workers where the result is to be the same on every machine.
    """
    with one_blas_thread() as workers:
        if workers == 1 or len(chunks) < 2:
            return [work(chunk) for chunk in chunks]
        inference = torch.is_inference_mode_enabled()
        gradients = torch.is_grad_enabled()

        def in_the_mode_of_the_caller(chunk: Item) -> Result:
            with torch.inference_mode(inference), torch.set_grad_enabled(gradients and not inference):
                return work(chunk)

        with ThreadPoolExecutor(min(workers, len(chunks))) as pool:
            return list(pool.map(in_the_mode_of_the_caller, chunks))
