"""Prune in rounds inside your own training loop: two calls per epoch, and the optimizer goes on.

The network is cut in place. Its parameters stay the same objects, with fewer values, and AdamW keeps the moments of the
weights that are left.

    python examples/own_training_loop.py
"""

import argparse

import torch
from torch.nn import functional as F

import infoprune
from infoprune.callbacks import PruningRounds, RoundImages
from infoprune.iterative.schedule import LayerPace, Pace


def main() -> None:
    """Train a network and remove a quarter of the filters of its wide layers in every round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few epochs, for a test")
    options = parser.parse_args()

    torch.manual_seed(0)
    source, how = infoprune.data.open_source("digits"), infoprune.data.Preprocessing(mean=(0.0,), std=(1.0,))
    train = infoprune.data.loader(source.train, how, batch_size=64, shuffle=True)
    calibration = infoprune.data.loader(infoprune.data.balanced_sample(source.train, 200), how)
    test = infoprune.data.loader(source.test, how)
    network = infoprune.zoo.build("digits")
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.003)

    # --8<-- [start:rounds]
    schedule = infoprune.PruningSchedule(
        layers=(LayerPace("features.*", Pace(share=0.25), limit=0.4),),
        initial=infoprune.Recipe(epochs=2 if options.quick else 8),  # epochs before the first cut
        retraining=infoprune.Recipe(epochs=1 if options.quick else 4),  # and after every cut
        criterion="hrel",
    )
    rounds = PruningRounds(
        network,
        schedule,
        RoundImages(calibration, test=test),
        on_round=lambda one, last: print(f"round {one.number} of {last}: {one.macs:,} MACs, {one.test:.2f} %"),
    )
    for epoch in range(rounds.epochs):
        rounds.before_epoch(epoch, optimizer)
        network.train()
        for images, labels in train:
            optimizer.zero_grad()
            F.cross_entropy(network(images), labels).backward()
            optimizer.step()
        rounds.after_epoch(epoch, optimizer)
    # --8<-- [end:rounds]
    print(f"MACs: {rounds.rounds[0].macs:,} -> {rounds.rounds[-1].macs:,}")


if __name__ == "__main__":
    main()
