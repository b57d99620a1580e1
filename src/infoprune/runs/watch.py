"""Ends all processes of a run when one of them dies or fails, within seconds and with one sentence.

Every process holds a connection to the first one. The operating system closes it when a process ends, however it ends,
so that a slow process is never taken for a dead one.
"""

from __future__ import annotations

import json
import os
import secrets
import selectors
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from infoprune.errors import InputError
from infoprune.runs.processes import ENDED

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from infoprune.runs.together import Processes

# Seconds in which the first process may fail by the same mistake as another one, and report it by itself.
_GRACE_SECONDS = 1.0
_LOST_SECONDS = 0.5
_POLL_SECONDS = 0.1
_WRONG_INPUT = 2
_BYE, _ENDING = "bye", "ending"


@contextmanager
def watched(processes: Processes) -> Iterator[None]:
    """Watch the other processes while the block runs.

    Args:
        processes: Those of this run, more than one.
    """
    connections = _connected(processes)
    left = threading.Event()
    watch = _watch_all if processes.is_first else _watch_first
    threading.Thread(target=watch, args=(processes, connections, left), daemon=True).start()
    try:
        yield
    except BaseException as error:
        unexpected = isinstance(error, Exception) and not isinstance(error, InputError)
        if unexpected:
            # Where another process has died, its connections are lost too: the watch says so, and ends this one first.
            time.sleep(_LOST_SECONDS)
        _tell(connections, _ENDING if processes.is_first else json.dumps(_sentence_of(error)))
        if not processes.is_first:
            if unexpected:
                traceback.print_exc()
            # The first process reports it, and ends this one.
            left.wait(10 * _GRACE_SECONDS)
            os._exit(ENDED)
        left.set()
        raise
    left.set()
    _tell(connections, _BYE)


@contextmanager
def watched_start(fabric: Fabric) -> Iterator[None]:
    """End this process, with a sentence, where one that it starts inside the block ends before all are connected.

    Args:
        fabric: The processes, which are launched inside the block.

    Example:
        >>> from lightning_fabric import Fabric
        >>> fabric = Fabric(accelerator="cpu", devices=1)
        >>> with watched_start(fabric):
        ...     fabric.launch()
    """
    launched: list[subprocess.Popen[bytes]] = getattr(fabric.strategy.launcher, "procs", [])
    children: list[subprocess.Popen[bytes]] = []
    started = threading.Event()

    def look() -> None:
        while not started.wait(_POLL_SECONDS):
            # Fabric looks at its list every five seconds, and kills this process without a word if one of it has died:
            # an empty list ends that.
            while launched:
                children.append(launched.pop(0))
            ended = [rank for rank, one in enumerate(children, 1) if one.poll() is not None]
            if ended:
                _report(_dead(fabric.global_rank + ended[0], fabric.world_size))
                os._exit(ENDED)
        for one in children:
            one.wait()

    threading.Thread(target=look, daemon=True).start()
    try:
        yield
    finally:
        started.set()


def _connected(processes: Processes) -> dict[int, socket.socket]:
    """Return by rank the connections of the first process to all others, or of another one to the first."""
    host = os.environ.get("MASTER_ADDR") or "127.0.0.1"
    if processes.is_first:
        local = host in ("127.0.0.1", "localhost")
        with socket.create_server((host if local else "", 0), backlog=processes.world) as server:
            _, word = processes.agreed((server.getsockname()[1], secrets.token_hex(16)))
            found: dict[int, socket.socket] = {}
            while len(found) < processes.world - 1:
                one = server.accept()[0]
                line = one.makefile().readline().split()
                if len(line) == 2 and secrets.compare_digest(line[0], word) and line[1].isdigit():
                    found[int(line[1])] = one
                else:
                    one.close()
        processes.agreed(None)
        return found
    port, word = processes.agreed((0, ""))
    one = socket.create_connection((host, port))
    one.sendall(f"{word} {processes.rank}\n".encode())
    processes.agreed(None)
    return {0: one}


def _watch_all(processes: Processes, connections: dict[int, socket.socket], left: threading.Event) -> None:
    waiting = selectors.DefaultSelector()
    for rank, one in connections.items():
        waiting.register(one, selectors.EVENT_READ, rank)
    while waiting.get_map():
        for key, _ in waiting.select():
            heard = _heard(connections[key.data])
            waiting.unregister(key.fileobj)
            if heard == _BYE:
                continue
            sentence, code = _dead(key.data, processes.world), ENDED
            if heard:
                with suppress(ValueError):
                    sentence, code = json.loads(heard)
                if left.wait(_GRACE_SECONDS):
                    return
            elif left.is_set():
                return
            _report(sentence)
            _tell(connections, _ENDING)
            os._exit(code)


def _watch_first(processes: Processes, connections: dict[int, socket.socket], left: threading.Event) -> None:
    heard = _heard(connections[0])
    if heard == _BYE or left.is_set():
        return
    # All others lose the first process; the next one reports it, unless the first said why it ends.
    if not heard and processes.rank == 1:
        _report(_dead(0, processes.world))
    os._exit(ENDED)


def _heard(connection: socket.socket) -> str:
    """Return the one line that the other process sends, empty where its end closed the connection."""
    with suppress(OSError):
        return connection.makefile().readline().strip()
    return ""


def _tell(connections: dict[int, socket.socket], word: str) -> None:
    for one in connections.values():
        with suppress(OSError):
            one.sendall(f"{word}\n".encode())


def _sentence_of(error: BaseException) -> tuple[str, int]:
    if isinstance(error, InputError):
        return f"Error: {error}", _WRONG_INPUT
    said = " ".join(str(error).split())
    return f"Error: {type(error).__name__} in another process{': ' if said else ''}{said}", ENDED


def _dead(rank: int, world: int) -> str:
    return (
        f"Error: process {rank + 1} of {world} was ended from outside, perhaps for want of memory: what is "
        "finished is kept, run the same command again to resume, with any number of processes"
    )


def _report(sentence: str) -> None:
    sys.stderr.write(sentence + "\n")
    sys.stderr.flush()
