"""The command line, called as a user calls it."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from infoprune import cli
from infoprune.experiment.options import DataOptions, NetworkOptions, TuneOptions
from infoprune.experiment.train import train as train_network
from infoprune.training.recipe import Recipe


@dataclass(frozen=True)
class Finished:
    code: int
    out: str
    err: str


@pytest.fixture
def infoprune(monkeypatch, capsys):
    """Run ``infoprune ARGUMENTS`` in this process and return its exit code and what it printed."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["infoprune", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        captured = capsys.readouterr()
        return Finished(left.value.code or 0, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """A checkpoint of the digits network."""
    out = tmp_path_factory.mktemp("base") / "base.safetensors"
    recipe = Recipe(epochs=12, learning_rate=0.1, precision="32-true")
    train_network(NetworkOptions("digits"), DataOptions("digits", batch_size=64), TuneOptions(recipe), out=out)
    return out


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
