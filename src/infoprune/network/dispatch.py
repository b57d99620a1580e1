"""The base of what follows every operation of PyTorch while a network runs."""

from __future__ import annotations

from torch.utils._python_dispatch import TorchDispatchMode


class Dispatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A ``TorchDispatchMode`` that PyTorch does not hide from its compiler.

    Hiding it imports the compiler, which takes a second, and wraps every operation.

    Example:
        >>> import torch
        >>> class Names(Dispatch):
        ...     def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        ...         print(func.__name__)
        ...         return func(*args, **(kwargs or {}))
        >>> with Names():
        ...     _ = torch.ones(2)
        ones.default
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False
