"""Prune in rounds while a Lightning Trainer trains: one callback.

The Trainer's checkpoints hold what has been cut, so that ``fit(ckpt_path=...)`` resumes. Needs ``pip install
lightning``.

    python examples/lightning_rounds.py
"""

import argparse

import lightning
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import infoprune
from infoprune.callbacks import LightningPruning, RoundImages
from infoprune.iterative.schedule import LayerPace, Pace


class Classifier(lightning.LightningModule):
    """An ordinary module: it knows nothing of pruning."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """Return the loss of one batch."""
        return F.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer, whose moments are cut with the weights."""
        return torch.optim.AdamW(self.parameters(), lr=0.003)


def main() -> None:
    """Train a network and remove a quarter of the filters of its wide layers in every round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few epochs, for a test")
    options = parser.parse_args()

    lightning.seed_everything(0)
    source, how = infoprune.data.open_source("digits"), infoprune.data.Preprocessing(mean=(0.0,), std=(1.0,))
    train = infoprune.data.loader(source.train, how, batch_size=64, shuffle=True)
    calibration = infoprune.data.loader(infoprune.data.balanced_sample(source.train, 200), how)
    test = infoprune.data.loader(source.test, how)

    schedule = infoprune.PruningSchedule(
        layers=(LayerPace("features.*", Pace(share=0.25), limit=0.4),),
        initial=infoprune.Recipe(epochs=2 if options.quick else 8),  # epochs before the first cut
        retraining=infoprune.Recipe(epochs=1 if options.quick else 4),  # and after every cut
        criterion="hrel",
    )
    pruning = LightningPruning(schedule, RoundImages(calibration, test=test))
    module = Classifier(infoprune.zoo.build("digits"))
    trainer = lightning.Trainer(
        max_epochs=6 if options.quick else 24, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[pruning],
    )  # fmt: skip
    trainer.fit(module, train)
    for one in pruning.rounds:
        print(f"round {one.number}: {one.macs:,} MACs, {one.test:.2f} %")
    print(f"MACs: {pruning.rounds[0].macs:,} -> {pruning.rounds[-1].macs:,}")


if __name__ == "__main__":
    main()
