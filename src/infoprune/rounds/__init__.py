"""Pruning in rounds: score, cut, retrain, again and again."""
