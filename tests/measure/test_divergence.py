"""The answers of an original are computed once, bounded in memory, and change no divergence."""

import torch
from torch import nn

from infoprune.measure.divergence import Answers, divergence_between

IMAGES = list(torch.randn(20, 3, generator=torch.Generator().manual_seed(0)).split(8))


class Counted(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.asked = nn.Linear(3, 4), []

    def forward(self, x):
        self.asked.append(len(x))
        return self.layer(x)


def test_one_pass_of_the_original_answers_for_all():
    original, others = Counted(), [nn.Linear(3, 4) for _ in range(3)]
    answers = Answers(original)
    found = [divergence_between(answers, other, IMAGES) for other in others]
    assert original.asked == [8, 8, 4]
    assert found == [divergence_between(original, other, IMAGES) for other in others]


def test_what_does_not_fit_is_computed_again():
    original = Counted()
    answers = Answers(original, memory=8 * 4 * 4)  # one batch of 8 x 4 float32
    for _ in range(2):
        assert divergence_between(answers, original.layer, IMAGES).value == 0
    assert original.asked == [8, 8, 4, 8, 4]
