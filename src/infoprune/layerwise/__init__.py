"""Layers ordered and cut one after the other, each where held-out images allow it."""
