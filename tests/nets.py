"""Small networks to cut and repair, and how far apart two of them are."""

import torch
import torch.nn.functional as F
from torch import nn

from infoprune.network.coupled_groups import find_groups
from infoprune.plan import LayerDecision, Plan
from infoprune.repair.base import Pair


def conv_bn(inputs, outputs, kernel=3, stride=1, groups=1):
    norm = nn.BatchNorm2d(outputs)
    norm.running_mean.normal_(0, 0.3)
    norm.running_var.uniform_(0.3, 1)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.normal_(norm.bias, 0, 0.3)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False), norm, nn.ReLU()
    )


class Plain(nn.Module):
    def __init__(self, last=None):
        super().__init__()
        self.first = conv_bn(3, 8)
        self.middle = last or nn.Conv2d(8, 6, 3, padding=1)
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        return self.fc(F.relu(self.middle(self.first(x))).mean((2, 3)))


class Residual(nn.Module):
    """Two blocks with a shortcut, added in place and not."""

    def __init__(self):
        super().__init__()
        self.stem = conv_bn(3, 6)
        self.inner1, self.outer1, self.norm1 = conv_bn(6, 12), nn.Conv2d(12, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.inner2, self.outer2, self.norm2 = conv_bn(6, 12), nn.Conv2d(12, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        x = self.stem(x)
        x = F.relu(self.norm1(self.outer1(self.inner1(x))) + x)
        y = self.norm2(self.outer2(self.inner2(x)))
        y += x
        return self.fc(F.relu(y).mean((2, 3)))


class Separable(nn.Module):
    """Expand, depthwise, project; then a convolution of two groups; then two branches side by side."""

    def __init__(self):
        super().__init__()
        self.expand, self.depthwise, self.project = conv_bn(3, 10, 1), conv_bn(10, 10, groups=10), conv_bn(10, 8, 1)
        self.grouped = conv_bn(8, 8, groups=2)
        self.left, self.right = conv_bn(8, 5), conv_bn(8, 5, 1)
        self.last, self.fc = conv_bn(10, 6), nn.Linear(6, 4)

    def forward(self, x):
        x = self.grouped(self.project(self.depthwise(self.expand(x))))
        x = torch.cat([self.left(x), self.right(x)], 1)
        return self.fc(self.last(x).mean((2, 3)))


def pair_of(model, batches, keep):
    model = model.eval()
    groups = find_groups(model, batches[0][:2])
    filters = {group.name: group.filters for group in groups.groups}
    plan = Plan({layer: LayerDecision(layer, filters[layer], tuple(kept)) for layer, kept in keep.items()})
    return Pair.of(model, plan, batches, groups=groups)


def quiet(stage, done, total):
    pass


def images(n=48, size=8, parts=2):
    return list(torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1)).chunk(parts))


@torch.no_grad()
def gap(a, b, batches):
    wanted = torch.cat([a(x) for x in batches])
    return float((torch.cat([b(x) for x in batches]) - wanted).norm() / wanted.norm())


# Producers of every kind with 4 inputs and 6 outputs.
PRODUCERS = [
    nn.Conv2d(4, 6, 3),
    nn.Conv2d(4, 6, 3, groups=2),
    nn.Linear(4, 6),
    nn.ConvTranspose2d(4, 6, 3),
    nn.ConvTranspose2d(4, 6, 3, groups=2),
]


def helping_and_misleading():
    """Return a network whose first filter helps and whose second one misleads, with images and their two classes."""
    torch.manual_seed(0)
    labels = torch.arange(64) % 2
    images = torch.randn(64, 2, 4, 4)
    images[:, 0] += 2 * (2 * labels[:, None, None] - 1)
    model = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.0], [1.0, 0.0]])[:, :, None, None])
        model[3].weight.copy_(torch.tensor([[-1.0, 0.5], [1.0, -0.5]]))
    return model, images, labels
