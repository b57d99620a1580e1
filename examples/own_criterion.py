"""Prune with your own criterion: one function of the feature maps, registered by name.

The function receives all maps of a layer and the labels, and returns one number per filter; filters with larger numbers
are kept. Here: the variance between the class means of a filter, over its variance within the classes (Fisher's ratio).

    python examples/own_criterion.py
    infoprune prune --criterion own_criterion:separation ...     (in this folder: the same on the command line)
"""

import argparse

import torch
from torch import Tensor
from torch.nn import functional as F

import infoprune


def separation(maps: Tensor, labels: Tensor, *, floor: float = 1e-6) -> Tensor:
    """Variance of a filter's mean activation between the classes, over that within the classes.

    Args:
        maps: ``(n, C, H, W)`` feature maps of one layer.
        labels: ``(n,)`` class indices.
        floor: Added to the variance within the classes.

    Returns:
        ``(C,)`` scores.
    """
    values = maps.double().mean((2, 3))
    members = F.one_hot(labels).double().to(values.device)
    means = (members.T @ values) / members.sum(0).clamp_min(1)[:, None]
    within = (values - means[labels]).square().mean(0)
    between = (means[labels] - values.mean(0)).square().mean(0)
    return between / (within + floor)


def main() -> None:
    """Train a small network, prune it by this criterion and by two others, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few epochs, for a test")
    options = parser.parse_args()

    torch.manual_seed(0)
    infoprune.register_criterion("separation", separation)
    source, how = infoprune.data.open_source("digits"), infoprune.data.Preprocessing(mean=(0.0,), std=(1.0,))
    train, test = infoprune.data.loader(source.train, how, shuffle=True), infoprune.data.loader(source.test, how)
    recipe = infoprune.Recipe(epochs=4 if options.quick else 15, learning_rate=0.1, precision="32-true")
    model = infoprune.train(infoprune.zoo.build("digits"), train, recipe=recipe).model

    calibration = infoprune.data.loader(infoprune.data.balanced_sample(source.train, 256), how)
    print(f"whole network: {infoprune.evaluate(model, test).accuracy:.2f} %")
    for criterion in ("separation", "l1", "random"):
        result = infoprune.prune(model, calibration, criterion=criterion, macs=0.5, test=test, repair="least-squares")
        as_cut, refitted = result.as_cut.accuracy, result.pruned.accuracy
        print(f"{criterion}: {as_cut:.2f} % as cut, {refitted:.2f} % after least squares")


if __name__ == "__main__":
    main()
