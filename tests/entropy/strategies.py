"""Random Gram matrices of few samples, as hypothesis draws them."""

import torch
from hypothesis import strategies as st

from infoprune.entropy import gram

SEEDS = st.integers(0, 2**31 - 1)
SAMPLES = st.integers(2, 14)
# Orders from which rounding takes no digits: smaller ones raise the noise of zero eigenvalues to a small power.
ORDERS = st.one_of(st.sampled_from([1.0, 1.01, 2.0, 3.0, 5.0, float("inf")]), st.floats(0.9, 6.0))


def points(seed, n, d=3, variables=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(variables, n, d, generator=generator, dtype=torch.float64)
    # Copies of samples are what feature maps after a ReLU have, and random points have not.
    copies = torch.randint(0, n, (n,), generator=generator)
    keep = torch.rand(n, generator=generator) < 0.7
    return torch.where(keep[:, None], x, x[:, copies])


def grams(seed, n, variables=1):
    width = 0.3 + 3 * float(torch.rand((), generator=torch.Generator().manual_seed(seed)))
    return gram(points(seed, n, variables=variables), width=width)


def class_labels(seed, n, classes=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, classes, (n,), generator=generator)
