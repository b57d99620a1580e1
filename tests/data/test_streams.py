"""A sample of a stream: balanced, uniform, repeatable, and no more in memory than asked for."""

import io
import os
import subprocess
import sys
import tarfile
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset

import infoprune
from infoprune.data.given import as_batches
from infoprune.data.streams import sample_of
from infoprune.errors import InputError
from processes.launch import digest, launched

SOURCE = Path(infoprune.__file__).parents[1]


def stream(images, classes=None, batch=10):
    """Images that hold their number, and their class."""
    for first in range(0, images, batch):
        numbers = torch.arange(first, min(first + batch, images))
        values = numbers.float()[:, None, None, None].expand(-1, 1, 2, 2).clone()
        yield values if classes is None else (values, numbers % classes)


def numbers(sample):
    return [int(image[0, 0, 0]) for batch in sample for image in (batch if torch.is_tensor(batch) else batch[0])]


def labels(sample):
    return torch.cat([some for _, some in sample])


@pytest.mark.parametrize(("classes", "count"), [(7, 70), (10, 33), (3, 100), (50, 20)])
def test_every_class_has_its_share(classes, count):
    sample = sample_of(stream(997, classes), count)
    counts = torch.bincount(labels(sample), minlength=classes)
    assert counts.sum() == count
    assert counts.max() - counts.min() <= 1


def test_labels_stay_with_their_images_and_the_order_is_that_of_the_stream():
    sample = sample_of(stream(300, 7), 50, batch_size=16)
    found = numbers(sample)
    assert found == sorted(set(found))
    assert [number % 7 for number in found] == labels(sample).tolist()
    assert [len(some) for some, _ in sample] == [16, 16, 16, 2]


def test_a_class_that_comes_late_has_its_share_and_a_rare_one_has_all_it_has():
    late = [(torch.zeros(10, 1, 2, 2), torch.zeros(10, dtype=torch.long))] * 50
    rare = [(torch.ones(2, 1, 2, 2), torch.ones(2, dtype=torch.long))]
    counts = torch.bincount(labels(sample_of(iter(late + rare), 40)))
    assert counts.tolist() == [20, 2]
    counts = torch.bincount(labels(sample_of(iter(late + rare * 30), 40)))
    assert counts.tolist() == [20, 20]


def test_every_image_is_drawn_as_often_as_any_other():
    """2,000 draws of 10 of 40 images: each is expected 500 times, with a standard deviation of 19."""
    for classes in (None, 2):
        times = torch.zeros(40)
        for seed in range(2000):
            times[numbers(sample_of(stream(40, classes), 10, seed=seed))] += 1
        assert (times - 500).abs().max() < 5 * 19


def test_a_seed_repeats_the_sample():
    once, again, other = (numbers(sample_of(stream(500, 5), 20, seed=seed)) for seed in (0, 0, 1))
    assert once == again != other


def test_images_that_are_not_in_the_sample_are_let_go():
    alive = []

    def watched():
        for batch in stream(400, 4):
            alive.append(weakref.ref(batch[0]))
            yield batch

    sample = sample_of(watched(), 20)
    assert len(labels(sample)) == 20
    assert sum(one() is not None for one in alive) <= 1


def test_images_of_several_sizes_come_in_batches_of_one_size():
    mixed = [(torch.zeros(4, 1, size, size), torch.arange(4)) for size in (8, 8, 6)]
    assert [tuple(some.shape[2:]) for some, _ in sample_of(mixed, 12)] == [(8, 8), (6, 6)]


def test_nothing_and_too_few():
    with pytest.raises(InputError, match="the stream is empty"):
        sample_of(iter([]), 10)
    with pytest.raises(InputError, match="1 image or more"):
        sample_of(stream(10), 0)
    assert len(numbers(sample_of(stream(7), 10))) == 7


class Single(IterableDataset):
    """A stream of single images, as WebDataset yields them."""

    def __iter__(self):
        drawn = torch.Generator().manual_seed(0)
        for number in range(70):
            yield torch.rand(1, 8, 8, generator=drawn), number % 10


class Batched(IterableDataset):
    """A stream of batches, as ``WebDataset(...).batched(32)`` is."""

    def __iter__(self):
        return iter(DataLoader(Single(), batch_size=64))


class Examples:
    """Examples by name, as Hugging Face datasets yield them with the format of PyTorch."""

    def with_format(self, kind):
        assert kind == "torch"
        return [{"image": image, "label": label} for image, label in Single()]


class Transformed:
    """Examples with a transform of the user's own, which is a format of Hugging Face datasets too."""

    format = {"type": "custom"}  # noqa: RUF012

    def with_format(self, kind):
        raise AssertionError("the transform would be replaced")

    def __iter__(self):
        return iter({"pixel_values": image, "label": label} for image, label in Single())

    def __len__(self):
        return 70

    def __getitem__(self, number):
        return list(self)[number]


FORMS = [Single(), Batched(), Examples(), Transformed()]


def kept_of(images):
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = infoprune.zoo.build("digits").eval()
    return infoprune.plan(model, images, criterion="hrel", criterion_options={"batch": 20}, macs=0.5).kept


@pytest.mark.parametrize("images", FORMS, ids=["stream", "stream of batches", "examples by name", "with a transform"])
def test_data_sets_are_batched_where_they_are_not(images):
    first = next(iter(as_batches(images)))
    values = next(iter(first.values())) if isinstance(first, dict) else first[0]
    assert values.shape == (64, 1, 8, 8)
    assert kept_of(images) == kept_of(DataLoader(Single(), batch_size=64))
    assert len(labels(sample_of(images, 20))) == 20
    model = infoprune.zoo.build("digits").eval()
    assert infoprune.evaluate(model, images).images == 70


def test_several_data_sets_at_once_and_whole_numbers_are_refused():
    class Parts(dict):
        def with_format(self, kind):
            raise AssertionError

    with pytest.raises(InputError, match="a Parts holds several data sets, train, test: pass one of them"):
        kept_of(Parts(train=Examples(), test=Examples()))
    with pytest.raises(InputError, match="stored as torch.uint8"):
        kept_of([(torch.zeros(20, 1, 8, 8, dtype=torch.uint8), torch.arange(20))])


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """130 images in a tar file, as WebDataset reads them, and as tensors."""
    folder, drawn = tmp_path_factory.mktemp("tar"), torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (130, 8, 8), generator=drawn, dtype=torch.uint8)
    with tarfile.open(folder / "images.tar", "w") as file:
        for number, one in enumerate(pixels):
            image = io.BytesIO()
            Image.fromarray(one.numpy()).save(image, "png")
            for ending, content in (("png", image.getvalue()), ("cls", str(number % 10).encode())):
                entry = tarfile.TarInfo(f"{number:05}.{ending}")
                entry.size = len(content)
                file.addfile(entry, io.BytesIO(content))
    return folder / "images.tar", [(one[None] / 255, number % 10) for number, one in enumerate(pixels)]


def web(form, file):
    """A WebDataset that every process reads whole."""
    webdataset = pytest.importorskip("webdataset")

    def first_channel(image):
        return image[:1]

    def single():
        return (
            webdataset.WebDataset(str(file), shardshuffle=False, nodesplitter=lambda urls: urls)
            .decode("torchrgb")
            .to_tuple("png", "cls")
            .map_tuple(first_channel, int)
        )

    return {
        "single": single,
        "batched": lambda: single().batched(32),
        "loader": lambda: webdataset.WebLoader(single(), batch_size=32),
        "by name": lambda: single().map(lambda pair: {"image": pair[0], "label": pair[1]}),
    }[form]()


@pytest.mark.parametrize("form", ["single", "batched", "loader", "by name"])
def test_web_datasets_as_they_are(written, form):
    file, pairs = written
    assert kept_of(web(form, file)) == kept_of(
        DataLoader(pairs, batch_size=64 if form in ("single", "by name") else 32)
    )
    assert torch.bincount(labels(sample_of(web(form, file), 20))).tolist() == [2] * 10


def hugging(form, pairs):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    images = [Image.fromarray((one[0] * 255).round().byte().numpy()) for one, _ in pairs]
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(10)}
    stored = datasets.Dataset.from_dict(
        {"image": images, "label": [label for _, label in pairs]}, features=datasets.Features(kinds)
    )

    def as_tensors(some):
        pixels = [np.asarray(image, dtype=np.float32)[None] / 255 for image in some["image"]]
        return {"pixel_values": [torch.from_numpy(one) for one in pixels], "label": some["label"]}

    def as_arrays(some):
        return {"pixel_values": [one.numpy() for one in as_tensors(some)["pixel_values"]], "label": some["label"]}

    words = {"batched": True, "remove_columns": ["image"]}
    return {
        "transform": lambda: stored.with_transform(as_tensors),
        "mapped": lambda: stored.map(as_arrays, **words),
        "iterable": lambda: stored.to_iterable_dataset().map(as_arrays, **words),
    }[form]()


@pytest.mark.parametrize("form", ["transform", "mapped", "iterable"])
def test_hugging_face_datasets_as_they_are(written, form):
    pairs = written[1]
    assert kept_of(hugging(form, pairs)) == kept_of(DataLoader(pairs, batch_size=64))
    assert torch.bincount(labels(sample_of(hugging(form, pairs), 20))).tolist() == [2] * 10


def test_two_processes_read_the_same_stream(written):
    pytest.importorskip("webdataset")
    file, _ = written
    assert launched(2, kept_of_web, file) == digest(kept_of_web(file))


def kept_of_web(file):
    return kept_of(web("single", file))


MEMORY = """
import resource, sys
import torch
import infoprune

class Many:
    def __iter__(self):
        drawn = torch.Generator().manual_seed(0)
        for first in range(0, int(sys.argv[1]), 200):
            yield torch.rand(200, 1, 8, 8, generator=drawn), torch.arange(200) % 10

torch.set_num_threads(1)
torch.manual_seed(0)
model, images = infoprune.zoo.build("digits").eval(), Many()
sample = infoprune.sample_of(images, 80)
found = infoprune.prune(model, images, criterion="apoz", macs=0.5, repair="least-squares", repair_images=sample)
assert infoprune.evaluate(found.model, images).images == int(sys.argv[1])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_number_of_images():
    """Maps of 5,000 images of this network take 100 MB, those of 200 images 4 MB."""
    peaks = []
    for images in (200, 5000):
        environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
        words = [sys.executable, "-c", MEMORY, str(images)]
        done = subprocess.run(words, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout) / 1024)
    sys.stdout.write(f"peak memory: {peaks[0]:.0f} MB with 200 images, {peaks[1]:.0f} MB with 5,000\n")
    assert peaks[1] - peaks[0] < 40
