"""The measured accuracies of the published weights, on the whole real test set; the others are in benchmarks/zoo.py."""

import pytest

from infoprune import data, zoo
from infoprune.measure.accuracy import evaluate


@pytest.mark.parametrize(
    ("name", "file", "images", "accuracy"),
    [
        ("lenet5", "lenet5_caffe_mnist.pt", "mnist", 99.14),
        ("resnet20", "akamaster_resnet20-12fca82f.th", "cifar10", 91.73),
    ],
)
def test_top1_is_the_published_one(name, file, images, accuracy, data_dir, weights_dir):
    network, preprocessing = zoo.load_network(name, weights_dir / file)
    test = data.open_source(images, data_dir).test
    measured = evaluate(network, data.loader(test, preprocessing, batch_size=200))
    assert measured.images == 10_000
    # One image of the ten thousand may fall on the other side on another processor.
    assert measured.accuracy == pytest.approx(accuracy, abs=0.015)
