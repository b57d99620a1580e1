"""The smallest network within a loss, where layers and limits leave little to remove."""

import pytest
import torch

import infoprune
from infoprune.errors import InputError


def test_layers_that_hold_little_end_the_search_where_they_are_used_up():
    model = infoprune.zoo.build("digits").eval()
    images = torch.rand(30, 1, 8, 8)
    result = infoprune.prune(model, images, max_loss=100.0, effort="quick", layers=("features.0",))
    assert 0.7 * result.base.macs < result.pruned.macs < result.base.macs
    assert set(result.plan.kept) == {"features.0"}


def test_a_share_of_every_layer_is_refused_where_filters_go_step_by_step():
    with pytest.raises(InputError, match="say how many stay at least, not which share"):
        infoprune.prune(infoprune.zoo.build("digits").eval(), torch.rand(30, 1, 8, 8), max_loss=1.0, keep_share=0.5)
