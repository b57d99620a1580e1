"""Pruning in rounds with retraining between them."""
