"""The networks of the papers in their CIFAR, MNIST and ImageNet forms, by name."""

from infoprune.zoo import vgg as _vgg  # noqa: F401  registers its networks
from infoprune.zoo.registry import NetworkInfo, build, info, names, register

__all__ = ["NetworkInfo", "build", "info", "names", "register"]
