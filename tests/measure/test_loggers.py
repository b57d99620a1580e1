"""Figures of trainings and rounds reach the loggers once, at the epochs done; what cannot log is refused at once."""

import json
import sys

import pytest
import torch
from lightning_fabric import Fabric
from torch.utils.data import DataLoader

import infoprune
from infoprune import zoo
from infoprune.cli.app import main
from infoprune.errors import InputError
from infoprune.iterative.iterate import Images, iterate
from infoprune.iterative.schedule import LayerPace, Pace, PruningSchedule
from infoprune.measure.loggers import logging_to, open_logger
from infoprune.training.recipe import Recipe

RECIPE = Recipe(epochs=2, precision="32-true", schedule="steps", step_at=(0.5,), learning_rate=0.1)
TRAIN = ["train", "--model", "digits", "--data", "digits", "--epochs", "2", "--precision", "32-true", "-q"]


class Noting:
    def __init__(self):
        self.noted = []

    def log_metrics(self, metrics, step=None):
        self.noted.append((step, metrics))

    def steps(self, name):
        return [step for step, metrics in self.noted if name in metrics]

    def values(self, name):
        return [metrics[name] for _, metrics in self.noted if name in metrics]


@pytest.fixture
def batches():
    torch.manual_seed(0)
    return DataLoader(list(zip(torch.rand(80, 1, 8, 8), torch.arange(80) % 10, strict=True)), batch_size=20)


def test_every_epoch_of_a_training_is_logged(batches):
    logger = Noting()
    found = infoprune.train(zoo.build("digits"), batches, batches, RECIPE, loggers=[logger])
    assert logger.steps("training/loss") == [1, 2]
    assert logger.values("training/loss") == [one.loss for one in found.epochs]
    assert logger.values("training/held_out_accuracy") == [one.held_out for one in found.epochs]
    assert logger.values("training/learning_rate") == pytest.approx([0.1, 0.01])


def test_the_loggers_of_a_fabric_are_those_of_its_training(batches):
    logger = Noting()
    infoprune.train(zoo.build("digits"), batches, recipe=RECIPE, fabric=Fabric(accelerator="cpu", loggers=[logger]))
    assert logger.steps("training/loss") == [1, 2]


SCHEDULE = PruningSchedule(
    (LayerPace("features.0", Pace(plus=4), 8),), RECIPE, initial=Recipe(epochs=3, precision="32-true"), criterion="l1"
)


class KilledError(Exception):
    """As good as a kill."""


def test_rounds_are_logged_at_the_epochs_done_and_once_where_a_run_is_resumed(batches, tmp_path):
    logger, left = Noting(), [4]
    images = Images(batches, batches, batches)

    def kill(epoch):
        left[0] -= 1
        if not left[0]:
            raise KilledError

    network = zoo.build("digits")
    with pytest.raises(KilledError):
        iterate(network, images, SCHEDULE, folder=tmp_path, loggers=[logger], on_epoch=kill)
    # The first epoch of round 1 was done, and its state kept, when the run was killed.
    assert logger.steps("training/loss") == [1, 2, 3, 4]
    found = iterate(network, images, SCHEDULE, folder=tmp_path, loggers=[logger])
    assert logger.steps("training/loss") == [1, 2, 3, 4, 5, 6, 7]
    assert logger.steps("pruning/macs") == [3, 5, 7]
    assert logger.values("pruning/macs") == [one.macs for one in found.rounds]


def test_what_cannot_log_is_refused_in_one_sentence(tmp_path, monkeypatch):
    for where in ("paper:notes", "tensorboard", "tensorboard:", "wandb:"):
        with pytest.raises(InputError, match="logged to tensorboard:DIR or wandb:PROJECT, not to"):
            open_logger(where)
    for kind, module in (("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(InputError, match=f"by the package '{kind}': pip install {kind}"):
            open_logger(f"{kind}:{tmp_path / 'runs'}")
    assert not list(tmp_path.iterdir())
    with logging_to(None) as loggers:
        assert loggers == ()


def test_a_command_refuses_a_logger_before_it_trains(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.chdir(tmp_path)
    for where, said in (("tensorboard:runs", "pip install tensorboard"), ("paper", "not to 'paper'")):
        monkeypatch.setattr(sys, "argv", ["infoprune", *TRAIN, "--out", "a.safetensors", "--log-to", where])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 2
        error = capsys.readouterr().err
        assert error.count("Error:") == 1
        assert said in " ".join(error.split())
    assert not list(tmp_path.iterdir())


def test_a_command_logs_to_tensorboard(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.chdir(tmp_path)
    words = [*TRAIN, "--out", "a.safetensors", "--json", "a.json", "--log-to", "tensorboard:runs/a"]
    monkeypatch.setattr(sys, "argv", ["infoprune", *words])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code in (0, None)
    record = json.loads((tmp_path / "a.json").read_text())
    events = EventAccumulator(str(tmp_path / "runs" / "a"))
    events.Reload()
    losses = events.Scalars("training/loss")
    assert [one.step for one in losses] == [1, 2]
    assert [one.value for one in losses] == pytest.approx([one["loss"] for one in record["epochs"]])
    assert events.Scalars("test/accuracy")[0].value == pytest.approx(record["figures"]["accuracy"])


def test_a_run_of_wandb_takes_the_figures(tmp_path, monkeypatch, batches):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.chdir(tmp_path)
    with logging_to("wandb:pruning") as loggers:
        infoprune.train(zoo.build("digits"), batches, recipe=RECIPE, loggers=loggers)
        summary = dict(wandb.run.summary)
        assert loggers[0].name == "pruning"
    assert summary["epochs"] == 2
    assert summary["training/loss"] > 0
    assert wandb.run is None
