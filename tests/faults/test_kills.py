"""A run that is killed at any moment and given again ends with the same weights, bit for bit, and nothing else.

``INFOPRUNE_KILLS`` says how often each run is killed, ``INFOPRUNE_KILL_SEED`` repeats the moments of a failure.
"""

import os
import random
import shutil
import signal
import sys

import pytest

from faults.conftest import KILLS, OFTEN, SIGNALS, contents

DIGITS = ("--data", "digits", "-q", "--out", "out.safetensors", "--json", "out.json")
PLAIN = ("--precision", "32-true")
PRUNE = ("prune", "--weights", "base.safetensors", *DIGITS)
LAYERS = ("--cutoff", "grid", "--tolerance", 5, "--conditioning", "compact", "--direction", "both")
DISTIL = ("--criterion", "l1", "--ratio", 0.5, "--repair", "distil", "--repair-images", 200)
RUNS = {
    "train": ("train", "--model", "digits", *PLAIN, "--epochs", 5, *DIGITS),
    "tune": ("tune", "small.safetensors", "--teacher", "base.safetensors", *PLAIN, "--epochs", 4, *DIGITS),
    "iterate": ("iterate", "--model", "digits", "--schedule", "rounds.json", *DIGITS),
    "layer by layer": (*PRUNE, *LAYERS, "--calibration", 60, "--stability", 2, "--run", "run"),
    "distil": (*PRUNE, *DISTIL),
    "prune in two processes": (*PRUNE, *DISTIL, "--devices", 2, "--device", "cpu"),
    "two processes": ("train", "--model", "digits", *PLAIN, "--epochs", 3, "--devices", 2, "--device", "cpu", *DIGITS),
}
ROUNDS = """{"layers": [{"layers": "features.0", "pace": "5", "limit": 6}], "criterion": "hrel", "images": 100,
             "initial": {"epochs": 2, "precision": "32-true"}, "retraining": {"epochs": 1, "precision": "32-true"}}"""


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def is_finished(folder):
    """Whether a run was killed after its last deed: all files in their places, and the note about them removed."""
    return (folder / "out.json").exists() and not (folder / ".out.safetensors.written").exists()


def prepared(base, folder):
    """Return an empty folder with the files that a run reads."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(base, folder)
    (folder / "rounds.json").write_text(ROUNDS)
    return folder


@pytest.mark.parametrize("run", [pytest.param(run, marks=OFTEN if "two processes" in run else ()) for run in RUNS])
def test_a_run_that_is_killed_ends_with_the_same_weights(command, base, tmp_path, run):
    seed = int(os.environ.get("INFOPRUNE_KILL_SEED", random.SystemRandom().randrange(2**32)))
    sys.stdout.write(f"INFOPRUNE_KILL_SEED={seed}\n")
    moments = random.Random(f"{seed} {run}")
    words, whole = RUNS[run], prepared(base, tmp_path / "whole")
    uninterrupted = command(words, whole)
    assert uninterrupted.code == 0, uninterrupted.said
    wanted, files = contents(whole / "out.safetensors"), names(whole)

    def check(folder):
        assert contents(folder / "out.safetensors") == wanted
        assert names(folder) == files

    left, killed = KILLS, prepared(base, tmp_path / "killed")
    while left:
        number = moments.choice(SIGNALS)
        ended = command(words, killed, kill=number, after=moments.uniform(0, uninterrupted.seconds))
        assert ended.code in {0, -number, 128 + number}, ended.said
        assert "Traceback" not in ended.said
        if ended.code == 128 + signal.SIGTERM:
            assert ended.said.count("Interrupted:") == 1
        if ended.code == 0 or is_finished(killed):
            for lock in killed.rglob("*.lock"):
                assert ended.code == -signal.SIGKILL  # nothing else leaves the file of a lock, and no lock is held
                lock.unlink()
            check(killed)
            prepared(base, killed)
            continue
        left -= 1
    ended = command(words, killed)
    assert ended.code == 0, ended.said
    check(killed)
