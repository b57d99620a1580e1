"""Networks that are nothing but numbers."""

from dataclasses import dataclass

import torch

from infoprune.criteria.base import Importance


@dataclass(frozen=True)
class ToyGroup:
    name: str
    filters: int
    units: tuple[tuple[int, ...], ...]
    parts: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class ToyCost:
    macs: int
    parameters: int


class Chain:
    """Convolutions one after the other: each reads what the one before gives, the last gives ten classes."""

    def __init__(self, widths, positions, kernel=9):
        self.widths = dict(zip("abcdefghijkl", widths, strict=False))
        self.positions = positions
        self.kernel = kernel
        self.calls = 0
        self.base = self.cost({})

    def cost(self, kept):
        self.calls += 1
        assert all(len(some) > 0 for some in kept.values())
        widths = [len(kept.get(name, range(width))) for name, width in self.widths.items()]
        weights = [a * b * self.kernel for a, b in zip([3, *widths], [*widths, 10], strict=True)]
        macs = sum(weight * size for weight, size in zip(weights, [*self.positions, 1], strict=True))
        return ToyCost(macs, sum(weights) + sum(widths))

    def shares(self, kept):
        found = self.cost(kept)
        return {"macs": found.macs / self.base.macs, "parameters": found.parameters / self.base.parameters}


def singles(name, filters):
    return ToyGroup(name, filters, tuple((i,) for i in range(filters)))


def groups_of(chain):
    return [singles(name, width) for name, width in chain.widths.items()]


def important(*scores):
    return Importance(torch.tensor(scores, dtype=torch.float64))


def drawn(groups, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {g.name: Importance(torch.rand(g.filters, generator=generator, dtype=torch.float64)) for g in groups}


def kept_of(cuts):
    return {name: cut.kept for name, cut in cuts.items()}
