"""Two runs with one output, and the processes of a run that is ended."""

import os
import signal
from functools import partial

from faults.conftest import children, contents, running, send, wait_until

DIGITS = ("--data", "digits", "-q", "--out", "out.safetensors")
TRAIN = ("train", "--model", "digits", "--precision", "32-true", *DIGITS)
LAYERS = ("--cutoff", "grid", "--tolerance", 5, "--conditioning", "compact", "--direction", "both")


def test_the_second_run_with_one_output_is_refused_at_once(command, another, tmp_path):
    first = another.start([*TRAIN, "--epochs", 1000], tmp_path)
    try:
        wait_until((tmp_path / "out.safetensors.resume").exists, "the first run begins")
        second = command([*TRAIN, "--epochs", 1], tmp_path)
        assert second.code == 2
        assert second.said.count("Error:") == 1
        assert "'out.safetensors' is being written by another run" in second.said
        assert not (tmp_path / "out.safetensors").exists()
    finally:
        send(first, signal.SIGKILL)
        assert another.end() == -signal.SIGKILL
    # The lock ended with its process; the state of another training is named.
    third = command([*TRAIN, "--epochs", 1], tmp_path)
    assert "another epochs (1000, now 1)" in third.said


def test_both_branches_end_with_their_run(command, another, base, tmp_path):
    words = ("prune", "--weights", base / "base.safetensors", *LAYERS, "--calibration", 60, *DIGITS)
    whole = tmp_path / "whole"
    whole.mkdir()
    assert command(words, whole).code == 0
    for number, code in ((signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)):
        process = another.start([*words, "--parallel"], tmp_path)
        # Two branches, and the process of multiprocessing that watches over their memory.
        wait_until(lambda at=process: len(children(at)) >= 3, "both branches are started")
        branches = children(process)
        os.kill(process, number)
        assert another.end() == code
        wait_until(partial(none_runs, branches), "the branches end with the run")
    assert command([*words, "--parallel"], tmp_path).code == 0
    assert contents(tmp_path / "out.safetensors") == contents(whole / "out.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.safetensors", "whole"]


def none_runs(processes):
    return not {process for process, _, _ in running()} & set(processes)
