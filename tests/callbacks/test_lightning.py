"""A Lightning Trainer prunes in rounds by a callback; its checkpoints, its DDP and its loggers go on."""

import copy
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from infoprune.callbacks import LightningPruning, PruningRounds
from infoprune.errors import InputError
from infoprune.measure.accuracy import evaluate

from .conftest import SCHEDULE, changed
from .test_rounds import same

lightning = pytest.importorskip("lightning.pytorch")
pytestmark = pytest.mark.filterwarnings("ignore")


class Module(lightning.LightningModule):
    """The loop of a user, who knows nothing of pruning."""

    def __init__(self, network, rate=0.01):
        super().__init__()
        self.network, self.rate = network, rate

    def training_step(self, batch, _):
        return F.cross_entropy(self.network(batch[0]), batch[1])

    def test_step(self, batch, number):
        self.log("accuracy", (self.network(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.network.parameters(), lr=self.rate)


def trainer(folder, *callbacks, epochs=5, **words):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    saves = lightning.callbacks.ModelCheckpoint(folder, "{epoch}", save_top_k=-1)
    return lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", callbacks=[*callbacks, saves], **{**quiet, "devices": 1, **words}
    )


@pytest.fixture
def whole(network, batches, images, tmp_path):
    """A training that nothing interrupts, and its callback and checkpoints."""
    pruning = LightningPruning(SCHEDULE, images)
    module = Module(copy.deepcopy(network))
    trainer(tmp_path / "whole", pruning).fit(module, batches)
    return module, pruning, tmp_path / "whole"


def test_the_network_is_that_of_the_same_rounds_in_a_loop_of_ones_own(whole, network, batches, images):
    module, pruning, _ = whole
    rounds = PruningRounds(network, SCHEDULE, images)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    for number in range(rounds.epochs):
        rounds.before_epoch(number, optimizer)
        network.train()
        for some, labels in batches:
            optimizer.zero_grad()
            F.cross_entropy(network(some), labels).backward()
            optimizer.step()
        rounds.after_epoch(number, optimizer)
    assert same(module.network, network)
    assert list(pruning.rounds) == rounds.rounds
    assert pruning.plan == rounds.plan
    assert pruning.ended == "every layer is at its limit"
    assert evaluate(module.network, images.held_out).accuracy > 60
    assert "on_load_checkpoint" not in vars(module)


@pytest.mark.parametrize("epoch", range(4))
def test_a_training_goes_on_from_any_checkpoint(whole, network, batches, images, epoch):
    module, pruning, folder = whole
    fresh, again = Module(copy.deepcopy(network)), LightningPruning(SCHEDULE, images)
    trainer(folder.with_name("again"), again).fit(fresh, batches, ckpt_path=folder / f"epoch={epoch}.ckpt")
    assert same(fresh.network, module.network)
    assert again.rounds == pruning.rounds


def test_a_checkpoint_of_another_round_can_be_tested(whole, network, batches, images):
    module, pruning, folder = whole
    for epoch, width in ((0, 16), (1, 11), (4, 6)):
        tested = trainer(folder, pruning)
        tested.test(module, batches, ckpt_path=folder / f"epoch={epoch}.ckpt", verbose=False)
        assert module.network.features[0].out_channels == width


def test_a_round_below_the_floor_is_undone_and_training_stops(network, batches, images, tmp_path):
    pruning = LightningPruning(changed(floor=99.9), images)
    run = trainer(tmp_path, pruning)
    module = Module(network)
    run.fit(module, batches)
    assert run.current_epoch == 2
    assert not pruning.rounds[-1].stands
    assert module.network.features[0].out_channels == 16
    weights = torch.load(tmp_path / "epoch=0.ckpt", weights_only=False)["state_dict"]
    assert all(torch.equal(weights[f"network.{name}"], value) for name, value in network.state_dict().items())


class Noting(lightning.loggers.logger.DummyLogger):
    def __init__(self):
        super().__init__()
        self.noted = []

    def log_metrics(self, metrics, step=None):
        self.noted.append((step, metrics))


def test_the_figures_of_every_round_are_logged(network, batches, images, tmp_path):
    logger = Noting()
    trainer(tmp_path, LightningPruning(SCHEDULE, images), logger=logger).fit(Module(network), batches)
    rounds = [(step, metrics["pruning/macs"]) for step, metrics in logger.noted if "pruning/macs" in metrics]
    assert [step for step, _ in rounds] == [8, 16, 24, 40]
    assert sorted((macs for _, macs in rounds), reverse=True) == [macs for _, macs in rounds]


def test_what_cannot_work_is_refused_in_one_sentence(network, batches, images, tmp_path):
    def refused(message, module=None, *callbacks, **words):
        with pytest.raises(InputError, match=message):
            trainer(tmp_path, *(callbacks or [LightningPruning(SCHEDULE, images)]), **words).fit(
                module or Module(network), batches
            )

    refused("give the Trainer max_epochs=5 or more", epochs=4)
    averaging = lightning.callbacks.StochasticWeightAveraging(0.01)
    refused("StochasticWeightAveraging keeps a copy", None, LightningPruning(SCHEDULE, images), averaging)
    two = Module(network)
    two.teacher = copy.deepcopy(network)
    refused("several networks, network, teacher: name the one to prune by network=", two)
    refused("has no network 'student': it has network", None, LightningPruning(SCHEDULE, images, network="student"))
    refused("FSDPStrategy does not keep the whole network", strategy=Sharded())


class Sharded(lightning.strategies.SingleDeviceStrategy):
    """Named as a strategy that needs GPUs."""

    def __init__(self):
        super().__init__("cpu")


Sharded.__name__ = "FSDPStrategy"


def test_one_of_several_networks_is_pruned(network, batches, images, tmp_path):
    module = Module(network)
    module.teacher = copy.deepcopy(network)
    trainer(tmp_path, LightningPruning(SCHEDULE, images, network="network")).fit(module, batches)
    assert module.network.features[0].out_channels == 6
    assert module.teacher.features[0].out_channels == 16


SCRIPT = """
import sys
import lightning.pytorch as lightning
import torch
from torch.utils.data import DataLoader
from callbacks.conftest import changed
from callbacks.test_lightning import Module, trainer
from infoprune import zoo
from infoprune.callbacks import LightningPruning, RoundImages
from infoprune.data import open_source

class Alike(lightning.callbacks.Callback):
    def on_train_end(self, trainer, pl_module):
        assert type(trainer.model).__name__ == "DistributedDataParallel"
        for value in pl_module.network.parameters():
            assert torch.equal(trainer.strategy.broadcast(value.detach()), value)
        print(f"process {trainer.global_rank} is alike", flush=True)

digits = open_source("digits").train
pixels = torch.rand(320, 1, 8, 8, generator=torch.Generator().manual_seed(0))
labels = torch.arange(320) % 10
pairs = list(zip(pixels, labels))
torch.manual_seed(0)
images = RoundImages([(pixels[:60], labels[:60])], [(pixels[60:90], labels[60:90])])
pruning = LightningPruning(changed(criterion="hrel", options={"batch": 20}), images)
run = trainer(sys.argv[1], pruning, Alike(), devices=2, strategy="ddp")
run.fit(Module(zoo.build("digits")), DataLoader(pairs, batch_size=40))
"""


def test_two_processes_prune_alike(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    roots = (Path(__file__).parents[1], Path(__file__).parents[2] / "src", os.environ.get("PYTHONPATH", ""))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, roots)), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, script, tmp_path]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert sorted(re.findall(r"process . is alike", done.stdout)) == ["process 0 is alike", "process 1 is alike"]
    loaded = torch.load(tmp_path / "epoch=4.ckpt", weights_only=False)
    rounds = next(state["rounds"] for state in loaded["callbacks"].values() if "rounds" in state)
    assert [one["filters"]["features.0"] for one in rounds] == [16, 11, 6, 6]
    weights, momenta = loaded["state_dict"], loaded["optimizer_states"][0]["state"]
    assert weights["network.features.0.weight"].shape[0] == 6
    assert momenta[0]["exp_avg"].shape == weights["network.features.0.weight"].shape


def test_processes_that_are_forked_are_refused(network, batches, images, tmp_path):
    run = trainer(tmp_path, LightningPruning(SCHEDULE, images), devices=2, strategy="ddp_fork")
    with pytest.raises(Exception, match="use strategy='ddp', which starts the script"):
        run.fit(Module(network), batches)
