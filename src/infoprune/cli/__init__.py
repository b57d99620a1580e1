"""The command line: parses, calls, prints. Each file holds the commands of one kind."""

from infoprune.cli import checkpoints, listing, pages, prune, training
from infoprune.cli.app import app, main

__all__ = ["app", "checkpoints", "listing", "main", "pages", "prune", "training"]
