"""SIGTERM and Ctrl-C end a command by an exception, which cleans up on its way, but not in the middle of an import.

An exception inside the import of a compiled module can end the process at once, without cleaning up and with the words
of the C++ runtime: PyTorch's does.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Seconds after which a signal is tried again that came inside an import, and seconds for which it is put off.
_AGAIN = 0.02
_PATIENCE = 10.0


class TerminatedError(BaseException):
    """SIGTERM: batch systems send it some time before they kill.

    Example:
        >>> issubclass(TerminatedError, Exception)  # no code of a user's catches it
        False
    """


@contextmanager
def ended_by_signals() -> Iterator[threading.Event]:
    """Let SIGTERM end a block as Ctrl-C does: by an exception; neither does while modules are being imported.

    Yields the event that is set once SIGTERM has come.

    Raises:
        TerminatedError: SIGTERM came.
        KeyboardInterrupt: Ctrl-C was pressed.

    Example:
        >>> try:
        ...     with ended_by_signals():
        ...         os.kill(os.getpid(), signal.SIGTERM)
        ...         time.sleep(1)
        ... except TerminatedError:
        ...     print("ended")
        ended
    """
    terminated = threading.Event()
    first: dict[int, float] = {}

    def end(number: int, frame: FrameType | None) -> None:
        if _imports(frame) and time.monotonic() < first.setdefault(number, time.monotonic()) + _PATIENCE:
            again = threading.Timer(_AGAIN, os.kill, (os.getpid(), number))
            again.daemon = True
            again.start()
            return
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        terminated.set()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: a second one would break the cleaning up
        raise TerminatedError

    if threading.current_thread() is not threading.main_thread():
        yield terminated
        return
    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # in the background it is ignored
        numbers.append(signal.SIGINT)
    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield terminated
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _imports(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False
