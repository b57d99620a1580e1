"""Runs as they are kept: the digits network cut by several criteria, and a network of 4,224 filters made of noise."""

from dataclasses import replace

import pytest
import torch

from infoprune.board import bench
from infoprune.experiment import images as run_images
from infoprune.experiment import network as run_network
from infoprune.experiment.options import DataOptions, NetworkOptions
from infoprune.experiment.prune import prune as prune_network
from infoprune.experiment.train import train as train_network
from infoprune.measure.information_plane import PlanePoint
from infoprune.options import PruneOptions
from infoprune.plan import Budget, LayerDecision, Plan
from infoprune.report import Pictures, Run, read_run, write_run

VGG = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    from infoprune.experiment.options import TuneOptions
    from infoprune.training.recipe import Recipe

    out = tmp_path_factory.mktemp("report") / "base.safetensors"
    recipe = Recipe(epochs=3, learning_rate=0.1, precision="32-true")
    train_network(NetworkOptions("digits"), DataOptions("digits", batch_size=64), TuneOptions(recipe), out=out)
    return out


@pytest.fixture(scope="session")
def runs(base):
    """By criterion, a run of the digits network at half of its MACs, written to its folder and read again."""
    found = {}
    for criterion in ("cmi", "qsfm", "hrel", "l1"):
        images = DataOptions("digits", batch_size=64, calibration=100)
        choice = PruneOptions(criterion=criterion, budget=Budget(macs=0.5))
        out = base.with_name(f"{criterion}.safetensors")
        prune_network(NetworkOptions(weights=base), images, choice, out=out, run_out=base.parent / criterion)
        found[criterion] = read_run(base.parent / criterion)
    return found


@pytest.fixture(scope="session")
def rounds_run(runs, tmp_path_factory):
    """The CMI run with candidates, rounds and an information plane beside it, written to its folder and read again."""
    run = runs["cmi"]
    evidence = {layer: dict(tensors) for layer, tensors in run.evidence.items()}
    first = next(iter(evidence.values()))
    first["candidates"], first["candidate_accuracy"] = (
        torch.tensor([3, 5, 8]),
        torch.tensor([90.5, float("nan"), 97.25]),
    )
    points = tuple(
        PlanePoint(number, step, layer, 4.0 + step / 10, 2.0 + step / 20, 1.5)
        for number in (0, 1)
        for step in range(5)
        for layer in ("features.0", "features.4")
    )
    rounds = [
        {"number": number, "filters": {"features.0": 16 - number}, "macs": 1000 - 300 * number, "parameters": 500,
         "held_out": 97.0, "test": 96.0 - number, "epochs": 2, "stands": number == 0}
        for number in (0, 1)
    ]  # fmt: skip
    staged = replace(run, record={**run.record, "rounds": rounds}, evidence=evidence, plane=points)
    folder = tmp_path_factory.mktemp("rounds") / "rounds"
    write_run(staged, folder)
    return read_run(folder)


@pytest.fixture(scope="session")
def digits_board(base):
    """The board of the digits network at half of its MACs, measured on images without labels."""
    model = run_network.open_network(NetworkOptions(weights=base), "cpu")
    images = DataOptions("digits", batch_size=64)
    parts = run_images.open_parts(images)
    calibration = [some for some, _ in run_images.batches(parts.calibration, model, images)]
    test = run_images.batches(parts.test, model, images)
    return bench(model, calibration, test, criteria=("variance", "cmi"), repairs=("bn",), budgets=(0.5,), seeds=2)


@pytest.fixture(scope="session")
def wide_run():
    """VGG-16 as wide as it is, with a similarity matrix for every layer."""
    draw = torch.Generator().manual_seed(0)
    decisions, evidence, maps, layers = {}, {}, {}, {}
    for number, filters in enumerate(VGG):
        layer = f"features.{number}"
        order = torch.randperm(filters, generator=draw).tolist()
        alike = torch.rand(filters, filters, generator=draw)
        decisions[layer] = LayerDecision(layer, filters, tuple(sorted(order[: filters // 2])), order=tuple(order),
                                         scores=tuple(torch.rand(filters, generator=draw).tolist()))  # fmt: skip
        evidence[layer] = {"similarity": (alike + alike.T) / 2}
        side = max(2, 24 >> (number // 3))
        maps[layer] = torch.randint(0, 256, (3, filters, side, side), generator=draw).to(torch.uint8)
        layers[layer] = {"macs": filters * 1000, "macs_after": filters * 300}
    figures = {"macs": 313_000_000, "parameters": 14_700_000, "latency_ms": 20.0, "accuracy": 93.0, "loss": 0.3,
               "images": 10_000}  # fmt: skip
    record = {"base": figures, "pruned": {**figures, "macs": 100_000_000}, "layers": layers,
              "settings": {"criterion": "qsfm", "network": {"architecture": "vgg16"}}}  # fmt: skip
    images = torch.randint(0, 256, (3, 3, 32, 32), generator=draw).to(torch.uint8)
    return Run(record, Plan(decisions), evidence, Pictures(images, maps), name="wide")
