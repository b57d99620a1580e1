"""Searches over how many filters each layer keeps, judged on held-out images."""

from infoprune.search.filters import Found, search_filters
from infoprune.search.swarm import Judged, Swarm, better, fly

__all__ = ["Found", "Judged", "Swarm", "better", "fly", "search_filters"]
