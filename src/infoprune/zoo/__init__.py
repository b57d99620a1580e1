"""The networks of the papers in their CIFAR, MNIST and ImageNet forms, by name."""

from infoprune.zoo import (  # noqa: F401  importing a family registers its networks
    digits,
    lenet,
    mobilenet,
    resnet,
    resnet_imagenet,
    vgg,
)
from infoprune.zoo.factory import make, preprocessing_of
from infoprune.zoo.onnx_file import from_onnx
from infoprune.zoo.registry import NetworkInfo, build, info, names, register
from infoprune.zoo.weights import load_network, load_weights, read_weights

__all__ = [
    "NetworkInfo",
    "build",
    "from_onnx",
    "info",
    "load_network",
    "load_weights",
    "make",
    "names",
    "preprocessing_of",
    "read_weights",
    "register",
]
