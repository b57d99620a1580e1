"""Decide how many filters each layer keeps with your own cut-off rule.

A criterion with a curve reports what remains unknown after the first 1, 2, ... filters; for ``cmi``, how many bits the
other filters still add about the labels. A rule reads that curve and returns the numbers of filters to keep.

    python examples/own_cutoff_rule.py
"""

import argparse

import torch

import infoprune
from infoprune.cutoff.rules.curve import Curve


def little_left(curve: Curve, *, share: float = 0.2) -> list[int]:
    """Keep the first filters after which at most a share of the curve's first value remains."""
    limit = share * curve.points[1]
    return [next((m for m, left in curve.points.items() if m and left <= limit), curve.filters)]


def main() -> None:
    """Train a small network and plan it with the rule at three settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few epochs and images, for a test")
    options = parser.parse_args()

    torch.manual_seed(0)
    infoprune.register_rule("little-left", little_left)
    source, how = infoprune.data.open_source("digits"), infoprune.data.Preprocessing(mean=(0.0,), std=(1.0,))
    recipe = infoprune.Recipe(epochs=4 if options.quick else 15, learning_rate=0.1, precision="32-true")
    train, test = infoprune.data.loader(source.train, how, shuffle=True), infoprune.data.loader(source.test, how)
    model = infoprune.train(infoprune.zoo.build("digits"), train, recipe=recipe).model

    images = infoprune.data.balanced_sample(source.train, 100 if options.quick else 256)
    calibration = infoprune.data.loader(images, how)
    for share in (0.5, 0.2, 0.05):
        plan = infoprune.plan(
            model, calibration, criterion="cmi", cutoff="little-left", cutoff_options={"share": share}
        )
        small = infoprune.repair(infoprune.apply(plan, model), model, calibration, plan, method="least-squares")
        kept = {layer: f"{len(decision.kept)}/{decision.filters}" for layer, decision in plan.decisions.items()}
        print(f"share {share}: kept {kept}, accuracy {infoprune.evaluate(small, test).accuracy:.2f} %")


if __name__ == "__main__":
    main()
