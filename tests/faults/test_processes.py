"""Of several processes that run one command, one that dies ends the others with one sentence, and nothing is lost."""

import os
import random
import re
import signal
import sys
import threading

import pytest

from faults.conftest import KILLS, children, contents, members, send, wait_until
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
    for _ in range(KILLS):
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
