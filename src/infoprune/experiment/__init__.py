"""Runs with files on both ends: what the command line does, as functions."""
