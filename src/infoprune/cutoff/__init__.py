"""How many filters are kept: from importances and a rule to the kept filters; one file per rule."""

from infoprune.cutoff.base import Cost, CostModel, Cut, Group, Limits
from infoprune.cutoff.budget import cut_to_budget
from infoprune.cutoff.budget_by_worth import cut_by_worth
from infoprune.cutoff.counts import cut_by_counts
from infoprune.cutoff.feasible import Potential, Reach, check_reach, reach
from infoprune.cutoff.latency import cut_to_latency
from infoprune.cutoff.ratio import cut_by_ratio
from infoprune.cutoff.rules import (
    acceleration,  # noqa: F401 - they register
    coordinates,  # noqa: F401 - they register
    cumulative,  # noqa: F401 - they register
    grid,  # noqa: F401 - they register
    permutation,  # noqa: F401 - they register
    scree,  # noqa: F401 - they register
    tolerance,  # noqa: F401 - they register
    xmeans,  # noqa: F401 - they register
)
from infoprune.cutoff.rules.curve import Curve, RuleInfo, all_rules, candidates, check_rule, find_rule, register_rule
from infoprune.cutoff.threshold import cut_by_threshold

__all__ = [
    "Cost",
    "CostModel",
    "Curve",
    "Cut",
    "Group",
    "Limits",
    "Potential",
    "Reach",
    "RuleInfo",
    "all_rules",
    "candidates",
    "check_reach",
    "check_rule",
    "cut_by_counts",
    "cut_by_ratio",
    "cut_by_threshold",
    "cut_by_worth",
    "cut_to_budget",
    "cut_to_latency",
    "find_rule",
    "reach",
    "register_rule",
]
