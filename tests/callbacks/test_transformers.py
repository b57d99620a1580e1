"""A Trainer of Transformers prunes in rounds by a callback, and goes on from its checkpoints."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

import infoprune
from infoprune.callbacks import PruningRounds, RoundImages, TransformersPruning
from infoprune.errors import InputError
from infoprune.iterative.schedule import LayerPace, Pace
from infoprune.measure.accuracy import evaluate

from .conftest import changed
from .test_rounds import same

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytestmark = pytest.mark.filterwarnings("ignore")
SCHEDULE = changed(
    layers=(LayerPace("*.stages.*.layer.0.convolution", Pace(plus=4), 4),), rounds=2, criterion="hrel",
    options={"batch": 20},
)  # fmt: skip


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        num_channels=1, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=10,
        downsample_in_first_stage=False,
    )  # fmt: skip
    return transformers.ResNetForImageClassification(config)


@pytest.fixture
def examples(batches):
    return [{"pixel_values": image, "labels": int(label)} for image, label in batches.dataset]


@pytest.fixture
def images(examples):
    """As a Trainer batches them."""

    def batch(some):
        return {name: torch.stack([torch.as_tensor(one[name]) for one in some]) for name in some[0]}

    return RoundImages([batch(examples[:60])], [batch(examples[60:160])])


def arguments(folder, **words):
    plain = {"num_train_epochs": 4, "per_device_train_batch_size": 40, "learning_rate": 0.01, "report_to": "none",
             "save_strategy": "epoch", "use_cpu": True, "disable_tqdm": True, "lr_scheduler_type": "constant",
             "max_grad_norm": 0, "train_sampling_strategy": "sequential"}  # fmt: skip
    return transformers.TrainingArguments(str(folder), **{**plain, **words})


def trainer(model, folder, examples, *callbacks, **words):
    return transformers.Trainer(model, arguments(folder, **words), train_dataset=examples, callbacks=list(callbacks))


def widths(model):
    return [stage.layers[0].layer[0].convolution.out_channels for stage in model.resnet.encoder.stages]


def test_the_model_is_that_of_the_same_rounds_in_a_loop_of_ones_own(model, examples, images, batches, tmp_path):
    twin, pruning = copy.deepcopy(model), TransformersPruning(SCHEDULE, images)
    run = trainer(model, tmp_path, examples, pruning)
    run.train()
    assert widths(model) == [4, 8]
    assert len(pruning.rounds) == 3
    assert pruning.rounds[-1].held_out == evaluate(model, images.held_out).accuracy
    for parameter in model.parameters():
        assert run.optimizer.state[parameter]["exp_avg"].shape == parameter.shape
    rounds = PruningRounds(twin, SCHEDULE, images)
    optimizer = torch.optim.AdamW(twin.parameters(), lr=0.01, weight_decay=0)
    for number in range(rounds.epochs):
        rounds.before_epoch(number, optimizer)
        twin.train()
        for some, labels in batches:
            optimizer.zero_grad()
            F.cross_entropy(twin(some).logits, labels).backward()
            optimizer.step()
        rounds.after_epoch(number, optimizer)
    assert rounds.plan.kept == pruning.plan.kept
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-3, atol=1e-4)


def test_the_pruned_model_is_a_file(model, examples, images, tmp_path):
    first = copy.deepcopy(model)
    trainer(model, tmp_path, examples, TransformersPruning(SCHEDULE, images), save_strategy="no").train()
    infoprune.save(model, tmp_path / "small.safetensors", origin=infoprune.Origin("resnet", (1, 8, 8)))
    assert same(infoprune.load(tmp_path / "small.safetensors", build=lambda: first), model)


def test_a_training_goes_on_from_any_checkpoint(model, examples, images, tmp_path):
    first = copy.deepcopy(model)
    whole = TransformersPruning(SCHEDULE, images)
    trainer(model, tmp_path / "whole", examples, whole).train()
    for epoch in (1, 2, 3):
        again, pruning = copy.deepcopy(first), TransformersPruning(SCHEDULE, images)
        checkpoint = tmp_path / "whole" / f"checkpoint-{8 * epoch}"
        pruning.restore(again, checkpoint)
        trainer(again, tmp_path / "again", examples, pruning).train(resume_from_checkpoint=str(checkpoint))
        assert same(again, model)
        assert pruning.rounds == whole.rounds


def test_a_round_below_the_floor_is_undone_and_training_stops(model, examples, images, tmp_path):
    pruning = TransformersPruning(replace(SCHEDULE, floor=99.9), images)
    run = trainer(model, tmp_path, examples, pruning)
    run.train()
    assert run.state.epoch == 2
    assert not pruning.rounds[-1].stands
    assert widths(model) == [8, 16]
    state = json.loads((tmp_path / "checkpoint-16" / "pruning.json").read_text())
    assert [one["stands"] for one in state["rounds"]] == [True, False]
    again = TransformersPruning(replace(SCHEDULE, floor=99.9), images)
    again.restore(model, tmp_path / "checkpoint-16")
    assert again.ended == pruning.ended


@pytest.mark.parametrize("mixed", [False, True])
def test_a_part_of_a_model_is_pruned(model, examples, images, tmp_path, mixed):
    schedule = replace(
        SCHEDULE, layers=(LayerPace("*.layer.0.convolution", Pace(plus=4), 4),), criterion="l1", options={}
    )
    part = RoundImages(images.calibration)
    pruning = TransformersPruning(schedule, part, network="resnet")
    trainer(model, tmp_path, examples, pruning, bf16=mixed, save_strategy="no").train()
    assert widths(model) == [4, 8]


def test_what_cannot_work_is_refused_in_one_sentence(model, examples, images, tmp_path):
    pruning = TransformersPruning(SCHEDULE, images)
    with pytest.raises(InputError, match="give num_train_epochs=4 or more"):
        trainer(model, tmp_path, examples, pruning, num_train_epochs=3).train()
    best = arguments(tmp_path, load_best_model_at_end=True, eval_strategy="epoch")
    with pytest.raises(InputError, match="leave out load_best_model_at_end"):
        pruning.on_init_end(best, None, None)
    with pytest.raises(InputError, match="leave out torch_compile"):
        trainer(model, tmp_path, examples, pruning, torch_compile=True)
    several = arguments(tmp_path)
    several._n_gpu = 2
    with pytest.raises(InputError, match="runs on several devices"):
        pruning.on_init_end(several, None, None)
