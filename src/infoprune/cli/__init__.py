"""The command line: parses, calls, prints. Each file holds the commands of one kind, imported when one is called."""

from infoprune.cli.app import app, main

__all__ = ["app", "main"]
