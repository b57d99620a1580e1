"""Find the smallest network that loses at most one point of accuracy, instead of naming a budget.

A small network is trained on scikit-learn's 8x8 digits. ``max_loss`` then removes 10 % of the multiply-adds (MACs) at a
time, repairs, and measures the loss on every fifth calibration image; the smallest network within the loss is returned.

    python examples/accuracy_driven.py
    python examples/accuracy_driven.py --quick
"""

import argparse

import torch
from torch import nn
from torch.utils.data import DataLoader

import infoprune


def digits() -> tuple[infoprune.data.Images, infoprune.data.Images, infoprune.data.Preprocessing]:
    """Return training images, test images, and how the network reads them."""
    source = infoprune.data.open_source("digits")
    return source.train, source.test, infoprune.data.Preprocessing(mean=(0.0,), std=(1.0,))


def trained(images: infoprune.data.Images, preprocessing: infoprune.data.Preprocessing, epochs: int) -> nn.Module:
    """Return the zoo's digits network, trained from random weights."""
    loader: DataLoader = infoprune.data.loader(images, preprocessing, batch_size=64, shuffle=True)
    recipe = infoprune.Recipe(epochs=epochs, learning_rate=0.1, precision="32-true")
    return infoprune.train(infoprune.zoo.build("digits"), loader, recipe=recipe).model


def main() -> None:
    """Train, prune within a loss, and report the figures on the test images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-loss", type=float, default=1.0, help="points of accuracy that may be lost")
    parser.add_argument("--quick", action="store_true", help="few images and the shortest search, for a test")
    options = parser.parse_args()

    torch.manual_seed(0)
    train, test, preprocessing = digits()
    train = infoprune.data.random_sample(train, 400) if options.quick else train
    model = trained(train, preprocessing, epochs=8 if options.quick else 15)
    result = infoprune.prune(
        model,
        infoprune.data.loader(train, preprocessing),
        max_loss=options.max_loss,
        effort="quick" if options.quick else "normal",
        test=infoprune.data.loader(test, preprocessing),  # measured at the end; these images choose nothing
    )
    kept = result.pruned.macs / result.base.macs
    print(f"MACs: {result.base.macs:,} -> {result.pruned.macs:,} ({kept:.0%} kept)")
    print(f"accuracy on test images: {result.base.accuracy:.2f} % -> {result.pruned.accuracy:.2f} %")


if __name__ == "__main__":
    main()
