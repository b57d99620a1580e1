"""Hash codes of maps: agreement patch by patch, and the order that follows."""

import numpy as np
import pytest
import torch

from infoprune.criteria import Filters, create, find
from infoprune.criteria.hashing import agreement_of_codes
from infoprune.errors import InputError
from infoprune.hashing import hyperplanes


def scored(maps, weights=None, **options):
    criterion = create(
        find("hashing"), Filters((weights,) if weights is not None else (), (), "conv1"), options=options
    )
    criterion.update(maps, torch.zeros(len(maps)).long())
    return criterion.compute()


@pytest.mark.parametrize(("size", "patch"), [((8, 8), 4), ((9, 6), 4), ((3, 5), 8)])
def test_against_each_patch_alone(size, patch):
    maps = torch.randn(3, 5, *size, generator=torch.Generator().manual_seed(0))
    maps[:, 3] = maps[:, 1] + 0.1 * maps[:, 3]
    sides = min(patch, size[0]), min(patch, size[1])
    planes = hyperplanes(sides[0] * sides[1], 3).numpy()
    expected = np.zeros((3, 5, 5))
    count = (size[0] // sides[0]) * (size[1] // sides[1])
    for image in range(3):
        for top in range(0, size[0] - sides[0] + 1, sides[0]):
            for left in range(0, size[1] - sides[1] + 1, sides[1]):
                part = maps[image, :, top : top + sides[0], left : left + sides[1]].double().flatten(1).numpy()
                bits = (part - part.mean(0)) @ planes > 0
                expected[image] += (bits[:, None] == bits[None]).all(2) / count
    assert np.allclose(agreement_of_codes(maps, planes=3, patch=patch), expected)


def test_a_copy_is_removed_first_that_of_the_smaller_norm():
    maps = torch.randn(20, 6, 8, 8, generator=torch.Generator().manual_seed(0))
    maps[:, 1] = 3 * maps[:, 4]
    weights = torch.tensor([1.0, 2, 1, 1, 1, 1])[:, None]
    # Codes see the direction about the mean of all filters: nearly that of its multiple.
    assert scored(maps, weights, planes=6).order[-1] == 4
    maps[:, 1] = maps[:, 4]
    assert scored(maps, weights).evidence["distance"][1, 4] < 1e-5


def test_more_hyperplanes_agree_less():
    maps = torch.randn(10, 6, 8, 8, generator=torch.Generator().manual_seed(0)).relu()
    means = [float(agreement_of_codes(maps, planes=planes).mean()) for planes in (1, 3, 6, 12)]
    assert means == sorted(means, reverse=True)


def test_wrong_options_are_refused():
    maps = torch.rand(2, 3, 4, 4)
    with pytest.raises(InputError, match="1 to 62 hyperplanes, not 0"):
        scored(maps, planes=0)
    with pytest.raises(InputError, match="a side of 1 or more, not 0"):
        scored(maps, patch=0)
