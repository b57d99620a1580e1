"""Print as JSON which filters every criterion keeps of seeded layers and of a seeded network with copied filters.

Run in a process of its own under other instruction sets and numbers of threads: the settings are read when torch loads.
"""

import json

import torch
from torch import nn

from infoprune import criteria
from infoprune.criteria import Filters, create
from infoprune.options import PruneOptions
from infoprune.selection.calibration import Calibration
from infoprune.selection.planning import plan_for

IMAGES, CLASSES = 48, 4
# Fewer draws of those that take seconds each.
OPTIONS = {"excitation": {"steps": 15}, "scop": {"steps": 15}, "shapley": {"permutations": 2}}


def layer(seed, filters=21, size=5):
    """Maps and weights of which a third are copies, the labels, and which filter each is a copy of."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(IMAGES) % CLASSES
    patterns = torch.randn(filters, CLASSES, size, size, generator=generator)
    noise = torch.randn(IMAGES, filters, size, size, generator=generator)
    of = torch.arange(filters)
    moved = torch.randperm(filters, generator=generator)
    of[moved[: filters // 3]] = moved[filters // 3 : 2 * (filters // 3)]
    maps = (noise + patterns[:, labels].movedim(0, 1)).relu()[:, of]
    weights, scales = torch.randn(filters, 2, 3, 3, generator=generator), torch.randn(filters, generator=generator)
    return maps, labels, Filters((weights[of],), (scales[of],), f"layer{seed}"), of


def scored(name, maps, labels, filters, sizes=(IMAGES,)):
    criterion = create(criteria.find(name), filters, seed=1)
    for some, classes in zip(maps.split(list(sizes)), labels.split(list(sizes)), strict=True):
        criterion.update(some, classes)
    return criterion.compute()


class Net(nn.Module):
    """Three convolutions, some of whose filters are copies."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(24, 33, 3, padding=1), nn.BatchNorm2d(33), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(33, 17, 3, padding=1), nn.BatchNorm2d(17), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
        )
        self.classifier = nn.Linear(17, CLASSES)
        for layer_, to, of in ((0, 20, 2), (0, 9, 11), (4, 32, 0), (4, 15, 16), (8, 16, 5)):
            for module in (self.features[layer_], self.features[layer_ + 1]):
                for tensor in (module.weight.data, module.bias.data):
                    tensor[to] = tensor[of]

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


def network_plans(names):
    model = Net().eval()
    generator = torch.Generator().manual_seed(4)
    images = torch.randn(CLASSES, 3, 12, 12, generator=generator)[torch.arange(IMAGES) % CLASSES]
    images = images + torch.randn(IMAGES, 3, 12, 12, generator=generator)
    batches = [(images[:31], torch.arange(31) % CLASSES), (images[31:], torch.arange(31, IMAGES) % CLASSES)]
    known = Calibration.of(model, batches)
    choices = {name: PruneOptions(name, ratio=0.4, criterion_options=OPTIONS.get(name, {})) for name in names}
    return {name: plan_for(known, choice).plan.kept for name, choice in choices.items()}


def main():
    infos = list(criteria.all_criteria())
    seeded = [layer(seed) for seed in range(3)]
    found = {
        info.name: [scored(info.name, *drawn[:3]).order for drawn in seeded] for info in infos if not info.score_network
    }
    print(json.dumps({"layers": found, "network": network_plans([info.name for info in infos])}, sort_keys=True))  # noqa: T201


if __name__ == "__main__":
    main()
