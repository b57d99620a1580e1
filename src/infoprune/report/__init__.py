"""A run as files, as a page, and as figures for a paper."""

from infoprune.report.comparison import comparison_page, pareto_front
from infoprune.report.keep import kept_run
from infoprune.report.page import page
from infoprune.report.run import Pictures, Run, read_run, write_run

__all__ = ["Pictures", "Run", "comparison_page", "kept_run", "page", "pareto_front", "read_run", "write_run"]
