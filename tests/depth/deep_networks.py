"""Blocks of several designs."""

import torch
from torch import nn
from torch.nn import functional as F


class Plain(nn.Module):
    """A residual block with a ReLU after the addition, or before it."""

    def __init__(self, width, last="after"):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.last = last

    def forward(self, x):
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(x + y) if self.last == "after" else x + y


class Scaled(nn.Module):
    """A branch that ends in a scale of its own, beside a second branch."""

    def __init__(self, width):
        super().__init__()
        self.one, self.two = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 3, padding=1)
        self.scale = nn.Parameter(torch.full((width, 1, 1), 0.3))

    def forward(self, x):
        return x + self.scale * self.one(x) + self.two(x)


class Projected(nn.Module):
    """A shortcut with weights: what is left without them is zero, not the input."""

    def __init__(self, width):
        super().__init__()
        self.branch, self.shortcut = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 1)

    def forward(self, x):
        return self.branch(x) + self.shortcut(x)


class Halved(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.branch = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return (x + self.branch(x)) / 2


class Tower(nn.Module):
    """Blocks one after another, behind a stem."""

    def __init__(self, *blocks, width=6, positive=True):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU() if positive else nn.Identity())
        self.stage = nn.Sequential(*blocks)
        self.fc = nn.Linear(width, 4)

    def forward(self, x):
        return self.fc(self.stage(self.stem(x)).mean((2, 3)))


def lively(model):
    """Give norms statistics and scales that hide nothing."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.3, 1)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    return model.eval()


def images(count=24, size=8):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))
