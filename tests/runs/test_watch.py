"""A process that dies before all are connected is reported by us, and not by a silent end."""

import subprocess
import sys
import time
from types import SimpleNamespace

from infoprune.runs.watch import watched_start

DIES = """
import subprocess, sys, time
from types import SimpleNamespace
from infoprune.runs.watch import watched_start

launcher = SimpleNamespace(procs=[])
with watched_start(SimpleNamespace(strategy=SimpleNamespace(launcher=launcher), global_rank=0, world_size=2)):
    launcher.procs.append(subprocess.Popen([sys.executable, "-c", "pass"]))
    time.sleep(60)
"""


def test_a_process_that_dies_before_all_are_connected_is_reported():
    ended = subprocess.run([sys.executable, "-c", DIES], capture_output=True, text=True, timeout=50)
    assert ended.returncode == 1
    assert ended.stderr.startswith("Error: process 2 of 2 was ended from outside")
    assert "Traceback" not in ended.stderr


def test_fabric_does_not_end_this_process_when_another_one_dies():
    """Its observer kills, without a word, for what it finds in the list of its launcher."""
    launcher = SimpleNamespace(procs=[])
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
        with watched_start(SimpleNamespace(strategy=SimpleNamespace(launcher=launcher), global_rank=0, world_size=2)):
            launcher.procs.append(child)
            end = time.monotonic() + 30
            while launcher.procs:
                assert time.monotonic() < end
                time.sleep(0.02)
        child.kill()
