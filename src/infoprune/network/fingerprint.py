"""Digests that identify weights, and results that depend on them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """Return a digest of the names and values of tensors, which identifies the weights of a network.

    Example:
        >>> fingerprint({"weight": torch.zeros(2)}) == fingerprint({"weight": torch.ones(2)})
        False
    """
    digest = hashlib.sha256()
    add_weights(digest, weights)
    return digest.hexdigest()


def add_weights(digest: Any, weights: Mapping[str, Tensor]) -> None:
    """Add names and values of tensors to a digest of ``hashlib``.

    Example:
        >>> digest = hashlib.sha256()
        >>> add_weights(digest, {"weight": torch.zeros(2)})
        >>> digest.hexdigest() == fingerprint({"weight": torch.zeros(2)})
        True
    """
    for name, tensor in weights.items():
        digest.update(name.encode())
        add_values(digest, tensor)


def add_values(digest: Any, tensor: Tensor) -> None:
    """Add the values of a tensor to a digest of ``hashlib``.

    Example:
        >>> digest = hashlib.sha256()
        >>> add_values(digest, torch.zeros(2))
        >>> digest.hexdigest() == hashlib.sha256(bytes(8)).hexdigest()
        True
    """
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
