"""Real data and real networks, where they are at hand."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from infoprune.device import pick_device, seed_generators
from infoprune.measure import figures

# What takes long depends on what else the machine does: no test is timed.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
# Nor is any about how exactly a latency is measured, which hundreds of tests do.
figures.TURN = 0.005

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("INFOPRUNE_SHARED", ROOT.parent / "shared"))


def pytest_collection_finish() -> None:
    # What is imported and collected by now stays: a garbage collection need not look through it each time.
    gc.freeze()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """CIFAR-10, MNIST and the ImageNet sample in their usual layouts, unpacked once into ``.data``."""
    target = ROOT / ".data"
    if not (target / "imagenet_sample").is_dir():
        script = SHARED / "data" / "unpack.py"
        if not script.exists():
            pytest.skip("the real data sets are not at hand")
        subprocess.run([sys.executable, script, target], check=True)
    return target


@pytest.fixture(scope="session")
def weights_dir() -> Path:
    """The published weights."""
    folder = SHARED / "data" / "weights"
    if not folder.is_dir():
        pytest.skip("the published weights are not at hand")
    return folder


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Reference values made with the authors' own functions, and feature maps of a trained network."""
    return ROOT / "tests" / "golden"


@pytest.fixture(autouse=True)
def _seed() -> None:
    seed_generators(0, pick_device())
