"""Layers cut one after another, each given those cut before."""
