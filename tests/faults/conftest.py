"""Commands that are run in processes of their own, killed at random moments, and compared."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors import safe_open

FORKS = Path(__file__).with_name("forks.py")
SOURCE = Path(__file__).resolve().parents[2] / "src"


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, negative for a signal, what it printed, and after how many seconds."""

    code: int
    said: str
    seconds: float


class Commands:
    """Runs commands one at a time, each in a fork of a process that has imported everything."""

    def __init__(self, folder):
        self.log = folder / "said.txt"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join([str(SOURCE), environment.get("PYTHONPATH", "")])
        self.server = subprocess.Popen(
            [sys.executable, FORKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def start(self, words, folder, *, largest=None):
        """Start a command that may write files of a limited size, and return its process number."""
        words = [str(word) for word in words]
        request = {"words": words, "folder": str(folder), "log": str(self.log), "largest": largest}
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def end(self):
        """Wait for the end of the command and return its exit code."""
        return int(self.server.stdout.readline())

    def __call__(self, words, folder, *, kill=None, after=0.0, largest=None):
        """Run a command to its end, or send it a signal after some seconds, and check that no process remains."""
        start = time.perf_counter()
        process = self.start(words, folder, largest=largest)
        timer = threading.Timer(after, lambda: send(process, kill))
        if kill is not None:
            timer.start()
        code = self.end()
        timer.cancel()
        seconds = time.perf_counter() - start
        wait_until(lambda: not members(process), "processes that outlive their command")
        return Ended(code, self.log.read_text(errors="replace"), seconds)

    def close(self):
        self.server.stdin.close()
        self.server.wait()


def send(process, number):
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)


def running():
    """Yield number, parent and process group of every process that runs."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent, group = stat.read_text().rpartition(")")[2].split()[:3]
            if state not in "ZX":
                yield int(stat.parent.name), int(parent), int(group)


def runs(process):
    return any(number == process for number, _, _ in running())


def members(group):
    return [process for process, _, its_group in running() if its_group == group]


def children(parent):
    return [process for process, its_parent, _ in running() if its_parent == parent]


def wait_until(true, what, seconds=60):
    """Wait for what must come true at last; no test is about how soon."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def contents(checkpoint):
    """Return the weights of a checkpoint, bit for bit, and what its plan says of every layer."""
    with safe_open(checkpoint, "pt") as file:
        header = json.loads(file.metadata()["infoprune"])
        weights = {key: file.get_tensor(key).numpy().tobytes() for key in file.keys()}  # noqa: SIM118
    return weights, (header.get("plan") or {}).get("layers")


@pytest.fixture(scope="session")
def command(tmp_path_factory):
    found = Commands(tmp_path_factory.mktemp("commands"))
    yield found
    found.close()


@pytest.fixture(scope="session")
def another(tmp_path_factory):
    """Runs commands beside those of ``command``."""
    found = Commands(tmp_path_factory.mktemp("others"))
    yield found
    found.close()


@pytest.fixture(scope="session")
def base(command, tmp_path_factory):
    """A folder with the digits network, ``base.safetensors``, and a pruned one, ``small.safetensors``."""
    folder = tmp_path_factory.mktemp("base")
    words = ["train", "--model", "digits", "--data", "digits", "--epochs", 3, "--precision", "32-true", "-q"]
    assert command([*words, "--out", "base.safetensors"], folder).code == 0
    words = ["prune", "--weights", "base.safetensors", "--data", "digits", "--criterion", "l1", "--ratio", 0.5, "-q"]
    assert command([*words, "--out", "small.safetensors"], folder).code == 0
    return folder


KILLS = int(os.environ.get("INFOPRUNE_KILLS", "1"))
# A process that starts another one imports everything again: one such test is enough where few are wanted.
OFTEN = pytest.mark.skipif(KILLS < 10, reason="two processes are killed with INFOPRUNE_KILLS=10, as .ci/run does")
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
