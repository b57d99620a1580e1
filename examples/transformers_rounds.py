"""Prune in rounds while a Trainer of Hugging Face Transformers trains: one callback.

The model is a small ResNet with fresh weights, so that nothing is downloaded. Needs ``pip install transformers
accelerate``.

    python examples/transformers_rounds.py
"""

import argparse
import tempfile

import torch
import transformers

import infoprune
from infoprune.callbacks import RoundImages, TransformersPruning
from infoprune.iterative.schedule import LayerPace, Pace


def examples(images: infoprune.data.Images) -> list[dict[str, torch.Tensor]]:
    """Return images as the Trainer wants them."""
    batches = infoprune.data.loader(images, infoprune.data.Preprocessing(mean=(0.0,), std=(1.0,)))
    return [{"pixel_values": one, "labels": label} for some, labels in batches
            for one, label in zip(some, labels, strict=True)]  # fmt: skip


def main() -> None:
    """Train a network and remove a quarter of the inner filters of its blocks in every round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few epochs, for a test")
    options = parser.parse_args()

    transformers.set_seed(0)
    source = infoprune.data.open_source("digits")
    train, test = examples(source.train), examples(source.test)
    model = transformers.ResNetForImageClassification(
        transformers.ResNetConfig(
            num_channels=1, embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", num_labels=10
        )
    )

    schedule = infoprune.PruningSchedule(
        layers=(LayerPace("*.layer.0.convolution", Pace(share=0.25), limit=0.4),),
        initial=infoprune.Recipe(epochs=2 if options.quick else 8),  # epochs before the first cut
        retraining=infoprune.Recipe(epochs=1 if options.quick else 4),  # and after every cut
        criterion="hrel",
    )
    collate = transformers.default_data_collator
    pruning = TransformersPruning(schedule, RoundImages([collate(train[:200])], test=[collate(test)]))
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            folder, num_train_epochs=6 if options.quick else 24, per_device_train_batch_size=64, learning_rate=0.003,
            report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True, logging_strategy="no",
        )  # fmt: skip
        transformers.Trainer(model, arguments, train_dataset=train, callbacks=[pruning]).train()
    for one in pruning.rounds:
        print(f"round {one.number}: {one.macs:,} MACs, {one.test:.2f} %")
    print(f"MACs: {pruning.rounds[0].macs:,} -> {pruning.rounds[-1].macs:,}")


if __name__ == "__main__":
    main()
