"""Prune a torchvision detector: a RetinaNet that finds handwritten digits in small scenes.

A detector ends in steps such as non-maximum suppression, which return another number of boxes for every image.
``BeforeSuppression`` returns what comes before them: class logits and box offsets. It is pruned, and the detector
inside it is smaller and works as before.

    python examples/torchvision_detector.py
"""

import argparse

import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import box_iou

import infoprune


# --8<-- [start:wrapper]
class BeforeSuppression(nn.Module):
    """A RetinaNet, SSD or SSDlite without its last steps: one batch of images in, logits and box offsets out."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the output of the head for ``(n, 3, H, W)`` images, normalised and of one size."""
        found = self.detector.backbone(images)
        return self.detector.head([found] if isinstance(found, Tensor) else list(found.values()))


# --8<-- [end:wrapper]
def small_detector() -> RetinaNet:
    """Return torchvision's RetinaNet over a backbone of six convolutions, for 64x64 images."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((3, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 64, 2)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    backbone = nn.Sequential(*layers)
    backbone.out_channels = 64
    head = RetinaNetHead(64, 2, 10, norm_layer=nn.BatchNorm2d)
    anchors = AnchorGenerator(sizes=((16, 24),), aspect_ratios=((1.0,),))
    grey = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}  # the scenes are not normalised
    return RetinaNet(backbone, 10, min_size=64, max_size=64, anchor_generator=anchors, head=head, **grey)


def scenes(images: infoprune.data.Images, count: int) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Return ``(count, 3, 64, 64)`` scenes with a digit in up to four quarters, and their boxes and classes."""
    reading = infoprune.data.Preprocessing(mean=(0.0,), std=(1.0,))
    digits, classes = next(iter(infoprune.data.loader(images, reading, batch_size=len(images))))
    drawn, targets = 0.1 * torch.rand(count, 3, 64, 64), []
    for scene in drawn:
        boxes, labels = [], []
        for quarter in torch.randperm(4)[: int(torch.randint(1, 5, ()))].tolist():
            which, side = int(torch.randint(len(digits), ())), int(torch.randint(16, 25, ()))
            left, top = (
                torch.randint(0, 32 - side + 1, (2,)) + 32 * torch.tensor([quarter % 2, quarter // 2])
            ).tolist()
            scene[:, top : top + side, left : left + side] += nn.functional.interpolate(
                digits[which][None], (side, side)
            )[0]
            boxes.append([left, top, left + side, top + side])
            labels.append(int(classes[which]))
        targets.append({"boxes": torch.tensor(boxes).float(), "labels": torch.tensor(labels)})
    return drawn, targets


def train(detector: RetinaNet, images: Tensor, targets: list[dict[str, Tensor]], epochs: int) -> None:
    """Train with torchvision's own losses."""
    optimizer = torch.optim.Adam(detector.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 2e-3, epochs=epochs, steps_per_epoch=-(-len(images) // 16)
    )
    detector.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(images)).split(16):
            optimizer.zero_grad()
            losses = detector(list(images[chosen]), [targets[i] for i in chosen.tolist()])
            sum(losses.values()).backward()
            optimizer.step()
            schedule.step()
    detector.eval()


@torch.no_grad()
def found(detector: nn.Module, images: Tensor, targets: list[dict[str, Tensor]]) -> tuple[float, float]:
    """Return the percentage of the digits found, and of the reported boxes that are right.

    A box with a score above 0.5 is right where its class is, and it covers a digit with an IoU above 0.5.
    """
    right = reported = true = 0
    for image, target in zip(images, targets, strict=True):
        seen = detector([image])[0]
        sure = seen["scores"] > 0.5
        covers = box_iou(target["boxes"], seen["boxes"][sure]) > 0.5
        same = target["labels"][:, None] == seen["labels"][sure]
        right, reported, true = right + int((covers & same).any(1).sum()), reported + int(sure.sum()), true + len(same)
    return 100 * right / true, 100 * right / max(1, reported)


def report(name: str, detector: nn.Module, images: Tensor, targets: list[dict[str, Tensor]]) -> None:
    """Print what a detector finds."""
    recall, precision = found(detector, images, targets)
    print(f"{name}: {recall:.1f} % of the digits found, {precision:.1f} % of the boxes right")


def main() -> None:
    """Train, prune to half of the MACs with the default and with two criteria, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few scenes and one epoch, for a test")
    options = parser.parse_args()

    torch.manual_seed(0)
    source = infoprune.data.open_source("digits")
    images, targets = scenes(source.train, 64 if options.quick else 1000)
    test_images, test_targets = scenes(source.test, 16 if options.quick else 300)
    detector = small_detector()
    train(detector, images, targets, epochs=1 if options.quick else 15)
    report("original", detector, test_images, test_targets)

    # --8<-- [start:prune]
    whole = BeforeSuppression(detector).eval()
    calibration = images[:256]  # images of other sizes: detector.transform(list_of_images)[0].tensors
    result = infoprune.prune(whole, calibration, macs=0.5)
    small = result.model.detector  # a RetinaNet, as the original is
    # --8<-- [end:prune]
    print(f"MACs: {result.base.macs:,} -> {result.pruned.macs:,}")
    report("chosen for the network", small, test_images, test_targets)
    for criterion in ("l1", "random"):
        other = infoprune.prune(whole, calibration, criterion=criterion, macs=0.5)
        report(criterion, other.model.detector, test_images, test_targets)


if __name__ == "__main__":
    main()
