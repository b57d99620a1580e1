"""Layers by any of their names: coupled ones, patterns, plain strings, and counts of NumPy."""

import numpy as np
import pytest
import torch
from torch import nn

import infoprune
from infoprune.errors import InputError

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Stream(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.inner = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)
        self.back, self.fc = nn.Conv2d(12, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x).relu()
        return self.fc((x + self.back(self.inner(x).relu())).mean((2, 3)))


def counts(**words):
    plan = infoprune.plan(Stream(), [IMAGES], criterion="l1", **words)
    return {layer: len(kept) for layer, kept in plan.kept.items()}


def test_a_coupled_layer_stands_for_its_group():
    assert counts(keep={"back": 4}) == counts(keep={"stem": 4}) == {"stem": 4}
    assert infoprune.plan(Stream(), [IMAGES], keep={"back": [0, 5]}).kept == {"stem": (0, 5)}


def test_two_names_of_one_group_must_agree():
    assert counts(keep={"back": 4, "stem": 4}) == {"stem": 4}
    with pytest.raises(InputError, match="'stem' and 'back' name coupled layers"):
        counts(keep={"stem": 4, "back": 5})


def test_patterns_in_keep():
    assert counts(keep={"*": 3}) == {"stem": 3, "inner": 3}
    assert counts(keep={"in*": 3}) == {"inner": 3}


@pytest.mark.parametrize("count", [np.int64(4), np.int32(4), torch.tensor(4)])
def test_counts_from_elsewhere(count):
    assert counts(keep={"inner": count}) == {"inner": 4}
    assert infoprune.plan(Stream(), [IMAGES], keep={"inner": np.array([1, 3])}).kept == {"inner": (1, 3)}


def test_a_plain_string_is_one_pattern():
    assert counts(ratio=0.5, layers="inner") == {"inner": 6}
    assert counts(ratio=0.5, skip="inner") == {"stem": 4}


class Mixer(nn.Module):
    """Patches, then linear layers at every position: the patches' channels are normalised and cannot go."""

    def __init__(self):
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, 8, 2, 2), nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.hidden, self.fc = nn.Linear(8, 12), nn.Linear(12, 5)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.down(self.up(self.norm(x)).relu())
        return self.fc(self.hidden(x.mean(1)).relu())


def test_linear_layers_at_every_position_are_cut_as_convolutions_are():
    result = infoprune.prune(Mixer(), [IMAGES], criterion="l1", ratio=0.5)
    assert {layer: len(kept) for layer, kept in result.plan.kept.items()} == {"up": 8}
    assert result.model.down.in_features == 8


def test_other_linear_layers_are_cut_when_named_and_the_refusal_says_so():
    assert "hidden" in infoprune.plan(Mixer(), [IMAGES], criterion="l1", ratio=0.5, layers="*").kept
    with pytest.raises(InputError, match=r"linear layers such as 'hidden' can: choose them, or all by the layers '\*'"):
        infoprune.plan(Mixer(), [IMAGES], criterion="l1", ratio=0.5, skip="up")
