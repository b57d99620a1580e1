"""Products in single precision at all of its digits, whatever training has set."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

import torch

# Of products on CPUs and on CUDA; one word for both before torch 2.9.
_Setting: TypeAlias = tuple[str, str] | str

_lock = threading.Lock()
_inside = 0
_before: _Setting = "highest"


@contextmanager
def full_precision() -> Iterator[None]:
    """Keep float32 products from being taken in TF32 or bfloat16, which some ask for to train faster.

    Both have three digits, where order 2 needs seven. The setting is one for the process: the last to leave brings
    back what was before, whether or not something was raised.

    Example:
        >>> with full_precision():
        ...     (torch.ones(2, 2) @ torch.ones(2, 2)).tolist()
        [[2.0, 2.0], [2.0, 2.0]]
    """
    global _inside, _before
    with _lock:
        if _inside == 0:
            _before = _setting()
            _set(("ieee", "ieee") if isinstance(_before, tuple) else "highest")
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _set(_before)


def _setting() -> _Setting:
    try:
        matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
        return matmul.fp32_precision, torch.backends.cuda.matmul.fp32_precision
    except AttributeError:
        return torch.get_float32_matmul_precision()


def _set(setting: _Setting) -> None:
    if isinstance(setting, str):
        torch.set_float32_matmul_precision(setting)
        return
    of_cpu, of_cuda = setting
    torch.backends.mkldnn.matmul.fp32_precision = of_cpu  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.fp32_precision = of_cuda
