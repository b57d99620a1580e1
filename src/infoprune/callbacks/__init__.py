"""Pruning in rounds inside the training loops that people have: their own, Lightning's and Transformers'."""
