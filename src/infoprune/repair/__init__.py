"""Repairs of a pruned network from images without labels; one file per method."""

from infoprune.repair import (  # noqa: F401 - they register
    alternating,
    batch_norm,
    channel_combination,
    combined,
    distil,
    folding,
    least_squares,
)
from infoprune.repair.base import Pair, RepairInfo, all_repairs, find
from infoprune.repair.run import repair, repair_options, repaired

__all__ = ["Pair", "RepairInfo", "all_repairs", "find", "repair", "repair_options", "repaired"]
