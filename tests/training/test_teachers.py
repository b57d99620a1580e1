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


def test_the_answer_is_the_mean_of_logits_on_the_scale_of_the_first_network():
    one, two = nn.Linear(4, 3).requires_grad_(False), nn.Linear(4, 3).requires_grad_(False)
    images = torch.randn(5, 4)
    first, second = one(images), two(images)
    for row in range(5):
        even = (second[row] - second[row].mean()) / second[row].std()
        second[row] = even * first[row].std() + first[row].mean()
    assert torch.allclose(Teachers([one, two])(images), (first + second) / 2, atol=1e-5)


def test_a_teacher_with_small_logits_counts_as_much_as_one_with_large_ones():
    one, two = nn.Linear(4, 3).requires_grad_(False), nn.Linear(4, 3).requires_grad_(False)
    images = torch.randn(5, 4)
    found = Teachers([one, two])(images)
    two.weight *= 1000
    two.bias *= 1000
    assert torch.allclose(Teachers([one, two])(images), found, atol=1e-4)


def test_a_teacher_that_cannot_tell_classes_apart_changes_no_answer_of_the_others():
    one, same = nn.Linear(4, 3).requires_grad_(False), nn.Linear(4, 3).requires_grad_(False)
    same.weight.zero_()
    same.bias.fill_(7.0)
    images = torch.randn(5, 4)
    assert torch.equal(Teachers([one, same])(images).argmax(1), one(images).argmax(1))


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
