"""Training learns, repeats bit for bit, and ends the same however often it is interrupted."""

import copy
import shutil

import pytest
import torch
from PIL import Image
from torch import nn

from infoprune.data import Preprocessing, held_out_split, loader, open_source, shift
from infoprune.errors import InputError
from infoprune.measure.accuracy import evaluate
from infoprune.network.origin import Origin, set_origin
from infoprune.training.recipe import Recipe
from infoprune.training.train import train

PLAIN = Preprocessing((0.0,), (1.0,))
RECIPE = Recipe(epochs=4, learning_rate=0.1, precision="32-true", seed=3)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(32, 10),
    )


@pytest.fixture(scope="module")
def digits():
    source = open_source("digits")
    training, held_out = held_out_split(source.train)
    return (
        loader(training, PLAIN, batch_size=64, shuffle=True),
        loader(held_out, PLAIN, batch_size=64),
        loader(source.test, PLAIN),
    )


def run(digits, **changes):
    recipe = changes.pop("recipe", RECIPE)
    return train(network(), digits[0], digits[1], recipe, augmentation=lambda x: shift(x, 1), **changes)


def same(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_training_learns_and_leaves_the_given_network_alone(digits):
    given = network()
    before = copy.deepcopy(given)
    trained = train(given, digits[0], digits[1], Recipe(epochs=8, learning_rate=0.1, precision="32-true"))
    assert same(given, before)
    assert evaluate(trained.model, digits[2]).accuracy > 93
    assert [epoch.number for epoch in trained.epochs] == list(range(8))


def test_the_same_seed_gives_the_same_weights_and_leaves_the_generator_alone(digits):
    given = network()
    torch.manual_seed(11)
    state = torch.get_rng_state()
    first = train(given, digits[0], digits[1], RECIPE, augmentation=lambda x: shift(x, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert same(first.model, run(digits).model)
    assert not same(first.model, run(digits, recipe=Recipe(epochs=4, learning_rate=0.1, precision="32-true")).model)


@pytest.mark.parametrize("changed", [{}, {"schedule": "steps"}, {"average": 0.9, "mixing": 0.2}], ids=str)
def test_an_interrupted_training_ends_with_the_same_weights(digits, tmp_path, changed):
    recipe = Recipe(epochs=4, learning_rate=0.1, precision="32-true", **changed)

    def interrupt(epoch):
        if epoch.number in (0, 2):
            raise KeyboardInterrupt

    def interrupt_within(stage, done, total):
        if done == total // 2 + 3:
            raise KeyboardInterrupt

    state = tmp_path / "state"
    for stop in ({"on_epoch": interrupt}, {"progress": interrupt_within}, {"on_epoch": interrupt}):
        with pytest.raises(KeyboardInterrupt):
            run(digits, recipe=recipe, resume=state, **stop)
    resumed = run(digits, recipe=recipe, resume=state)
    whole = run(digits, recipe=recipe)
    assert same(resumed.model, whole.model)
    assert [e.loss for e in resumed.epochs] == [e.loss for e in whole.epochs]
    assert resumed.best == whole.best


def test_the_best_on_held_out_images_is_kept(digits):
    kept = []

    class Falling:
        """Held-out images that the network does worse on at every epoch but the second."""

        labels = iter([0, 1, 0, 0])

        def __iter__(self):
            images, labels = next(iter(digits[1]))
            kept.append(None)
            yield (images, labels) if next(self.labels) else (images, (labels + 5) % 10)

    trained = train(network(), digits[0], Falling(), RECIPE)
    assert trained.best == 1
    assert len(kept) == 4


def test_distillation_learns_what_the_teacher_says_not_what_the_labels_say(digits):
    class NextDigit(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = run(digits, recipe=Recipe(epochs=8, learning_rate=0.1, precision="32-true")).model.eval()

        def forward(self, images):
            return self.inner(images).roll(1, dims=1)

    recipe = Recipe(epochs=8, learning_rate=0.1, precision="32-true", distillation=1.0, temperature=1.0)
    student = train(network(), digits[0], None, recipe, teacher=NextDigit()).model
    shifted = [(images, (labels + 1) % 10) for images, labels in digits[2]]
    assert evaluate(student, shifted).accuracy > 80


def test_the_average_that_is_kept_is_that_of_all_steps(digits):
    """Once over all weights and statistics: each step keeps 0.9 of the average, which begins at the first step."""
    steps = []
    recipe = Recipe(epochs=1, learning_rate=0.1, precision="32-true", average=0.9)

    def note(model, images, labels, step):
        steps.append({name: value.clone() for name, value in model.state_dict().items()})

    found = train(network(), digits[0], None, recipe, on_step=note).model.state_dict()
    for name, wanted in steps[0].items():
        if not wanted.is_floating_point():
            continue
        for weights in steps[1:]:
            wanted = 0.9 * wanted + 0.1 * weights[name]
        torch.testing.assert_close(found[name], wanted)
        assert not torch.equal(found[name], steps[-1][name])


def test_images_are_resized_part_by_part_of_the_epochs(digits):
    sizes = []

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()

        def forward(self, images):
            if self.training and torch.is_grad_enabled():
                sizes.append(images.shape[-1])
            return self.inner(images)

    train(Spy(), digits[0], None, Recipe(epochs=4, sizes=(4, 8), precision="32-true"))
    steps = len(digits[0])
    assert sizes == [4] * 2 * steps + [8] * 2 * steps


def test_bfloat16_trains_too(digits):
    trained = run(digits, recipe=Recipe(epochs=2, learning_rate=0.1, precision="bf16-mixed"))
    assert all(p.dtype == torch.float32 for p in trained.model.parameters())
    assert trained.epochs[1].loss < trained.epochs[0].loss


def test_no_step_is_longer_than_the_clipped_gradient(digits):
    one = torch.utils.data.DataLoader([next(iter(digits[0]))], batch_size=None)
    plain = {"epochs": 1, "schedule": "constant", "momentum": 0.0, "weight_decay": 0.0, "precision": "32-true"}

    def moved(**words):
        given = network().eval()
        trained = train(given, one, None, Recipe(learning_rate=0.5, **plain, **words)).model
        pairs = zip(trained.parameters(), given.parameters(), strict=True)
        return torch.cat([(new - old).flatten() for new, old in pairs]).detach()

    free, short = moved(), moved(clip=0.01)
    assert free.norm() > 0.1
    assert short.norm() == pytest.approx(0.5 * 0.01, rel=1e-3)
    torch.testing.assert_close(short / short.norm(), free / free.norm(), rtol=1e-2, atol=1e-4)
    torch.testing.assert_close(moved(clip=1e6), free)


class Flattening(nn.Module):
    """Lays its maps flat by view, as many a network does: maps whose channels lie last cannot be."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(1, 8, 3, padding=1)
        self.linear = nn.Linear(8 * 16, 10)

    def forward(self, images):
        maps = nn.functional.max_pool2d(self.convolution(images), 2)
        return self.linear(maps.view(len(maps), -1))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("taught", [False, True])
def test_networks_that_lay_maps_flat_by_view_are_trained(digits, precision, taught):
    torch.manual_seed(0)
    recipe = Recipe(epochs=1, precision=precision, distillation=0.5 if taught else 0.0)
    given, teacher = (network(), Flattening()) if taught else (Flattening(), None)
    assert len(train(given, digits[0], digits[1], recipe, teacher=teacher).epochs) == 1


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"learning_rate": 0}, "learning_rate takes a number above 0, not 0"),
        ({"epochs": -1}, "epochs takes a whole number of 0 or more, not -1"),
        ({"distillation": 2}, "distillation"),
        ({"temperature": 0}, "temperature takes a number above 0"),
        ({"rotation": 200}, "rotation takes a number from 0 to 180"),
        ({"scaling": 1}, "scaling takes a number from 0 to below 1"),
        ({"momentum": float("nan")}, "momentum takes a number from 0 to below 1, not nan"),
        ({"sizes": (0,)}, "sizes takes whole numbers from 1"),
        ({"seed": 10**30}, "seed takes a whole number of 0 or more up to 2147483647"),
        ({"seed": True}, "seed takes a whole number"),
        ({"schedule": "one-cicle"}, "did you mean 'one-cycle'"),
        ({"schedule": ["steps"]}, "schedule takes one of"),
        ({"epochs": 1.5}, "epochs takes a whole number"),
        ({"clip": -1}, "clip takes a number of 0 or more"),
    ],
)
def test_impossible_recipes_are_refused(values, sentence):
    with pytest.raises(InputError, match=sentence):
        Recipe(**values)


def test_a_diverging_loss_is_one_sentence(digits):
    with pytest.raises(InputError, match="use a lower one"):
        run(digits, recipe=Recipe(epochs=1, learning_rate=1e30, schedule="constant", precision="32-true"))


def test_the_state_of_another_training_is_refused(digits, tmp_path):
    state = tmp_path / "state"
    run(digits, resume=state, recipe=Recipe(epochs=1, precision="32-true"))
    with pytest.raises(InputError, match="another epochs"):
        run(digits, resume=state, recipe=Recipe(epochs=2, precision="32-true"))
    with pytest.raises(InputError, match="another network"):
        train(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), digits[0], digits[1],
              Recipe(epochs=1, precision="32-true"), resume=state)  # fmt: skip
    other = network()
    with torch.no_grad():
        other[0].weight[0, 0, 0, 0] += 1
    with pytest.raises(InputError, match="another set of weights to start from"):
        train(other, digits[0], digits[1], Recipe(epochs=1, precision="32-true"), resume=state)
    state.write_bytes(b"damaged")
    with pytest.raises(InputError, match="not the state of a training"):
        run(digits, resume=state)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"batch_size": 32}, r"batch size \(64, now 32\)"),
        ({"workers": 1}, r"number of workers \(0, now 1\)"),
        ({"mean": 0.5}, r"mean \(preprocessing\)"),
        ({"teacher": True}, "another teacher"),
    ],
)
def test_a_training_goes_on_only_under_the_same_conditions(digits, tmp_path, changed, named):
    images, _ = held_out_split(open_source("digits").train)

    def one(batch_size=64, workers=0, mean=0.0, teacher=False):
        model = network()
        set_origin(model, Origin("digits", (1, 8, 8), {}, Preprocessing((mean,), (1.0,))))
        given = loader(images, PLAIN, batch_size=batch_size, shuffle=True, workers=workers)
        recipe = Recipe(epochs=1, precision="32-true", distillation=0.5)
        train(model, given, None, recipe, teacher=network() if teacher else None, resume=tmp_path / "state")

    one()
    one()
    with pytest.raises(InputError, match=named):
        one(**changed)


def test_workers_that_stay_cannot_be_resumed(digits, tmp_path):
    given = torch.utils.data.DataLoader(
        digits[0].dataset, batch_size=64, num_workers=1, persistent_workers=True, collate_fn=digits[0].collate_fn
    )
    with pytest.raises(InputError, match="persistent_workers=False"):
        train(network(), given, None, Recipe(epochs=1, precision="32-true"), resume=tmp_path / "state")


def test_sizes_are_checked_before_the_first_epoch(digits):
    with pytest.raises(InputError, match="sizes takes whole numbers from 1"):
        Recipe(epochs=2, precision="32-true", sizes=(8, 0))
    with pytest.raises(InputError, match=r"cannot read images of shape \(1, 1, 1\)"):
        train(network(), digits[0], None, Recipe(epochs=2, precision="32-true", sizes=(8, 1)))


def test_the_largest_seed_trains(digits):
    trained = run(digits, recipe=Recipe(epochs=1, precision="32-true", seed=2**31 - 1))
    assert len(trained.epochs) == 1


def test_workers_that_crop_at_random_end_with_the_same_weights(tmp_path):
    drawn = torch.Generator().manual_seed(0)
    for label in ("a", "b"):
        (tmp_path / "train" / label).mkdir(parents=True)
        for i in range(12):
            pixels = torch.randint(0, 256, (12, 12), generator=drawn, dtype=torch.uint8).numpy()
            Image.fromarray(pixels).save(tmp_path / "train" / label / f"{i}.png")
    shutil.copytree(tmp_path / "train", tmp_path / "test")
    given = loader(open_source("folder", tmp_path).train, Preprocessing((0.0,), (1.0,), 12, 8), batch_size=8,
                   shuffle=True, random_crop=True, workers=2)  # fmt: skip
    recipe = Recipe(epochs=3, precision="32-true", learning_rate=0.05)

    def interrupt(epoch):
        if epoch.number == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(network(), given, None, recipe, resume=tmp_path / "state", on_epoch=interrupt)
    resumed = train(network(), given, None, recipe, resume=tmp_path / "state")
    whole = train(network(), given, None, recipe)
    assert [one.loss for one in resumed.epochs] == [one.loss for one in whole.epochs]
    assert same(resumed.model, whole.model)
