"""Photos of any size become images of one size, with the same pixels by torchvision and by Pillow."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from infoprune.data import FolderImages, Preprocessing, loader, photos
from infoprune.data.photos import as_tensor, centre_crop, random_resized_crop, resized
from infoprune.errors import InputError

KINDS = ("nearest", "bilinear", "bicubic", "lanczos")


def photo(width, height, seed=0, mode="RGB"):
    """Return a photo of waves with some noise: edges and flat parts."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [
        127 + 100 * np.sin(x / (5 + c)) * np.cos(y / (7 + c)) + rng.normal(0, 8, (height, width)) for c in range(3)
    ]
    image = Image.fromarray(np.stack(waves, 2).clip(0, 255).astype(np.uint8))
    return image.convert(mode)


@pytest.fixture
def without_torchvision(monkeypatch):
    monkeypatch.setattr(photos, "transforms_v2", lambda: None)


@given(st.integers(2, 300), st.integers(2, 300), st.integers(1, 200))
def test_the_shorter_side_has_the_length_and_the_longer_one_is_in_proportion(width, height, size):
    found = resized(Image.new("L", (width, height)), size)
    shorter, longer = sorted((width, height))
    assert min(found.size) == size
    assert max(found.size) == max(1, int(size * longer / shorter))
    assert (found.width <= found.height) == (width <= height) or max(found.size) == size


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60))
def test_a_crop_is_of_the_centre_and_black_beyond_the_photo(width, height, side):
    values = np.arange(1, width * height + 1).reshape(height, width) % 255 + 1
    found = np.asarray(centre_crop(Image.fromarray(values.astype(np.uint8)), side))
    assert found.shape == (side, side)
    kept = found[found > 0]
    assert len(kept) == min(side, width) * min(side, height)
    if side <= min(width, height):
        top, left = round((height - side) / 2), round((width - side) / 2)
        assert np.array_equal(found, values[top : top + side, left : left + side])


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_photo_that_shrinks_is_antialiased(kind):
    lines = Image.fromarray(np.tile(np.array([0, 255], np.uint8), (64, 32)))
    small = np.asarray(resized(lines, 8, kind)).astype(int)
    assert abs(small - 127).max() <= 20
    assert set(np.unique(np.asarray(resized(lines, 8, "nearest")))) <= {0, 255}


def test_each_interpolation_is_its_own():
    images = {kind: np.asarray(resized(photo(90, 61), 23, kind)).astype(int) for kind in KINDS}
    pairs = [(a, b) for a in KINDS for b in KINDS if a < b]
    assert all((images[a] != images[b]).any() for a, b in pairs)


def test_a_preprocessing_resizes_photos_of_different_sizes(tmp_path):
    paths = []
    for number, size in enumerate([(120, 80), (77, 131), (64, 64)]):
        paths.append(tmp_path / f"{number}.png")
        photo(*size, seed=number).save(paths[-1])
    images = FolderImages(tuple(paths), torch.zeros(3, dtype=torch.long), ("a",))
    how = Preprocessing((0.0,) * 3, (1.0,) * 3, resize=40, crop=32, interpolation="bicubic")
    read, _ = next(iter(loader(images, how)))
    assert read.shape == (3, 3, 32, 32)
    for one, path in zip(read, paths, strict=True):
        with Image.open(path) as opened:
            wanted = as_tensor(centre_crop(resized(opened, 40, "bicubic"), 32))
        assert torch.equal((255 * one).round().to(torch.uint8), wanted)
    with pytest.raises(InputError, match="--resize and --crop"):
        next(iter(loader(images, Preprocessing((0.0,) * 3, (1.0,) * 3))))


def test_a_photo_cannot_be_resized_to_more_pixels_than_fit():
    with pytest.raises(InputError, match="cannot be brought to"):
        resized(Image.new("L", (1, 20000)), 16384)


def by_v2():
    v2 = photos.transforms_v2()
    if v2 is None:
        pytest.skip("torchvision cannot be imported here")
    return v2


SIZES = [(100, 75), (75, 100), (33, 97), (64, 64), (225, 224), (31, 30)]


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_torchvision_and_pillow_give_the_same_pixels(monkeypatch, size, kind, mode):
    by_v2()
    image = photo(*size, mode=mode)

    def found():
        torch.manual_seed(3)
        ways = (resized(image, 48, kind), centre_crop(image, 41), random_resized_crop(image, 24, kind))
        return [as_tensor(one) for one in (*ways, centre_crop(resized(image, 36, kind), 32))]

    with_torchvision = found()
    monkeypatch.setattr(photos, "transforms_v2", lambda: None)
    for one, other in zip(with_torchvision, found(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_pixels_are_those_of_torchvision_on_tensors_within_rounding(without_torchvision, size, kind):
    """Torchvision resizes tensors by PyTorch's own antialiased kernels, which share no code with Pillow."""
    v2 = pytest.importorskip("torchvision.transforms.v2", exc_type=(ImportError, RuntimeError))
    image = photo(*size)
    whole = v2.Compose([v2.Resize(48, v2.InterpolationMode[kind.upper()], antialias=True), v2.CenterCrop(40)])
    wanted = whole(as_tensor(image)).int()
    found = as_tensor(centre_crop(resized(image, 48, kind), 40)).int()
    assert (found - wanted).abs().max() <= 1


@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_pixels_are_those_of_pytorch_within_rounding(size, kind):
    image = photo(*size)
    found = as_tensor(resized(image, 24, kind)).float()
    pixels = as_tensor(image)[None].float()
    wanted = torch.nn.functional.interpolate(pixels, found.shape[1:], mode=kind, antialias=True, align_corners=False)
    assert (found - wanted[0].clamp(0, 255)).abs().max() <= 1.5
