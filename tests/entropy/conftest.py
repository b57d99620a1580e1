"""Hypothesis without a clock: a busy machine is no failure."""

from hypothesis import settings

settings.register_profile("entropy", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("entropy")
