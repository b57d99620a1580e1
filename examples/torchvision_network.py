"""Prune a network of torchvision to a share of its multiply-adds (MACs), with images only.

Offline and in seconds, with random weights and random images:

    python examples/torchvision_network.py --quick

With ImageNet weights, which torchvision downloads, and a folder of images, of which no label is read:

    python examples/torchvision_network.py --name resnet50 --weights DEFAULT --images DIR --out small.safetensors
"""

import argparse
from pathlib import Path

import torch
from torchvision.models import get_model

import infoprune

# What the ImageNet weights of torchvision expect.
IMAGENET = infoprune.data.Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize=256, crop=224)


def main() -> None:
    """Prune, report the costs and the advice, and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="resnet18", help="a classification network of torchvision")
    parser.add_argument("--weights", help="weights of torchvision, such as DEFAULT; by default random weights")
    parser.add_argument("--images", type=Path, help="a folder of images; by default random ones")
    parser.add_argument("--macs", type=float, default=0.7, help="share of the multiply-adds that may remain")
    parser.add_argument("--out", type=Path, help="checkpoint to write")
    parser.add_argument("--quick", action="store_true", help="small images and one criterion, for a test")
    options = parser.parse_args()

    torch.manual_seed(0)
    model = get_model(options.name, weights=options.weights).eval()
    side = 32 if options.quick else 224
    images = options.images or torch.rand(16, 3, side, side)
    if options.quick:
        result = infoprune.prune(model, images, macs=options.macs, criterion="l1", repair="bn")
    else:
        result = infoprune.prune(model, images, macs=options.macs, preprocessing=IMAGENET)
    print(f"MACs: {result.base.macs:,} -> {result.pruned.macs:,}")
    print(f"parameters: {result.base.parameters:,} -> {result.pruned.parameters:,}")
    for sentence in result.advice:
        print(sentence)
    if options.out:
        origin = infoprune.Origin(f"torchvision:{options.name}", (3, side, side))
        infoprune.save(result.model, options.out, origin=origin)
        infoprune.load(options.out)  # builds the network from torchvision's list of names, then reads the weights


if __name__ == "__main__":
    main()
