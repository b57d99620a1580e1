import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from infoprune.data.preprocessing import Preprocessing
from infoprune.errors import InputError

NUMBER = st.floats(-10, 10)
POSITIVE = st.floats(0.01, 10)


@given(st.lists(st.tuples(NUMBER, POSITIVE), min_size=1, max_size=4), st.none() | st.integers(1, 500))
def test_a_round_through_json_changes_nothing(channels, crop):
    mean, std = zip(*channels, strict=True)
    preprocessing = Preprocessing(mean, std, resize=crop, crop=crop)
    assert Preprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict()))) == preprocessing


def test_each_channel_is_normalised_by_its_own_numbers():
    preprocessing = Preprocessing(mean=(0.5, 0.0), std=(0.5, 2.0))
    images = torch.tensor([1.0, 1.0]).view(1, 2, 1, 1).expand(3, 2, 4, 5)
    normalised = preprocessing.normalise(images)
    assert normalised.shape == (3, 2, 4, 5)
    assert (normalised[:, 0] == 1).all()
    assert (normalised[:, 1] == 0.5).all()


def test_the_conventions_of_caffe_and_tensorflow_are_a_mean_and_a_std():
    pixels = torch.arange(256.0).view(1, 1, 16, 16)
    caffe, tensorflow = Preprocessing((0.0,), (256 / 255,)), Preprocessing((0.5,), (0.5,))
    torch.testing.assert_close(caffe.normalise(pixels / 255), pixels / 256)
    torch.testing.assert_close(tensorflow.normalise(pixels / 255), pixels / 127.5 - 1, atol=1e-6, rtol=0)


def test_half_precision_and_single_images_stay_what_they_are():
    preprocessing = Preprocessing((0.0,), (1.0,))
    assert preprocessing.normalise(torch.zeros(1, 8, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"mean": (), "std": ()}, "one mean and one std per channel"),
        ({"mean": (0.1, 0.2), "std": (1.0,)}, "not 2 and 1"),
        ({"mean": (float("nan"),), "std": (1.0,)}, "finite"),
        ({"mean": (0.0,), "std": (0.0,)}, "above 0"),
        ({"mean": (0.0,), "std": (1.0,), "crop": 0}, "crop"),
        ({"mean": (0.0,), "std": (1.0,), "resize": -1}, "resize"),
    ],
)
def test_numbers_that_normalise_nothing_are_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        Preprocessing(**arguments)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"mean": [0.5]}, "std"),
        ({"mean": [0.5], "std": ["x"]}, "cannot be read"),
        ({"mean": 0.5, "std": 0.5}, "cannot be read"),
        ({"mean": [0.5], "std": [0.5], "corp": 3}, "did you mean 'crop'"),
    ],
)
def test_json_that_is_no_preprocessing_is_refused(data, words):
    with pytest.raises(InputError, match=words):
        Preprocessing.from_dict(data)


def test_images_of_other_channels_are_refused():
    with pytest.raises(InputError, match=r"3 channels.*\(2, 1, 8, 8\)"):
        Preprocessing((0.0,) * 3, (1.0,) * 3).normalise(torch.zeros(2, 1, 8, 8))
