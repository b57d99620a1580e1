"""Least squares for one layer, used by criteria and repairs."""
