"""Of several processes that run one command, one that dies ends the others with one sentence, and nothing is lost."""

import os
import random
import re
import signal
import subprocess
import sys
import threading

import pytest

from faults.conftest import KILLS, SOURCE, children, contents, members, send, wait_until
from faults.test_kills import DIGITS, DISTIL, prepared

WORDS = ("prune", "--weights", "base.safetensors", "--device", "cpu", *DISTIL, *DIGITS)


@pytest.mark.parametrize("killed", ["first", "second"])
def test_one_of_two_processes_dies(command, another, base, tmp_path, killed):
    seed = int(os.environ.get("INFOPRUNE_KILL_SEED", random.SystemRandom().randrange(2**32)))
    sys.stdout.write(f"INFOPRUNE_KILL_SEED={seed}\n")
    moments = random.Random(f"{seed} {killed}")
    whole = prepared(base, tmp_path / "whole")
    both = command([*WORDS, "--devices", 2], whole)
    assert both.code == 0, both.said
    wanted, folder = contents(whole / "out.safetensors"), prepared(base, tmp_path / "killed")
    for _ in range(max(2, KILLS // 5)):
        process = another.start([*WORDS, "--devices", 2], folder)
        wait_until(lambda at=process: children(at), "the second process is started")
        target = process if killed == "first" else children(process)[0]
        timer = threading.Timer(moments.uniform(0, both.seconds), lambda at=target: send(at, signal.SIGKILL))
        timer.start()
        code = another.end()
        timer.cancel()
        wait_until(lambda at=process: not members(at), "processes that outlive their command")
        if code == 0:
            assert contents(folder / "out.safetensors") == wanted
            prepared(base, folder)
            continue
        said = another.log.read_text(errors="replace")
        assert "Traceback" not in said
        number = 1 if killed == "first" else 2
        # Where the second process has not begun to watch, nobody is left to report the end of the first.
        assert killed == "first" or len(re.findall(f"Error: process {number} of 2 was ended", said)) == 1, said
        assert said.count("Error:") <= 1
    ended = command([*WORDS, "--devices", 2], folder)
    assert ended.code == 0, ended.said
    assert contents(folder / "out.safetensors") == wanted


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
