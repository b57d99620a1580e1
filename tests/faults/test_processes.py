"""Of several processes that run one command, one that dies ends the others with one sentence, and nothing is lost."""

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from faults.conftest import KILLS, OFTEN, SOURCE, children, contents, members, runs, send, wait_until
from faults.test_kills import DIGITS, DISTIL, LAYERS, names, prepared

PRUNE = ("prune", "--weights", "base.safetensors", "--device", "cpu", *DIGITS)
WORDS = (*PRUNE, *DISTIL)
BY_LAYER = (*PRUNE, *LAYERS, "--calibration", 60)
# The script that Fabric starts again.
COMMAND = b"command.py"
# Seconds in which all processes of a run have ended after one was killed.
AT_ONCE = 10


class Kill:
    """Kills a process at a random moment, and knows when that was."""

    def __init__(self, process, after):
        self.process, self.moment = process, None
        self.timer = threading.Timer(after, self.kill)
        self.timer.start()

    def kill(self):
        self.moment = time.monotonic()
        send(self.process, signal.SIGKILL)

    def seconds(self):
        """Return how long ago it was; 0 where the run had ended before."""
        self.timer.cancel()
        return 0 if self.moment is None else time.monotonic() - self.moment


def seconds(first):
    """Return the children of a process that run the command too; others come and go."""
    found = []
    for child in children(first):
        with contextlib.suppress(OSError):
            if COMMAND in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
    return found


def killed_once(another, words, folder, killed, after):
    """Run a command in two processes, kill one of them, and return the exit code and what was reported."""
    process = another.start([*words, "--devices", 2], folder)
    wait_until(lambda: seconds(process) or not runs(process), "the second process is started")
    target = process if killed == "first" else next(iter(seconds(process)), process)
    kill = Kill(target, after)
    code = another.end()
    wait_until(lambda: not members(process), "processes that outlive their command")
    assert kill.seconds() < AT_ONCE or code == 0
    return code, another.log.read_text(errors="replace")


@pytest.mark.parametrize(
    ("words", "killed", "goes_on"),
    [
        pytest.param(WORDS, "first", 2, id="distil, first", marks=OFTEN),
        pytest.param(WORDS, "second", 2, id="distil, second", marks=OFTEN),
        pytest.param(BY_LAYER, "first", 3, id="by layer, first, then three", marks=OFTEN),
        pytest.param(BY_LAYER, "second", 1, id="by layer, second, then one"),
    ],
)
def test_one_of_two_processes_dies(command, another, base, tmp_path, words, killed, goes_on):
    """All end at once, with one sentence; the same command goes on, where the result allows it by other processes."""
    seed = int(os.environ.get("INFOPRUNE_KILL_SEED", random.SystemRandom().randrange(2**32)))
    sys.stdout.write(f"INFOPRUNE_KILL_SEED={seed}\n")
    moments = random.Random(f"{seed} {killed}")
    whole = prepared(base, tmp_path / "whole")
    both = command([*words, "--devices", 2], whole)
    assert both.code == 0, both.said
    wanted, files, folder = contents(whole / "out.safetensors"), names(whole), prepared(base, tmp_path / "killed")
    for _ in range(max(1, KILLS // 5)):
        code, said = killed_once(another, words, folder, killed, moments.uniform(0, both.seconds))
        if code == 0:
            assert contents(folder / "out.safetensors") == wanted
            prepared(base, folder)
            continue
        assert "Traceback" not in said
        number = 1 if killed == "first" else 2
        # Where the second process has not begun to watch, nobody is left to report the end of the first.
        assert killed == "first" or len(re.findall(f"Error: process {number} of 2 was ended", said)) == 1, said
        assert said.count("Error:") <= 1
    ended = command([*words, "--devices", goes_on], folder)
    assert ended.code == 0, ended.said
    assert contents(folder / "out.safetensors") == wanted
    assert names(folder) == files


def test_wrong_input_is_one_sentence_of_one_process(command, base, tmp_path):
    folder = prepared(base, tmp_path / "wrong")
    before = contents(folder / "base.safetensors")
    words = ("prune", "--weights", "base.safetensors", "--criterion", "l1", "--macs", 1e-6, "--device", "cpu", *DIGITS)
    ended = command([*words, "--devices", 2], folder)
    assert ended.code == 2, ended.said
    assert ended.said.count("Error:") == 1
    assert "Traceback" not in ended.said
    assert not (folder / "out.safetensors").exists()
    assert contents(folder / "base.safetensors") == before


FAILS_IN_ONE = """
from lightning_fabric import Fabric
from infoprune.errors import InputError
from infoprune.runs.together import together

def work(fabric):
    with together(fabric) as processes:
        if processes.rank == 1:
            raise InputError("the image of this process alone is broken")
        processes.exchanged(None)

Fabric(accelerator="cpu", devices=3, strategy="ddp_fork").launch(work)
"""


def test_a_mistake_that_one_process_finds_ends_all_with_its_sentence(tmp_path):
    log = tmp_path / "said.txt"
    with log.open("w") as said:
        environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
        started = subprocess.Popen(
            [sys.executable, "-c", FAILS_IN_ONE], stderr=said, stdout=said, env=environment, start_new_session=True
        )
        assert started.wait(120) != 0
    wait_until(lambda: not members(started.pid), "processes that outlive their run")
    assert log.read_text().count("Error: the image of this process alone is broken") == 1
