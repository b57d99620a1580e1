"""Digests by which weights, and what follows from them, are known again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """Return a digest of the names and values of tensors, by which the weights of a network are known again."""
    digest = hashlib.sha256()
    add_weights(digest, weights)
    return digest.hexdigest()


def add_weights(digest: Any, weights: Mapping[str, Tensor]) -> None:
    """Add names and values of tensors to a digest of ``hashlib``."""
    for name, tensor in weights.items():
        digest.update(name.encode())
        add_values(digest, tensor)


def add_values(digest: Any, tensor: Tensor) -> None:
    """Add the values of a tensor to a digest of ``hashlib``."""
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
