"""Constant filters are those whose variance over all images and positions is 0."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from infoprune.criteria.base import Filters, create, find
from infoprune.criteria.dead import CONSTANT

FILTERS = Filters((torch.zeros(4, 1),))


def maps_of(seed: int, images: int) -> torch.Tensor:
    """Return maps of 0 and 1 of which many are constant, some only within an image."""
    drawn = torch.Generator().manual_seed(seed)
    maps = torch.randint(0, 2, (images, 4, 2, 2), generator=drawn).float()
    maps[:, 0] = 0.3
    maps[:, 1] = (torch.arange(images) == images - 1).float()[:, None, None]
    return maps


def fed(info, maps, split):
    found = create(info, FILTERS)
    for part in torch.split(maps, split) if len(maps) else ():
        found.update(part, torch.full((len(part),), -1))
    return found


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), images=st.integers(1, 7), split=st.integers(1, 7))
def test_is_zero_where_the_variance_is(seed, images, split):
    maps = maps_of(seed, images)
    wanted = fed(find("variance"), maps, split).compute().scores > 0
    assert torch.equal(fed(CONSTANT, maps, split).compute().scores > 0, wanted)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), first=st.integers(0, 6))
def test_parts_merge_to_the_whole(seed, first):
    maps = maps_of(seed, 6)
    one, other = fed(CONSTANT, maps[:first], 2), fed(CONSTANT, maps[first:], 2)
    one.merge(other)
    assert torch.equal(one.compute().scores, fed(CONSTANT, maps, 6).compute().scores)


def test_has_settled_once_every_map_has_changed():
    found = create(CONSTANT, FILTERS)
    assert not found.settled
    found.update(torch.zeros(1, 4, 2, 2), torch.tensor([0]))
    assert not found.settled
    found.update(torch.ones(1, 4, 2, 2), torch.tensor([0]))
    assert found.settled
