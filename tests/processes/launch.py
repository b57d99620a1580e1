"""Starts a function in several processes that work together over gloo, forked from this one."""

import hashlib
import logging

import torch
from lightning_fabric import Fabric

from infoprune.runs.together import together

logging.getLogger("lightning_fabric").setLevel(logging.WARNING)


def launched(processes, function, *arguments):
    """Return the digest of what a function returns in several processes; all of them must return the same."""
    fabric = Fabric(accelerator="cpu", devices=processes, strategy="ddp_fork")
    return fabric.launch(_work, function, arguments)


def _work(fabric, function, arguments):
    torch.set_num_threads(1)
    with together(fabric) as joined:
        found = digest(function(*arguments))
        assert set(map(str, joined.exchanged(found))) == {str(found)}, "the processes came to different results"
    return found


def digest(found):
    """Return a short text that differs where the values do; of a dict, one for each name."""
    if isinstance(found, dict):
        return {name: digest(value) for name, value in found.items()}
    return hashlib.sha256(repr(found).encode()).hexdigest()[:16]


def bits(tensors):
    """Return tensors by name as bytes, to be compared bit for bit and sent between processes."""
    return {name: tensor.detach().cpu().contiguous().numpy().tobytes() for name, tensor in tensors.items()}
