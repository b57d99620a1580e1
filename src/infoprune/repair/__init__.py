"""Closed-form repair of a pruned network: from images without labels, without a gradient; one file per idea."""

from infoprune.repair import alternating, both, channels, distil, folding, least_squares, norms  # noqa: F401 - they register
from infoprune.repair.base import Pair, RepairInfo, all_repairs, find
from infoprune.repair.run import repair, repaired

__all__ = ["Pair", "RepairInfo", "all_repairs", "find", "repair", "repaired"]
