"""Matrix-based Rényi entropy of feature maps: needs nothing but torch."""

from infoprune.entropy.approximate import Estimate, low_rank_entropy, random_trace_entropy
from infoprune.entropy.distances import squared_distances, variables
from infoprune.entropy.kernels import gram
from infoprune.entropy.labels import label_gram, silverman_width
from infoprune.entropy.ordering import GreedyOrder, greedy_order
from infoprune.entropy.permutation import permutation_test
from infoprune.entropy.relevance import relevance
from infoprune.entropy.renyi import (
    conditional_mutual_information,
    entropy,
    entropy_of_spectrum,
    joint_entropy,
    mutual_information,
    pairwise_redundancy,
)
from infoprune.entropy.widths import alignment_width, median_width

__all__ = [
    "Estimate",
    "GreedyOrder",
    "alignment_width",
    "conditional_mutual_information",
    "entropy",
    "entropy_of_spectrum",
    "gram",
    "greedy_order",
    "joint_entropy",
    "label_gram",
    "low_rank_entropy",
    "median_width",
    "mutual_information",
    "pairwise_redundancy",
    "permutation_test",
    "random_trace_entropy",
    "relevance",
    "silverman_width",
    "squared_distances",
    "variables",
]
