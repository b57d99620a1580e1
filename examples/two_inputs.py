"""Prune a network that reads two inputs: here the left and the right half of a digit, each with its own branch.

A batch is ``((left, right), labels)``, or ``((left, right),)`` without labels. The smaller network reads two inputs, as
the original does.

    python examples/two_inputs.py
"""

import argparse

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import infoprune


# --8<-- [start:network]
class TwoInputs(nn.Module):
    """One branch of two convolutions per input, joined along the channels, then one more convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = branch(24), branch(24)
        self.joined = nn.Sequential(nn.Conv2d(48, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU())
        self.head = nn.Linear(64, 10)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Return ``(n, 10)`` logits of two ``(n, 1, 8, 4)`` inputs."""
        maps = self.joined(torch.cat([self.left(left), self.right(right)], 1))
        return self.head(maps.mean((2, 3)))


def branch(width: int) -> nn.Sequential:
    """Return two convolutions with batch norm and ReLU."""
    first = [nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*first, nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())


# --8<-- [end:network]
def digits() -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
    """Return left halves, right halves and labels, of the training and of the test images."""
    source = infoprune.data.open_source("digits")
    parts = []
    for images in (source.train, source.test):
        pixels, labels = next(iter(infoprune.data.loader(images, _PREPROCESSING, batch_size=len(images))))
        parts.append((pixels[..., :4], pixels[..., 4:], labels))
    return parts[0], parts[1]


_PREPROCESSING = infoprune.data.Preprocessing(mean=(0.0,), std=(1.0,))


def train(model: TwoInputs, left: Tensor, right: Tensor, labels: Tensor, epochs: int) -> None:
    """Train with Adam, in an ordinary loop."""
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(epochs):
        for chosen in torch.randperm(len(labels)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(left[chosen], right[chosen]), labels[chosen]).backward()
            optimizer.step()
    model.eval()


def main() -> None:
    """Train, prune to half of the MACs, and call the smaller network with two inputs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few epochs, for a test")
    options = parser.parse_args()

    torch.manual_seed(0)
    (left, right, labels), (test_left, test_right, test_labels) = digits()
    model = TwoInputs()
    train(model, left, right, labels, epochs=2 if options.quick else 15)

    # --8<-- [start:prune]
    calibration = [((left[some], right[some]),) for some in torch.arange(len(labels)).split(128)]  # no labels
    result = infoprune.prune(model, calibration, macs=0.5, test=[((test_left, test_right), test_labels)])
    small = result.model  # reads two inputs, as the original does
    # --8<-- [end:prune]
    right_answers = (small(test_left, test_right).argmax(1) == test_labels).double().mean()
    print(f"MACs: {result.base.macs:,} -> {result.pruned.macs:,}")
    print(f"accuracy on test images: {result.base.accuracy:.2f} % -> {100 * right_answers:.2f} %")
    for layer, decision in result.plan.decisions.items():
        print(f"{layer}: {len(decision.kept)} of {decision.filters} filters kept")


if __name__ == "__main__":
    main()
