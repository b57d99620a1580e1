"""Least squares of one layer: what criteria and repairs share."""
