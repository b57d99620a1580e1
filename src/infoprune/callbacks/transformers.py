"""Pruning in rounds as a callback of a Trainer of Hugging Face Transformers."""
