"""A disk that fills up: what was there before is whole, nothing is left of what did not fit."""

import contextlib
import os
import subprocess

import pytest

from faults.conftest import contents
from infoprune.report import read_run

PRUNE = ("prune", "--weights", "base.safetensors", "--data", "digits", "--calibration", 100, "-q")
L1 = ("--criterion", "l1", "--ratio", 0.5, "--no-repair")
CMI = ("--criterion", "cmi", "--ratio", 0.4, "--no-repair")


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 4 MiB, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


def filled(folder, spare):
    """Fill a disk but for some bytes."""
    with contextlib.suppress(OSError), (folder / "filling").open("wb") as file:
        while True:
            file.write(bytes(4096))
            file.flush()
    os.truncate(folder / "filling", (folder / "filling").stat().st_size - spare)


def state_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("spare", [0, 4096, 50_000, 120_000, 300_000])
def test_a_run_replaced_on_a_full_disk_is_the_old_run_or_the_new_one(command, base, small_disk, spare):
    (small_disk / "base.safetensors").write_bytes((base / "base.safetensors").read_bytes())
    outputs = ("--out", "out.safetensors", "--json", "out.json", "--run", "run")
    assert command([*PRUNE, *L1, *outputs], small_disk).code == 0
    filled(small_disk, spare)
    before, old = state_of(small_disk), contents(small_disk / "out.safetensors")
    ended = command([*PRUNE, *CMI, *outputs, "--force"], small_disk)
    if ended.code == 0:  # it fits
        assert contents(small_disk / "out.safetensors")[1]["features.0"]["kept"] != old[1]["features.0"]["kept"]
        assert read_run(small_disk / "run").plan.decisions["features.0"].curve is not None
        return
    assert ended.code == 2
    assert ended.said.count("Error:") == 1
    assert "no space is left on the disk" in ended.said
    assert state_of(small_disk) == before


def test_a_training_goes_on_once_there_is_room(command, small_disk, tmp_path):
    words = ("train", "--model", "digits", "--data", "digits", "--epochs", 3, "--precision", "32-true", "-q",
             "--out", "out.safetensors")  # fmt: skip
    whole = tmp_path / "whole"
    whole.mkdir()
    assert command(words, whole).code == 0
    filled(small_disk, 200_000)
    ended = command(words, small_disk)
    assert (ended.code, ended.said.count("Error:")) == (2, 1)
    assert "no space is left on the disk" in ended.said
    (small_disk / "filling").unlink()
    assert command(words, small_disk).code == 0
    assert contents(small_disk / "out.safetensors") == contents(whole / "out.safetensors")
    assert [path.name for path in small_disk.iterdir()] == ["out.safetensors"]


@pytest.mark.parametrize("largest", [2_000, 20_000])
def test_a_run_whose_files_find_no_room_leaves_the_old_run(command, base, tmp_path, largest):
    (tmp_path / "base.safetensors").write_bytes((base / "base.safetensors").read_bytes())
    outputs = ("--out", "out.safetensors", "--json", "out.json", "--run", "run")
    assert command([*PRUNE, *L1, *outputs], tmp_path).code == 0
    before = state_of(tmp_path)
    ended = command([*PRUNE, *CMI, *outputs, "--force"], tmp_path, largest=largest)
    assert (ended.code, ended.said.count("Error:")) == (2, 1), ended.said
    assert "cannot be written" in ended.said
    assert state_of(tmp_path) == before
