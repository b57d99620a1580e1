"""Several networks as one teacher."""

import pytest
import torch
from torch import nn

from infoprune.data.preprocessing import Preprocessing
from infoprune.errors import InputError
from infoprune.training.teachers import Teachers

PLAIN = Preprocessing((0.0,) * 3, (1.0,) * 3)
OTHER = Preprocessing((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))


class Seen(nn.Module):
    """Keeps the images that it was given."""

    def forward(self, images):
        self.images = images
        return images.mean((2, 3)).double()


def test_the_answer_is_the_mean_of_the_logits():
    one, two = nn.Linear(4, 3), nn.Linear(4, 3)
    images = torch.randn(5, 4)
    with torch.no_grad():
        found = Teachers([one, two])(images)
        assert torch.allclose(found, (one(images) + two(images)) / 2, atol=1e-6)


def test_each_network_reads_the_images_as_it_wants_them():
    images = torch.rand(2, 3, 4, 4)
    one, two = Seen(), Seen()
    found = Teachers([one, two], OTHER, [OTHER, PLAIN])(OTHER.normalise(images))
    assert torch.equal(one.images, OTHER.normalise(images))
    assert torch.allclose(two.images, images, atol=1e-6)
    assert found.dtype == torch.float32


def test_a_teacher_is_at_least_one_network():
    with pytest.raises(InputError, match="at least one network"):
        Teachers([])
    with pytest.raises(InputError, match="the preprocessing of each of them"):
        Teachers([nn.Identity()], PLAIN, [PLAIN, PLAIN])
