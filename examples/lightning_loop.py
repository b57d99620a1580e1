"""Fine-tune a pruned network with a Lightning Trainer; the original is the teacher.

``infoprune.prune`` returns an ordinary ``torch.nn.Module``, so that any training loop works. ``infoprune tune`` has one
built in. Needs ``pip install lightning``.

    python examples/lightning_loop.py
"""

import argparse

import lightning
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import infoprune


class Distillation(lightning.LightningModule):
    """Trains a network on labels and on the softened outputs of a teacher (Hinton et al., arXiv 1503.02531)."""

    def __init__(self, student: nn.Module, teacher: nn.Module, temperature: float = 4.0) -> None:
        super().__init__()
        self.student, self.temperature = student, temperature
        self.teacher = teacher.eval().requires_grad_(False)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """Return the loss of one batch."""
        images, labels = batch
        logits, wanted = self.student(images), self.teacher(images)
        soft = F.kl_div(
            F.log_softmax(logits / self.temperature, 1), F.softmax(wanted / self.temperature, 1), reduction="batchmean"
        )
        return 0.5 * F.cross_entropy(logits, labels) + 0.5 * self.temperature**2 * soft

    def on_train_epoch_start(self) -> None:
        """Keep the teacher in eval mode; the Trainer switches the whole module to training."""
        self.teacher.eval()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer of the student."""
        return torch.optim.SGD(self.student.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)


def main() -> None:
    """Train a network, prune it to a quarter of its MACs, and fine-tune it with Lightning."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few epochs, for a test")
    options = parser.parse_args()

    lightning.seed_everything(0)
    source, how = infoprune.data.open_source("digits"), infoprune.data.Preprocessing(mean=(0.0,), std=(1.0,))
    train = infoprune.data.loader(source.train, how, batch_size=64, shuffle=True)
    test = infoprune.data.loader(source.test, how)
    recipe = infoprune.Recipe(epochs=4 if options.quick else 15, learning_rate=0.1, precision="32-true")
    original = infoprune.train(infoprune.zoo.build("digits"), train, recipe=recipe).model
    result = infoprune.prune(original, train, macs=0.25, effort="quick", test=test)
    print(f"MACs: {result.base.macs:,} -> {result.pruned.macs:,}")
    print(f"accuracy: {result.base.accuracy:.2f} %, pruned {result.pruned.accuracy:.2f} %")

    trainer = lightning.Trainer(
        max_epochs=1 if options.quick else 5, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Distillation(result.model, original), train)
    print(f"fine-tuned: {infoprune.evaluate(result.model, test).accuracy:.2f} %")


if __name__ == "__main__":
    main()
