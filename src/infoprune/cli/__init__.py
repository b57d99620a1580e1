"""The command line: parses, calls, prints. Each file holds the commands of one kind."""

from infoprune.cli import checkpoints, iterate, listing, pages, plane, prune, training
from infoprune.cli.app import app, main

__all__ = ["app", "checkpoints", "iterate", "listing", "main", "pages", "plane", "prune", "training"]
