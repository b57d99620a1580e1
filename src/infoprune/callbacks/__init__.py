"""Pruning in rounds inside the training loops that people have: their own, Lightning's and Transformers'.

Neither Lightning's Trainer nor Transformers is imported before its callback is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from infoprune.callbacks.lightning import LightningPruning
    from infoprune.callbacks.optimizers import cut_optimizer
    from infoprune.callbacks.rounds import PruningRounds, RoundImages
    from infoprune.callbacks.transformers import TransformersPruning
    from infoprune.network.in_place import cut_in_place

__all__ = ["LightningPruning", "PruningRounds", "RoundImages", "TransformersPruning", "cut_in_place", "cut_optimizer"]

_WHERE = {
    "LightningPruning": "infoprune.callbacks.lightning",
    "PruningRounds": "infoprune.callbacks.rounds",
    "RoundImages": "infoprune.callbacks.rounds",
    "TransformersPruning": "infoprune.callbacks.transformers",
    "cut_in_place": "infoprune.network.in_place",
    "cut_optimizer": "infoprune.callbacks.optimizers",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'infoprune.callbacks' has no attribute '{name}'")
    return getattr(importlib.import_module(_WHERE[name]), name)
