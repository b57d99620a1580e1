"""The digits in the parts that a pruning in rounds reads."""

import pytest

from infoprune.data import Preprocessing, balanced_sample, held_out_split, loader, open_source
from infoprune.iterative.iterate import Images

PLAIN = Preprocessing((0.0,), (1.0,))


@pytest.fixture(scope="module")
def images():
    source = open_source("digits")
    training, held_out = held_out_split(source.train)
    return Images(
        loader(balanced_sample(training, 640), PLAIN, batch_size=64, shuffle=True),
        loader(balanced_sample(training, 100), PLAIN, batch_size=100),
        loader(held_out, PLAIN),
        loader(source.test, PLAIN),
    )
