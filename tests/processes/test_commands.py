"""``--devices 2`` and torchrun write the same plan and the same weights as one process, file for file."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors import safe_open

import infoprune
from infoprune import zoo

SOURCE = Path(infoprune.__file__).parents[1]
STARTS = {
    "one": ([sys.executable, "-m", "infoprune"], []),
    "devices": ([sys.executable, "-m", "infoprune"], ["--devices", "2"]),
    "torchrun": ([sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "infoprune"], []),
}


def pruned(start, folder, words):
    """Run the command, and return its plan and its weights as bytes."""
    before, after = STARTS[start]
    out = folder / f"{start}.safetensors"
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    words = [*before, "prune", *words, "--out", str(out), *after]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with safe_open(out, "pt") as file:
        plan = json.loads(file.metadata()["infoprune"])["plan"]["layers"]
        return plan, {key: file.get_tensor(key).numpy().tobytes() for key in file.keys()}  # noqa: SIM118


def test_a_command_writes_the_same_file_by_one_process_and_by_two(tmp_path):
    torch.manual_seed(0)
    infoprune.save(zoo.build("digits"), tmp_path / "base.safetensors", origin=infoprune.Origin("digits", (1, 8, 8)))
    words = ["--weights", "base.safetensors", "--data", "digits", "--mean", "0", "--std", "1", "--device", "cpu", "-q",
             "--criterion", "cmi", "--macs", "0.5", "--repair", "least-squares", "--calibration", "100",
             "--batch-size", "24", "--repair-images", "100"]  # fmt: skip
    one = pruned("one", tmp_path, words)
    assert pruned("devices", tmp_path, words) == one
    assert pruned("torchrun", tmp_path, words) == one
