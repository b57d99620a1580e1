"""Data sets read from their original files, and nothing in a file can run."""

import gzip
import pickle
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from infoprune.data import open_source
from infoprune.errors import InputError


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("code of a data file ran",))


@pytest.fixture
def cifar(tmp_path):
    pixels = np.arange(4 * 3072, dtype=np.uint8).reshape(4, 3072)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        (tmp_path / name).write_bytes(pickle.dumps({"data": pixels, "labels": [0, 1, 2, 9]}, 2))
    (tmp_path / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}, 2))
    return tmp_path


def test_cifar_pixels_are_planes_of_rows(cifar):
    source = open_source("cifar10", cifar)
    assert len(source.train) == 20
    assert len(source.test) == 4
    assert source.classes == tuple("abcdefghij")
    expected = torch.arange(4 * 3072).to(torch.uint8).view(4, 3, 32, 32)
    assert torch.equal(source.test.images, expected)


def test_a_cifar_batch_cannot_run_code(cifar):
    (cifar / "data_batch_3").write_bytes(pickle.dumps({"data": Evil(), "labels": []}, 2))
    with pytest.raises(InputError, match="data_batch_3"):
        open_source("cifar10", cifar)


@pytest.mark.parametrize("damage", [b"", b"\x80\x02", pickle.dumps([1]), pickle.dumps({"data": 1, "labels": []})])
def test_a_damaged_cifar_batch_is_named(cifar, damage):
    (cifar / "test_batch").write_bytes(damage)
    with pytest.raises(InputError, match="test_batch"):
        open_source("cifar10", cifar)


def test_a_missing_cifar_batch_is_named(cifar):
    (cifar / "data_batch_2").unlink()
    with pytest.raises(InputError, match=r"data_batch_2.* does not exist"):
        open_source("cifar10", cifar)


def test_a_label_out_of_range_is_refused(cifar):
    batch = {"data": np.zeros((1, 3072), np.uint8), "labels": [10]}
    (cifar / "test_batch").write_bytes(pickle.dumps(batch, 2))
    with pytest.raises(InputError, match="label 10 is out of range"):
        open_source("cifar10", cifar)


def idx(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.mark.parametrize("packed", [False, True])
def test_mnist_reads_idx_files_plain_and_packed(tmp_path, packed):
    images = np.arange(2 * 28 * 28, dtype=np.uint8).reshape(2, 28, 28)
    for part in ("train", "t10k"):
        for kind, array in (("images-idx3", images), ("labels-idx1", np.array([3, 9], np.uint8))):
            name = f"{part}-{kind}-ubyte" + (".gz" if packed else "")
            (tmp_path / name).write_bytes(gzip.compress(idx(array)) if packed else idx(array))
    source = open_source("mnist", tmp_path)
    assert source.train.images.shape == (2, 1, 28, 28)
    assert source.test.labels.tolist() == [3, 9]
    (tmp_path / f"t10k-labels-idx1-ubyte{'.gz' if packed else ''}").write_bytes(idx(images)[:-5])
    with pytest.raises(InputError, match="not a whole idx file"):
        open_source("mnist", tmp_path)


@pytest.mark.parametrize("names", [("train", "val"), ("Train", "Val"), ("TRAIN", "Test")])
def test_a_folder_of_images_per_class(tmp_path, names):
    for split in names:
        for name in ("cat", "ant"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 6), "red").save(tmp_path / split / name / "1.png")
    source = open_source("folder", tmp_path)
    assert source.classes == ("ant", "cat")
    assert source.train.labels.tolist() == [0, 1]
    assert len(source.test) == 2


def test_a_folder_without_classes_or_images_or_test_is_refused(tmp_path):
    with pytest.raises(InputError, match="no folders"):
        open_source("folder", tmp_path)
    (tmp_path / "cat").mkdir()
    with pytest.raises(InputError, match="no images"):
        open_source("folder", tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(InputError, match="only one of train"):
        open_source("folder", tmp_path)


def test_unknown_names_and_missing_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match="did you mean 'cifar10'"):
        open_source("cifar", tmp_path)
    with pytest.raises(InputError, match="needs its directory"):
        open_source("mnist")
    with pytest.raises(InputError, match="does not exist"):
        open_source("mnist", tmp_path / "none")


def test_digits_need_no_files():
    source = open_source("digits")
    assert source.train.images.shape == (1438, 1, 8, 8)
    assert len(source.test) == 359
    assert source.train.images.max() == 255


def test_the_real_cifar10(data_dir):
    source = open_source("cifar10", data_dir)
    assert (len(source.train), len(source.test)) == (50_000, 10_000)
    assert source.classes[0] == "airplane"
    assert source.train.labels.bincount().tolist() == [5_000] * 10
    mean = source.train.images.float().mean((0, 2, 3)) / 255
    assert mean.tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-4)


def test_the_real_mnist(data_dir):
    source = open_source("mnist", data_dir)
    assert (len(source.train), len(source.test)) == (60_000, 10_000)
    assert source.train.images.float().mean().item() / 255 == pytest.approx(0.1307, abs=1e-4)


def test_hidden_folders_are_no_classes_and_a_class_without_images_is_named(tmp_path):
    for name in ("a", "b", ".ipynb_checkpoints"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "1.png")
    assert open_source("folder", tmp_path).classes == ("a", "b")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"class folder '.*empty' holds no images that can be read here"):
        open_source("folder", tmp_path)
