"""Maps of coupled groups, collected without any criterion."""

import pytest
import torch
import toys

from infoprune.errors import InputError
from infoprune.network.coupled_groups import find_groups, in_passes
from infoprune.network.feature_maps import capture
from infoprune.network.group_maps import bytes_per_image, collect_maps

IMAGES = torch.randn(7, *toys.IMAGE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def residual():
    return toys.Residual().eval()


def test_maps_are_those_of_the_layers_side_by_side_in_the_order_of_the_filters(residual):
    groups = find_groups(residual, IMAGES[:2]).groups
    batches = [(IMAGES[:4], torch.arange(4)), (IMAGES[4:], torch.arange(4, 7))]
    maps, labels = collect_maps(residual, batches, groups, "norm")
    assert labels.tolist() == list(range(7))
    assert set(maps) == {group.name for group in groups}
    assert any(len(group.producers) > 1 for group in groups)
    for group in groups:
        parts = {layer: [] for layer in group.producers}
        capture(residual, batches, group.producers, "norm", lambda layer, one, _, parts=parts: parts[layer].append(one))
        whole = [torch.cat(parts[layer]) for layer in group.producers]
        expected = whole[0] if len(whole) == 1 else torch.cat([one.flatten(2) for one in whole], 2).unsqueeze(2)
        assert torch.equal(maps[group.name], expected)
    sizes = bytes_per_image(residual, batches, groups, "norm")
    assert sizes == {name: found[0].numel() * 4 for name, found in maps.items()}


def test_images_alone_have_no_labels_and_no_images_are_refused(residual):
    groups = find_groups(residual, IMAGES[:2]).groups[:1]
    maps, labels = collect_maps(residual, [IMAGES], groups)
    assert labels is None
    assert len(maps[groups[0].name]) == 7
    with pytest.raises(InputError, match="there are no images"):
        collect_maps(residual, [], groups)


def test_groups_are_divided_into_passes_in_their_order(residual):
    groups = find_groups(residual, IMAGES[:2]).groups
    needed = {group.name: size for group, size in zip(groups, (3, 3, 9, 1, 1, 1, 1, 1), strict=False)}
    passes = in_passes(groups, lambda group: needed[group.name], 6)
    assert [group for some in passes for group in some] == list(groups)
    assert all(len(some) == 1 or sum(needed[group.name] for group in some) <= 6 for some in passes)
    assert in_passes([], lambda group: 0, 6) == []
