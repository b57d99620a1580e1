"""ResNet-56 with five blocks fewer, by every block criterion; and with convolutions that merge channels (HASTE).

    python benchmarks/blocks.py --weights akamaster_resnet56-4bfd9763.th --data-dir DIR [--planes 14,10,8]

The rows of docs/methods/depth.md and of docs/methods/related.md, as JSON lines. Blocks are scored on 256 images of the
training set, batch norm is re-estimated on 1,024 others; accuracy is that of the first test images.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

import infoprune
from infoprune.data import balanced_sample, loader, open_source, random_sample
from infoprune.depth import all_block_criteria, prune_blocks
from infoprune.experiment.network import open_network, preprocessing_of
from infoprune.experiment.options import NetworkOptions
from infoprune.hashing import hash_convolutions, merged_channels
from infoprune.repair.batch_norm import reestimate

BLOCKS = 5


def main() -> None:
    """Measure all rows and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--planes", type=lambda text: [int(one) for one in text.split(",")], default=[14, 10, 8])
    parser.add_argument("--test-images", type=int, default=2000)
    parser.add_argument("--hashed-images", type=int, default=300)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = open_network(NetworkOptions("resnet56", args.weights), "cpu")
    source, preprocessing = open_source("cifar10", args.data_dir), preprocessing_of(model)
    images = list(loader(balanced_sample(source.train, 256, 0), preprocessing, batch_size=64))
    others = list(loader(random_sample(source.train, 1024, 1), preprocessing, batch_size=128))
    test = list(loader(source.test.subset(torch.arange(args.test_images)), preprocessing, batch_size=100))
    print(json.dumps({"row": "base", "top1": infoprune.evaluate(model, test).accuracy}), flush=True)
    for criterion in all_block_criteria():
        start = time.process_time()
        found = prune_blocks(model, images, count=BLOCKS, criterion=criterion.name)
        seconds, as_cut = time.process_time() - start, infoprune.evaluate(found.model, test).accuracy
        repaired = reestimate(found.model, [batch[0] for batch in others])
        row = {"row": criterion.name, "removed": found.removed, "macs": round(found.macs, 4),
               "parameters": round(found.parameters, 4), "as_cut": as_cut,
               "after_bn": infoprune.evaluate(repaired, test).accuracy, "cpu_seconds": round(seconds, 1)}  # fmt: skip
        print(json.dumps(row), flush=True)
    few = test[: args.hashed_images // 100]
    print(json.dumps({"row": "base", "images": 100 * len(few), "top1": infoprune.evaluate(model, few).accuracy}))
    for planes in args.planes:
        hashed = hash_convolutions(model, planes=planes)
        merged, _ = merged_channels(hashed, few)
        top1 = infoprune.evaluate(hashed, few).accuracy
        print(json.dumps({"row": "hashing", "planes": planes, "top1": top1, "merged": str(merged)}), flush=True)


if __name__ == "__main__":
    main()
