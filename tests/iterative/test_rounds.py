"""Pruning in rounds really removes filters, ends where it should, and ends the same however often it is killed."""

import contextlib
import dataclasses
import itertools

import pytest
import torch

import infoprune
from infoprune import zoo
from infoprune.data import Preprocessing, loader, shift
from infoprune.errors import InputError
from infoprune.iterative import run_state
from infoprune.iterative.iterate import Images, iterate
from infoprune.iterative.published_schedules import named_schedule
from infoprune.iterative.run_state import STATE
from infoprune.iterative.schedule import LayerPace, Pace, PruningSchedule
from infoprune.measure.accuracy import evaluate
from infoprune.measure.information_plane import InformationPlane
from infoprune.network.cost import count
from infoprune.training.recipe import Recipe
from infoprune.training.train import train

PLAIN = Preprocessing((0.0,), (1.0,))
RECIPE = Recipe(epochs=2, learning_rate=0.05, precision="32-true")
SCHEDULE = PruningSchedule(
    layers=(LayerPace("features.0", Pace(plus=5), 4), LayerPace("features.3", Pace(0.5), 0.25)),
    retraining=RECIPE,
    images=100,
    options={"batch": 50},
)


@pytest.fixture(scope="module")
def images(images):
    return dataclasses.replace(images, augmentation=lambda x: shift(x, 1))


@pytest.fixture(scope="module")
def network(images):
    torch.manual_seed(0)
    recipe = Recipe(epochs=4, learning_rate=0.1, precision="32-true")
    return train(zoo.build("digits"), images.train, images.held_out, recipe).model


@pytest.fixture(scope="module")
def whole(network, images):
    """The run that nothing interrupts."""
    return iterate(network, images, SCHEDULE, plane=InformationPlane(["features.3"], every=10, images=32))


def same(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def changed(**words):
    return dataclasses.replace(SCHEDULE, **words)


def test_a_schedule_without_augmentation_leaves_the_images_as_they_are(network, images):
    given = []
    seen = dataclasses.replace(images, augmentation=lambda x: given.append(len(x)) or x)
    once = changed(rounds=1, criterion="l1", options={})
    iterate(network, seen, dataclasses.replace(once, augmentation=False))
    assert not given
    iterate(network, seen, once)
    assert sum(given) == 640 * RECIPE.epochs


def test_filters_go_at_the_pace_of_each_layer_until_its_limit(whole, network, images):
    firsts = [network.features[place].out_channels for place in (0, 3)]
    widths = [tuple(one.filters.values()) for one in whole.rounds]
    assert widths[0] == tuple(firsts)
    for before, after in itertools.pairwise(widths):
        assert after[0] == max(4, before[0] - 5)
        assert after[1] == max(round(firsts[1] / 4), before[1] - before[1] // 2)
    assert widths[-1] == (4, round(firsts[1] / 4))
    assert whole.ended == "every layer is at its limit"
    assert whole.model.features[0].weight.shape[0] == 4
    assert whole.model.features[3].weight.shape[:2] == (round(firsts[1] / 4), 4)


def test_every_round_is_cheaper_and_its_figures_are_of_the_network_that_is_there(whole, network, images):
    costs = [(one.macs, one.convolution_macs, one.parameters) for one in whole.rounds]
    assert all(b < a for before, after in itertools.pairwise(costs) for a, b in zip(before, after, strict=True))
    last, counted = whole.rounds[-1], count(whole.model, torch.zeros(1, 1, 8, 8))
    assert (last.macs, last.parameters) == (counted.macs, counted.parameters)
    assert last.test == evaluate(whole.model, images.test).accuracy
    assert last.held_out == evaluate(whole.model, images.held_out).accuracy
    assert whole.rounds[0].test == evaluate(network, images.test).accuracy
    assert last.test > 60


def test_the_plan_is_in_the_filters_of_the_first_network(whole, network):
    assert same(whole.original, network)
    for layer, kept in whole.plan.kept.items():
        assert len(kept) == whole.rounds[-1].filters[layer]
        assert max(kept) < network.get_submodule(layer).out_channels


class KilledError(Exception):
    """As good as a kill: nothing is tidied up by the code under test."""


def killer(calls):
    left = [calls]

    def kill(stage, done, total):
        left[0] -= 1
        if left[0] < 0:
            raise KilledError

    return kill


@pytest.mark.parametrize("calls", [4, 30, 60])
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_network(network, images, whole, tmp_path, calls):
    kills, plane = 0, None
    for _ in range(200):
        plane = InformationPlane(["features.3"], every=10, images=32)
        try:
            done = iterate(network, images, SCHEDULE, folder=tmp_path, plane=plane, progress=killer(calls + 10 * kills))
            break
        except KilledError:
            kills += 1
    assert kills > 0
    assert same(done.model, whole.model)
    assert done.plan.kept == whole.plan.kept
    assert [dataclasses.replace(one, seconds={}) for one in done.rounds] == [
        dataclasses.replace(one, seconds={}) for one in whole.rounds
    ]
    again = iterate(network, images, SCHEDULE, folder=tmp_path, progress=killer(0))
    assert same(again.model, whole.model)


def test_a_kill_while_the_state_is_removed_leaves_nothing_that_a_run_fails_on(network, images, tmp_path, monkeypatch):
    once = changed(rounds=1, criterion="l1", options={})
    done = iterate(network, images, once, folder=tmp_path / "state")

    def killed(folder):
        (folder / "round-0.safetensors").unlink()
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(run_state.shutil, "rmtree", killed)
        with pytest.raises(KilledError):
            run_state.forget(tmp_path / "state")
    again = iterate(network, images, once, folder=tmp_path / "state")
    assert same(again.model, done.model)
    run_state.forget(tmp_path / "state")
    assert not any(tmp_path.iterdir())


def test_points_of_the_plane_survive_kills(network, images, whole, tmp_path):
    noted = InformationPlane(["features.3"], every=10, images=32)
    iterate(network, images, SCHEDULE, plane=noted)
    kills = 0
    while True:
        plane = InformationPlane(["features.3"], every=10, images=32)
        try:
            iterate(network, images, SCHEDULE, folder=tmp_path, plane=plane, progress=killer(16 + 6 * kills))
            break
        except KilledError:
            kills += 1
    assert kills > 1
    assert plane.points == noted.points
    assert {point.round for point in plane.points} == {one.number for one in whole.rounds[1:]}


def test_a_round_below_the_floor_is_undone(network, images, whole):
    # Between what the first round keeps and what the last one does.
    held_out = [one.held_out for one in whole.rounds]
    floor = (max(held_out[1:]) + min(held_out[1:])) / 2
    done = iterate(network, images, changed(floor=floor))
    first_below = next(one.number for one in whole.rounds[1:] if one.held_out < floor)
    assert [one.stands for one in done.rounds] == [True] * first_below + [False]
    assert f"round {first_below} fell below" in done.ended
    widths = done.rounds[first_below - 1].filters
    assert done.model.features[0].out_channels == widths["features.0"]
    assert evaluate(done.model, images.held_out).accuracy == done.rounds[first_below - 1].held_out
    assert done.plan.kept == {} if first_below == 1 else len(done.plan.kept["features.0"]) == widths["features.0"]


def test_it_ends_after_so_many_rounds_and_the_last_one_is_trained_by_its_own_recipe(network, images):
    last = dataclasses.replace(RECIPE, epochs=3, distillation=0.5)
    done = iterate(network, images, changed(rounds=2, last=last, initial=RECIPE))
    assert [one.epochs for one in done.rounds] == [2, 2, 3]
    assert done.ended == "all rounds are done"
    assert not same(done.original, network)


def test_rounds_learn_the_maps_of_the_first_network_which_has_no_teacher_itself(network, images):
    taught = dataclasses.replace(RECIPE, attention=10.0)
    done = iterate(network, images, changed(rounds=1, retraining=taught, initial=taught))
    plain = iterate(network, images, changed(rounds=1, retraining=RECIPE, initial=RECIPE))
    assert same(done.original, plain.original)
    assert not same(done.model, plain.model)


def test_every_round_is_told_with_the_last_that_there_will_be(network, images):
    told = []
    quick = dataclasses.replace(RECIPE, epochs=1)
    iterate(network, images, changed(retraining=quick), on_round=lambda one, last: told.append((one.number, last)))
    assert [number for number, _ in told] == list(range(len(told)))
    assert {last for _, last in told} == {told[-1][0]}


@pytest.mark.parametrize("criterion", ["l1", "random", "cmi"])
def test_every_criterion_can_choose(network, images, criterion):
    quick = dataclasses.replace(RECIPE, epochs=1)
    done = iterate(network, images, changed(criterion=criterion, options={}, rounds=2, retraining=quick))
    assert done.rounds[-1].filters["features.0"] == 6
    assert done.model.features[0].out_channels == 6


def test_a_cut_network_is_repaired_before_it_is_retrained(network, images):
    none = dataclasses.replace(RECIPE, epochs=0)
    as_cut = iterate(network, images, changed(retraining=none, rounds=1))
    schedule = changed(retraining=none, rounds=1, repair="least-squares")
    done = iterate(network, images, schedule)
    assert done.rounds[1].held_out > as_cut.rounds[1].held_out + 5
    assert done.rounds[1].seconds["repair"] > 0
    wanted = infoprune.repair(
        infoprune.apply(done.plan, network), network, images.calibration, done.plan, method="least-squares"
    )
    assert same(done.model, wanted)


def test_a_repaired_run_that_is_killed_ends_with_the_same_network(network, images, tmp_path):
    schedule = changed(rounds=1, repair="least-squares")
    for calls in (4, 12, 40):
        with contextlib.suppress(KilledError):
            iterate(network, images, schedule, folder=tmp_path, progress=killer(calls))
    assert same(iterate(network, images, schedule, folder=tmp_path).model, iterate(network, images, schedule).model)


def some_images(side, count=16, classes=4):
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(count, 3, side, side, generator=generator), torch.arange(count) % classes
    return Images(torch.utils.data.DataLoader([drawn], batch_size=None), [drawn], [drawn])


def test_residual_streams_are_narrowed_as_coupled_groups():
    schedule = PruningSchedule(
        tuple(LayerPace(f"layer{stage}.*", Pace(0.25), limit) for stage, limit in ((1, 8), (2, 15), (3, 30))),
        dataclasses.replace(RECIPE, epochs=1, learning_rate=0.01),
        criterion="l1",
        rounds=1,
    )
    done = iterate(zoo.build("resnet20"), some_images(16), schedule)
    first = done.model.layer1[0]
    assert done.model.conv1.out_channels == first.conv1.out_channels == first.conv2.out_channels == 12
    assert done.model.layer3[2].conv2.out_channels == done.model.linear.in_features == 48
    assert done.plan.decisions["conv1"].coupled


def test_resnet50_goes_through_a_round_of_its_published_schedule():
    published = named_schedule("hrel-resnet50").make()
    quick = dataclasses.replace(published.retraining, epochs=1, precision="32-true")
    schedule = dataclasses.replace(published, initial=None, rounds=1, retraining=quick, options={"batch": 8})
    done = iterate(zoo.build("resnet50", classes=4), some_images(32), schedule)
    blocks = [getattr(done.model, f"layer{stage}")[0] for stage in (1, 2, 3, 4)]
    assert [block.conv1.out_channels for block in blocks] == [58, 116, 232, 476]
    assert [block.conv2.out_channels for block in blocks] == [58, 116, 232, 476]
    assert [block.conv3.out_channels for block in blocks] == [256, 512, 1024, 2048]


def test_a_folder_of_another_run_is_refused(network, images, tmp_path):
    with pytest.raises(KilledError):
        iterate(network, images, SCHEDULE, folder=tmp_path, progress=killer(30))
    with pytest.raises(InputError, match=r"a run with another criterion \(hrel, now l1\)"):
        iterate(network, images, changed(criterion="l1"), folder=tmp_path)
    torch.manual_seed(1)
    with pytest.raises(InputError, match="another set of weights to start from"):
        iterate(zoo.build("digits"), images, SCHEDULE, folder=tmp_path)
    (tmp_path / STATE).write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        iterate(network, images, SCHEDULE, folder=tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"layers": (LayerPace("featurs.0", Pace(plus=1)),)}, "did you mean 'features.0'"),
        ({"layers": (LayerPace("features.0", Pace(plus=1), 99),)}, "removes no filters"),
        ({"criterion": "hrell"}, "did you mean 'hrel'"),
        ({"repair": "least-square"}, "did you mean 'least-squares'"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_sentence(network, images, words, message):
    with pytest.raises(InputError, match=message):
        iterate(network, images, changed(**words))


def test_a_floor_without_held_out_images_is_refused(network, images):
    with pytest.raises(InputError, match="accuracy floor needs held-out images"):
        iterate(network, dataclasses.replace(images, held_out=None), changed(floor=90.0))


def test_everything_is_checked_before_the_first_training_and_nothing_stays(network, images, tmp_path):
    trained = []
    folder = tmp_path / "state"
    mistakes = (
        ({"criterion": "hrell"}, "did you mean 'hrel'"),
        ({"options": {"batches": 50}}, "did you mean 'batch'"),
        ({"options": {"width": "avrage"}}, "did you mean 'average'"),
        ({"repair": "least-square"}, "did you mean 'least-squares'"),
        ({"retraining": dataclasses.replace(RECIPE, sizes=(8, 1))}, "cannot read images of shape"),
    )
    for words, message in mistakes:
        with pytest.raises(InputError, match=message):
            iterate(network, images, changed(initial=RECIPE, **words), folder=folder, on_epoch=trained.append)
        assert not trained
        assert not folder.exists()


def test_rounds_go_on_only_under_the_same_conditions(network, images, tmp_path):
    with pytest.raises(KilledError):
        iterate(network, images, SCHEDULE, folder=tmp_path, progress=killer(30))
    smaller = loader(images.train.dataset.images, PLAIN, batch_size=32, shuffle=True)
    with pytest.raises(InputError, match=r"batch size \(64, now 32\)"):
        iterate(network, dataclasses.replace(images, train=smaller), SCHEDULE, folder=tmp_path)
