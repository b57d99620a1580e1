"""Loaders give what the network wants, splits never change, and augmentation moves images without inventing any."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from infoprune.data import (
    Preprocessing,
    StoredImages,
    balanced_sample,
    crop_and_flip,
    cutout,
    divided,
    held_out_split,
    loader,
    open_source,
    shift,
    turn_and_scale,
)
from infoprune.errors import InputError

PLAIN = Preprocessing((0.0,), (1.0,))


def numbered(n, classes=3):
    images = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 1, 2, 2)
    return StoredImages(images, torch.arange(n) % classes, tuple("abc"[:classes]))


def numbers(images):
    return images.images[:, 0, 0, 0].tolist()


def test_batches_are_normalised_and_the_last_may_be_smaller():
    batches = list(loader(numbered(10), Preprocessing((0.5,), (0.25,)), batch_size=4))
    assert [len(labels) for _, labels in batches] == [4, 4, 2]
    torch.testing.assert_close(batches[1][0][2], torch.full((1, 2, 2), (6 / 255 - 0.5) / 0.25))


def test_shuffling_follows_the_global_generator():
    def order():
        torch.manual_seed(5)
        return torch.cat([labels for _, labels in loader(numbered(30), PLAIN, batch_size=8, shuffle=True)]).tolist()

    assert order() == order() != [i % 3 for i in range(30)]


def test_the_held_out_part_is_balanced_and_always_the_same():
    images = numbered(60)
    train, held = held_out_split(images, 0.2)
    assert held.labels.bincount().tolist() == [4, 4, 4]
    assert sorted(numbers(train) + numbers(held)) == list(range(60))
    torch.manual_seed(99)
    assert numbers(held_out_split(images, 0.2)[1]) == numbers(held)


@given(st.integers(1, 60), st.integers(0, 5))
def test_a_calibration_sample_is_balanced_without_repeats(count, seed):
    sample = balanced_sample(numbered(60), count, seed)
    counts = sample.labels.bincount(minlength=3)
    assert counts.max() - counts.min() <= 1
    assert len(set(numbers(sample))) == count
    assert numbers(balanced_sample(numbered(60), count, seed)) == numbers(sample)


def test_a_set_divides_into_sample_and_rest():
    sample, rest = divided(numbered(20), 6)
    assert sorted(numbers(sample) + numbers(rest)) == list(range(20))
    with pytest.raises(InputError, match="leaves none"):
        divided(numbered(20), 20)


@pytest.mark.parametrize("count", [0, 61])
def test_an_impossible_sample_is_refused(count):
    with pytest.raises(InputError, match="cannot be drawn"):
        balanced_sample(numbered(60), count)


def test_of_classes_of_few_images_a_share_of_all_images_is_held_out():
    pixels = torch.arange(250).view(250, 1, 1, 1).to(torch.uint8)
    images = StoredImages(pixels, torch.arange(250), tuple(map(str, range(250))))
    train, held = held_out_split(images, 0.1)
    assert (len(train), len(held)) == (225, 25)
    assert sorted(numbers(train) + numbers(held)) == list(range(250))
    assert numbers(held_out_split(images, 0.1)[1]) == numbers(held)
    assert [len(part) for part in held_out_split(numbered(3), 0.1)] == [2, 1]


def test_one_image_cannot_be_held_out():
    with pytest.raises(InputError, match="too few"):
        held_out_split(numbered(1), 0.1)


def test_shift_moves_each_image_by_its_own_offset():
    images = torch.zeros(64, 1, 5, 5)
    images[:, :, 2, 2] = 1
    moved = shift(images, 2)
    assert moved.sum() == 64
    positions = {tuple((image[0] == 1).nonzero()[0].tolist()) for image in moved}
    assert len(positions) > 5


def test_crop_and_flip_keeps_every_pixel_value():
    images = torch.rand(32, 3, 6, 6)
    changed = crop_and_flip(images, 0)
    flipped = torch.tensor([not torch.equal(a, b) for a, b in zip(images, changed, strict=True)])
    assert 0 < flipped.sum() < 32
    torch.testing.assert_close(changed[flipped], images[flipped].flip(-1))


@pytest.mark.parametrize("size", [(9, 9), (6, 12)])
def test_images_neither_turned_nor_scaled_stay_as_they_are(size):
    images = torch.rand(64, 2, *size)
    torch.testing.assert_close(turn_and_scale(images, 0, 0), images, rtol=0, atol=1e-4)


def test_images_are_turned_and_scaled_about_their_middle():
    # A bar through the middle keeps its middle, its length but for the scale, and is seen at many angles.
    bars = torch.zeros(200, 1, 33, 65)
    bars[:, :, 15:18, 22:43] = 1
    rows, columns = torch.meshgrid(torch.arange(33.0) - 16, torch.arange(65.0) - 32, indexing="ij")

    def spread(changed):
        mass = changed.sum(dim=(1, 2, 3))
        middle = [(changed[:, 0] * place).sum(dim=(1, 2)) / mass for place in (rows, columns)]
        assert max(part.abs().max() for part in middle) < 0.05
        along, across = ((changed[:, 0] * place**2).sum(dim=(1, 2)) / mass for place in (columns, rows))
        both = (changed[:, 0] * rows * columns).sum(dim=(1, 2)) / mass
        return (along + across).sqrt(), 0.5 * torch.atan2(2 * both, along - across).rad2deg()

    length, angle = spread(turn_and_scale(bars, 30, 0))
    assert length.max() / length.min() < 1.05
    assert 25 < angle.max() < 31
    assert -31 < angle.min() < -25
    length, angle = spread(turn_and_scale(bars, 0, 0.25))
    assert angle.abs().max() < 1e-3
    plain = spread(bars)[0].mean()
    assert 1.2 < length.max() / plain < 1.3
    assert 0.7 < length.min() / plain < 0.8


def test_cutout_blanks_one_square_of_every_image():
    blanked = cutout(torch.ones(200, 3, 16, 16), 0.25) == 0
    counts = blanked[:, 0].sum(dim=(1, 2))
    assert torch.equal(blanked[:, 0], blanked[:, 1])
    assert counts.max() == 16
    assert counts.min() >= 4
    rows, columns = blanked[:, 0].any(dim=2).sum(dim=1), blanked[:, 0].any(dim=1).sum(dim=1)
    assert torch.equal(rows * columns, counts)
    assert torch.equal(cutout(torch.ones(3, 1, 8, 8), 0.0), torch.ones(3, 1, 8, 8))


def test_wrong_shapes_types_and_labels_are_refused():
    with pytest.raises(InputError, match="uint8"):
        StoredImages(torch.zeros(2, 3, 4, 4), torch.zeros(2).long(), ("a",))
    with pytest.raises(InputError, match="as many labels"):
        StoredImages(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(3).long(), ("a",))
    with pytest.raises(InputError, match="label 1 is out of range"):
        StoredImages(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.ones(1).long(), ("a",))
    with pytest.raises(InputError, match="channels"):
        next(iter(loader(numbered(4), Preprocessing((0.0,) * 3, (1.0,) * 3))))
    with pytest.raises(InputError, match="no images"):
        loader(numbered(4).subset(torch.tensor([], dtype=torch.long)), PLAIN)


@pytest.fixture
def folder(tmp_path):
    for name, size in (("a", (40, 30)), ("b", (20, 50))):
        (tmp_path / name).mkdir()
        Image.new("RGB", size, "white").save(tmp_path / name / "1.png")
    return open_source("folder", tmp_path)


@pytest.mark.parametrize("random_crop", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_images_of_any_size_become_crops_of_one(folder, random_crop, workers):
    wanted = Preprocessing((0.0,) * 3, (1.0,) * 3, resize=16, crop=12)
    images, labels = next(iter(loader(folder.train, wanted, random_crop=random_crop, workers=workers)))
    assert images.shape == (2, 3, 12, 12)
    assert labels.tolist() == [0, 1]
    torch.testing.assert_close(images, torch.ones_like(images))


def test_images_of_different_sizes_need_a_crop(folder):
    with pytest.raises(InputError, match="different sizes"):
        next(iter(loader(folder.train, Preprocessing((0.0,) * 3, (1.0,) * 3))))


def test_a_file_that_is_no_image_is_named(folder):
    folder.train.paths[1].write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"1\.png' is not an image"):
        next(iter(loader(folder.train, Preprocessing((0.0,) * 3, (1.0,) * 3, 16, 12))))
