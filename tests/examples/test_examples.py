"""Every script of ``examples/`` runs, offline and in its small setting, in a process of its own."""

import functools
import importlib.util
import re
import tempfile
from pathlib import Path

import pytest

from examples.scripts import ROOT, run

SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
OPTIONAL = ("torchvision", "lightning", "transformers")
# What a run must have printed: the work was done, not only begun.
SMALLER = re.compile(r"MACs: ([\d,]+) -> ([\d,]+)")


@functools.cache
def printed(script, *arguments):
    """Return what a script prints in its small setting; each is run once, in an empty folder."""
    text = script.read_text(encoding="utf-8")
    for package in OPTIONAL:
        if re.search(rf"^(import|from) {package}\b", text, re.MULTILINE) and not importlib.util.find_spec(package):
            pytest.skip(f"{script.name} needs {package}")
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "empty"
        folder.mkdir()
        done = run(script, ("--quick", *arguments), folder=folder)
        assert done.code == 0, done.err
        return done.out, sorted(path.name for path in folder.iterdir())


def test_there_are_examples():
    assert len(SCRIPTS) >= 11


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_an_example_runs(script):
    text, written = printed(script)
    if script.stem not in ("own_criterion", "own_cutoff_rule"):
        before, after = (int(number.replace(",", "")) for number in SMALLER.search(text).groups())
        assert after < before
    assert not written, "nothing is written where no file is named"


def test_the_own_criterion_orders_filters():
    text, _ = printed(ROOT / "examples" / "own_criterion.py")
    assert re.search(r"^separation: [\d.]+ % as cut, [\d.]+ % after least squares$", text, re.MULTILINE)


def test_a_smaller_share_that_may_remain_keeps_more_filters():
    text, _ = printed(ROOT / "examples" / "own_cutoff_rule.py")
    kept = [sum(int(count) for count in re.findall(r"'(\d+)/\d+'", line)) for line in text.splitlines()]
    assert kept == sorted(kept)
    assert len(set(kept)) == 3


def test_a_torchvision_network_is_written_and_read():
    assert printed(ROOT / "examples" / "torchvision_network.py", "--out", "small.safetensors")[1] == [
        "small.safetensors"
    ]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_an_example_states_what_it_shows_and_how_it_is_run(script):
    text = script.read_text(encoding="utf-8")
    assert f"python examples/{script.name}" in text
    assert text.rstrip().endswith('if __name__ == "__main__":\n    main()')
