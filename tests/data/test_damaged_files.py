"""Image files and data sets that are damaged, odd or hostile: read right, or refused in one sentence."""

import os
import pickle
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from infoprune.data import FolderImages, Preprocessing, loader, open_source
from infoprune.errors import InputError

GREY = Preprocessing((0.0,), (1.0,))


def images(*paths):
    return FolderImages(paths, torch.zeros(len(paths), dtype=torch.long), ("a",))


def read(*paths, preprocessing=GREY):
    return images(*paths).read(range(len(paths)), preprocessing)


def test_16_bits_are_scaled_and_not_cut_off(tmp_path):
    values = np.array([[0, 128, 257], [32768, 65278, 65535]], np.uint16)
    expected = np.round(values / 65535 * 255) / 255
    for name in ("a.png", "a.tif"):
        Image.fromarray(values).save(tmp_path / name)
        np.testing.assert_allclose(read(tmp_path / name)[0, 0].numpy(), expected, atol=1e-6)
    colour = read(tmp_path / "a.png", preprocessing=Preprocessing((0.0,) * 3, (1.0,) * 3))
    np.testing.assert_allclose(colour[0, 2].numpy(), expected, atol=1e-6)


def test_floating_point_images_and_values_beyond_16_bits_are_refused(tmp_path):
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "float.tiff")
    Image.fromarray(np.full((4, 4), 70_000, np.int32)).save(tmp_path / "wide.tiff")
    for name, sentence in (("float.tiff", "floating point"), ("wide.tiff", "outside 0 to 65,535")):
        with pytest.raises(InputError, match=sentence):
            read(tmp_path / name)


def test_images_of_several_sizes_in_a_batch_are_named(tmp_path):
    for name, size in (("a.png", (8, 8)), ("b.png", (9, 8))):
        Image.new("L", size).save(tmp_path / name)
    with pytest.raises(InputError, match=r"b.png' has 9 x 8 pixels, .*a.png' has 8 x 8 pixels"):
        read(tmp_path / "a.png", tmp_path / "b.png")


def test_a_decompression_bomb_is_refused_before_it_is_unpacked(tmp_path):
    Image.new("1", (30_000, 30_000)).save(tmp_path / "bomb.png")
    assert (tmp_path / "bomb.png").stat().st_size < 2**20
    with pytest.raises(InputError, match=r"bomb.png'.*pixels"):
        read(tmp_path / "bomb.png")
    Image.new("L", (30_000, 1)).save(tmp_path / "thin.png")
    with pytest.raises(InputError, match="cannot be brought to"):
        read(tmp_path / "thin.png", preprocessing=Preprocessing((0.0,), (1.0,), resize=256))


def test_a_pipe_is_no_image(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(InputError, match="not a regular file"):
        read(tmp_path / "pipe.png")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_is_one_sentence_whichever_process_read_it(tmp_path, workers):
    Image.new("L", (8, 8)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"nothing")
    batches = loader(images(tmp_path / "good.png", tmp_path / "bad.png"), GREY, batch_size=1, workers=workers)
    with pytest.raises(InputError) as caught:
        list(batches)
    assert "bad.png' is not an image that can be read" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folders_of_other_classes_in_train_and_val_are_refused(tmp_path):
    for part, classes in (("train", "abc"), ("val", "bcd")):
        for name in classes:
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("L", (4, 4)).save(tmp_path / part / name / "0.png")
    with pytest.raises(InputError, match=r"the class 'a' has a folder in .*train' and none in .*val'"):
        open_source("folder", tmp_path)


def cifar(folder, **changes):
    batch = {"data": np.zeros((2, 3072), np.uint8), "labels": [0, 9], **changes}
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        (folder / name).write_bytes(pickle.dumps(batch, 2))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [str(i) for i in range(10)]}, 2))


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": [0, 1.7]},
        {"labels": [0, True, 2]},
        {"labels": [0, "1"]},
        {"labels": [0]},
        {"labels": [0, 10]},
        {"labels": [0, -1]},
        {"labels": [0, 2**70]},
        {"data": np.zeros((2, 3072), np.float32)},
        {"data": np.zeros((2, 3071), np.uint8)},
    ],
)
def test_cifar_batches_that_hold_something_else_are_refused(tmp_path, changes):
    cifar(tmp_path)
    assert len(open_source("cifar10", tmp_path).train) == 10
    cifar(tmp_path, **changes)
    with pytest.raises(InputError):
        open_source("cifar10", tmp_path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0\x08",
        struct.pack(">HBBI", 0, 8, 1, 2**32 - 1),
        struct.pack(">HBB", 0, 8, 255) + b"\xff" * 1020,
        struct.pack(">HBB3I", 0, 8, 3, 2**31, 2**31, 4),
        struct.pack(">HBB3I", 0, 8, 3, 0, 0, 0),
        struct.pack(">HBB2I", 0, 8, 2, 1, 4) + b"\0" * 4,
        struct.pack(">HBB3I", 0, 13, 3, 1, 1, 4) + b"\0" * 4,
    ],
)
def test_malformed_idx_files_are_refused(tmp_path, data):
    for part in ("train", "t10k"):
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(data)
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">HBBI", 0, 8, 1, 1) + b"\0")
    with pytest.raises(InputError):
        open_source("mnist", tmp_path)


def test_a_pipe_is_no_data_set(tmp_path):
    os.mkfifo(tmp_path / "train-images-idx3-ubyte")
    os.mkfifo(tmp_path / "batches.meta")
    for name in ("mnist", "cifar10"):
        with pytest.raises(InputError, match="not a regular file"):
            open_source(name, tmp_path)
