"""What pruning costs one of W processes, computed from a network: forward passes, bytes held, bytes sent.

    python benchmarks/scale.py --network torchvision:resnet50 --input 3,224,224 --images 10000 1280000

The formulas are those of docs/scale.md. ``benchmarks/processes.py`` counts the bytes that are really sent.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from infoprune.experiment.network import open_network
from infoprune.experiment.options import NetworkOptions
from infoprune.network.coupled_groups import Groups, find_groups
from infoprune.network.group_maps import bytes_per_image
from infoprune.network.layers import is_producer
from infoprune.regression.patches import as_matrix
from infoprune.regression.portions import PORTIONS
from infoprune.repair.batch_norm import batch_norms
from infoprune.repair.least_squares import MEMORY

MOMENTS = 1 << 30
CMI_IMAGES = 256


@dataclass(frozen=True)
class Network:
    """What the formulas read of a network.

    Args:
        filters: Of all coupled groups together.
        maps: Bytes of the maps of one image, of all groups.
        largest_maps: The same of the largest group.
        grams: By layer that reads a group, ``(g, F, O)``.
        channels: Of all batch norms together.
        weights: Bytes of the weights.
    """

    filters: int
    maps: int
    largest_maps: int
    grams: tuple[tuple[int, int, int], ...]
    channels: int
    weights: int

    @classmethod
    def of(cls, model: nn.Module, groups: Groups, example: torch.Tensor) -> Network:
        """Read a network."""
        maps = bytes_per_image(model, [example], groups.groups, "activation")
        readers = {one.layer for group in groups.groups for one in group.members if one.side == "in"}
        shapes = [tuple(as_matrix(model.get_submodule(layer)).shape) for layer in sorted(readers)
                  if is_producer(model.get_submodule(layer))]  # fmt: skip
        channels = sum(norm.num_features for norm in batch_norms(model))
        weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
        return cls(sum(group.filters for group in groups.groups), sum(maps.values()), max(maps.values()),
                   tuple(shapes), channels, weights)  # fmt: skip

    def moments(self, *, targets: bool) -> list[int]:
        """Return by layer the bytes of its normal equations."""
        return [8 * g * (f * f + f + 1 + (f * o + 2 * o if targets else 0)) for g, f, o in self.grams]


@dataclass(frozen=True)
class Cost:
    """Of one of W processes: images that pass forward through a network, bytes held and sent besides the weights."""

    forward: float
    held: float
    sent: float


def costs(network: Network, images: int, processes: int, batch: int) -> dict[str, Cost]:
    """Return by stage what it costs each of several processes."""
    others, batches = processes - 1, -(-images // batch)
    mine, own_batches = images / processes, batches / processes
    moments, fits = network.moments(targets=False), network.moments(targets=True)
    passes = max(1, -(-sum(moments) // MOMENTS))
    portions = min(max(PORTIONS, processes), batches) / processes
    share = others / processes
    few = min(images, CMI_IMAGES)
    state = 24 * network.filters
    return {
        "a streaming criterion": Cost(mine, batch * network.maps + state, own_batches * state * others),
        "cmi, 256 images": Cost(few / processes, few * network.maps / processes,
                                few / processes * network.maps * share),
        "reconstruction": Cost(passes * mine, 2 * min(sum(moments), MOMENTS + max(moments)),
                               portions * sum(moments) * share),
        "batch norm": Cost(mine, 16 * network.channels, own_batches * (16 * network.channels) * (processes > 1)),
        # Both networks; of every layer the sum and one portion are held, of the fitted and of the held-out images.
        # The first process receives them all, and sends weights only.
        "least squares": Cost(2 * mine, 4 * max(fits) + MEMORY, portions * 2 * sum(fits) * (processes > 1)),
        "evaluation, 1,000 classes": Cost(mine, 0.0, own_batches * batch * 4 * 1000 * others),
    }  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="torchvision:resnet50")
    parser.add_argument("--input", default="3,224,224")
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 1_280_000])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 8, 64])
    parser.add_argument("--batch-size", type=int, default=128)
    given = parser.parse_args()
    shape = tuple(int(part) for part in given.input.split(","))
    model = open_network(NetworkOptions(given.network, input_shape=(shape[0], shape[1], shape[2])), "cpu")
    example = torch.zeros(2, *shape)
    network = Network.of(model, find_groups(model, example), example)
    print(
        f"{given.network}: {network.filters} filters, maps of {network.maps / 1e6:.1f} MB an image, the largest "
        f"{network.largest_maps / 1e6:.1f} MB; moments of {sum(network.moments(targets=False)) / 1e9:.2f} GB, "
        f"the widest layer {max(network.moments(targets=False)) / 1e6:.0f} MB; weights {network.weights / 1e6:.0f} MB"
    )
    for images in given.images:
        print_table(network, images, given.processes, given.batch_size)


def print_table(network: Network, images: int, processes: Sequence[int], batch: int) -> None:
    """Print one table."""
    print(f"\n| {images:,} images | " + " | ".join(f"W = {number}" for number in processes) + " |")
    print("|---|" + "---|" * len(processes))
    found = [costs(network, images, number, batch) for number in processes]
    for stage in found[0]:
        cells = [f"{one[stage].forward:,.0f} / {_bytes(one[stage].held)} / {_bytes(one[stage].sent)}" for one in found]
        print(f"| {stage} | " + " | ".join(cells) + " |")


def _bytes(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.0f} kB" if count else "0"


if __name__ == "__main__":
    main()
