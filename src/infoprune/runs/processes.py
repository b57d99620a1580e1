"""Processes that end with the one that started them, however that one ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from infoprune.errors import InputError

_PARENT = "INFOPRUNE_PARENT"
_POLL_SECONDS = 0.1
_GRACE_SECONDS = 3.0
ENDED = 1


@contextmanager
def launched_processes_end_with_this_one() -> Iterator[None]:
    """Let processes that run the same command, launched inside the block, end when this one does.

    In such a process, which the launcher numbers by ``LOCAL_RANK``, this starts the watch: a process that waits for
    one that was killed would otherwise wait for half an hour.

    Example:
        >>> with launched_processes_end_with_this_one():
        ...     1 + 1
        2
    """
    parent = os.environ.get(_PARENT)
    if parent is not None and os.environ.get("LOCAL_RANK", "0") != "0":
        threading.Thread(target=_watch, args=(int(parent),), daemon=True).start()
        try:
            yield
        except Exception:
            # Where the first process ends, the others lose their connection to it; it alone reports why.
            time.sleep(_GRACE_SECONDS)
            raise
        return
    os.environ[_PARENT] = str(os.getpid())
    try:
        yield
    finally:
        os.environ.pop(_PARENT, None)


def side_by_side(function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Return what a function returns for each of several tuples of arguments, in a process each.

    The processes end with this one: where it is interrupted they are ended, where it is killed they notice.

    Args:
        function: Of a module, so that a new process can import it.
        arguments: One tuple for each process.

    Raises:
        InputError: A process ended before it had an answer. What the function raises is raised here.

    Example:
        >>> import math
        >>> side_by_side(math.gcd, [(12, 8), (9, 6)])
        [4, 3]
    """
    context = multiprocessing.get_context("spawn")
    started, answers = [], []
    try:
        for some in arguments:
            here, there = context.Pipe()
            process = context.Process(target=_answer, args=(there, function, some))
            process.start()
            there.close()
            started.append(process)
            answers.append(here)
        found: dict[int, Any] = {}
        while len(found) < len(answers):
            for ready in wait([answer for i, answer in enumerate(answers) if i not in found]):
                found[answers.index(ready)] = _received(ready)  # type: ignore[arg-type]
        return [found[i] for i in range(len(answers))]
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.join()


def _answer(there: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    # An interrupt from the keyboard reaches all processes; the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent.sentinel,), daemon=True).start()
    try:
        answer: tuple[bool, Any] = (True, function(*arguments))
    except Exception as error:  # it is raised where the answer is awaited
        answer = (False, error)
    with suppress(OSError, EOFError):
        there.send(answer)
        # Tensors are handed over by a process that still runs: the one that asked ends it.
        there.recv()


def _received(answer: Connection) -> Any:
    try:
        right, found = answer.recv()
    except EOFError as error:
        raise InputError(
            "a process of this run was ended from outside, perhaps for want of memory: run the same command again "
            "to resume"
        ) from error
    if right:
        return found
    raise found


def _end_after(sentinel: Any) -> None:
    wait([sentinel])
    os._exit(ENDED)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    os._exit(ENDED)
