"""The streamed variance against the one of all values."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from infoprune.criteria import Filters, create, find


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), offset=st.sampled_from([0, -3, 1e4]), sizes=st.lists(st.integers(1, 5), min_size=1))
def test_it_is_the_variance_over_images_and_positions(seed, offset, sizes):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(sum(sizes), 4, 3, 5, generator=generator) * torch.tensor([1, 0.1, 10, 0])[:, None, None] + offset
    criterion = create(find("variance"), Filters(()))
    for part in maps.split(sizes):
        criterion.update(part, torch.zeros(len(part)))
    expected = maps.double().numpy().var(axis=(0, 2, 3))
    assert np.allclose(criterion.compute().scores.numpy(), expected, rtol=1e-5, atol=0)
    assert criterion.compute().scores[3] == 0


def test_half_precision_does_not_overflow():
    criterion = create(find("variance"), Filters(()))
    criterion.update((torch.ones(2, 1, 200, 200) * torch.tensor([0.0, 60000.0])[:, None, None, None]).half(), None)
    assert criterion.compute().scores.item() == np.var(np.array([0, 59999.9999]).astype(np.float16).astype(float))
