"""The version, alone, so that packaging and checkpoints read one number."""

__version__ = "0.1.0"
