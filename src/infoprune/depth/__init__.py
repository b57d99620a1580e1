"""Whole blocks that can be removed: found by running them, scored, and taken out of the network."""

from infoprune.depth.blocks import Block, find_blocks
from infoprune.depth.cka import cka, clusters, mpruner, taken_from_clusters
from infoprune.depth.layer_scale import folded, fused
from infoprune.depth.removal import Shallower, prune_blocks, remove_blocks
from infoprune.depth.scoring import BlockCriterionInfo, all_block_criteria, score_blocks

__all__ = [
    "Block",
    "BlockCriterionInfo",
    "Shallower",
    "all_block_criteria",
    "cka",
    "clusters",
    "find_blocks",
    "folded",
    "fused",
    "mpruner",
    "prune_blocks",
    "remove_blocks",
    "score_blocks",
    "taken_from_clusters",
]
