"""Prune a U-Net: a network whose output is a map, with skip connections that concatenate.

The U-Net finds the strokes of handwritten digits in noisy images; the measure is the intersection over union (IoU).
infoprune needs no labels and no metric for it: what it compares with the original is the output itself.

    python examples/unet.py
"""

import argparse

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import infoprune


# --8<-- [start:network]
def block(inputs: int, outputs: int) -> nn.Sequential:
    """Return two 3x3 convolutions with batch norm and ReLU."""
    first = [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    second = [nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*first, *second)


class UNet(nn.Module):
    """Two levels down and two up, of Ronneberger et al. (arXiv 1505.04597), with padding."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.down = nn.ModuleList([block(1, width), block(width, 2 * width)])
        self.middle = block(2 * width, 4 * width)
        self.grow = nn.ModuleList(
            [nn.ConvTranspose2d(4 * width, 2 * width, 2, 2), nn.ConvTranspose2d(2 * width, width, 2, 2)]
        )
        self.up = nn.ModuleList([block(4 * width, 2 * width), block(2 * width, width)])
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return ``(n, 1, H, W)`` logits of ``(n, 1, H, W)`` images; H and W are multiples of 4."""
        skips = []
        for level in self.down:
            skips.append(level(images))
            images = F.max_pool2d(skips[-1], 2)
        images = self.middle(images)
        for grow, level in zip(self.grow, self.up, strict=True):
            images = level(torch.cat([grow(images), skips.pop()], 1))
        return self.head(images)


# --8<-- [end:network]
def strokes(images: infoprune.data.Images) -> tuple[Tensor, Tensor]:
    """Return ``(n, 1, 16, 16)`` noisy images of digits and the masks of their strokes."""
    reading = infoprune.data.Preprocessing(mean=(0.0,), std=(1.0,))
    pixels, _ = next(iter(infoprune.data.loader(images, reading, batch_size=len(images))))
    large = F.interpolate(pixels, scale_factor=2, mode="bilinear", align_corners=False)
    return large + 0.4 * torch.randn_like(large), (large > 0.5).float()


def train(model: UNet, images: Tensor, masks: Tensor, epochs: int) -> None:
    """Train with Adam, in an ordinary loop."""
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(epochs):
        for chosen in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(model(images[chosen]), masks[chosen]).backward()
            optimizer.step()
    model.eval()


@torch.no_grad()
def iou(model: nn.Module, images: Tensor, masks: Tensor) -> float:
    """Return the intersection over union of the found and the true strokes, percent."""
    found, true = model(images) > 0, masks > 0.5
    return 100 * float((found & true).sum() / (found | true).sum())


def main() -> None:
    """Train, prune to half of the MACs with the default and with two criteria, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one epoch of few images, for a test")
    options = parser.parse_args()

    torch.manual_seed(0)
    source = infoprune.data.open_source("digits")
    images, masks = (part[: 300 if options.quick else None] for part in strokes(source.train))
    test_images, test_masks = strokes(source.test)
    model = UNet()
    train(model, images, masks, epochs=1 if options.quick else 10)
    print(f"original: IoU {iou(model, test_images, test_masks):.2f} %")

    # --8<-- [start:prune]
    result = infoprune.prune(model, images, macs=0.5)
    print(f"MACs: {result.base.macs:,} -> {result.pruned.macs:,}")
    print(f"chosen for the network: IoU {iou(result.model, test_images, test_masks):.2f} %")
    for layer, decision in result.plan.decisions.items():
        print(f"{layer}: {len(decision.kept)} of {decision.filters} filters kept")
    # --8<-- [end:prune]

    for criterion in ("l1", "random"):
        for repair in ("bn", "least-squares"):
            other = infoprune.prune(model, images, criterion=criterion, macs=0.5, repair=repair)
            print(f"{criterion}, {repair}: IoU {iou(other.model, test_images, test_masks):.2f} %")


if __name__ == "__main__":
    main()
