"""The penalty of UFKT, worked out by hand, and what it does to a network that is trained with it."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from infoprune.errors import InputError
from infoprune.iterative.iterate import Images, iterate
from infoprune.iterative.schedule import LayerPace, Pace, PruningSchedule
from infoprune.training.penalties import Parting, all_penalties, make_penalty, output_norms
from infoprune.training.recipe import Recipe
from infoprune.training.train import train

PARTING = Parting({"0": (0,)}, {"0": (2, 3)})


def four():
    """Four filters of L1 norms 1, 2, 3, 4."""
    model = nn.Sequential(nn.Linear(2, 4, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0], [-1, 1], [1, -2], [2, 2]]))
    return model


def penalty_of(model, parting=PARTING, **options):
    return make_penalty("ufkt", parting, options)(model)


def test_the_papers_form_and_the_codes():
    assert penalty_of(four(), strength=0.1).item() == pytest.approx(-0.6)
    assert penalty_of(four(), strength=0.1, form="code").item() == pytest.approx(0.1)


def test_a_filter_that_is_both_counts_for_nothing_in_the_codes_form():
    both = Parting({"0": (0, 3)}, {"0": (3,)})
    assert penalty_of(four(), both, strength=1.0, form="code").item() == 1
    assert penalty_of(four(), both, strength=1.0).item() == 1


def test_the_gradient_is_a_sign_on_the_named_filters():
    model = four()
    penalty_of(model, strength=0.1).backward()
    signs = model[0].weight.detach().sign()
    assert torch.allclose(model[0].weight.grad, 0.1 * signs * torch.tensor([1.0, 0, -1, -1])[:, None])


def test_one_step_shrinks_one_and_grows_the_other():
    model = nn.Sequential(nn.Linear(1, 2, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(0.25)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    penalty_of(model, Parting({"0": (0,)}, {"0": (1,)}), strength=0.1).backward()
    optimizer.step()
    assert torch.allclose(model[0].weight.flatten(), torch.tensor([0.15, 0.35]))


@pytest.mark.parametrize("layer", [nn.Conv2d(4, 6, 3, groups=2), nn.ConvTranspose2d(4, 6, 3, groups=2)])
def test_the_norm_of_an_output_is_over_the_weights_it_depends_on(layer):
    for output, norm in enumerate(output_norms(layer).tolist()):
        layer.weight.grad = None
        layer(torch.ones(1, 4, 5, 5))[0, output].sum().backward()
        assert norm == pytest.approx(layer.weight[layer.weight.grad != 0].abs().sum().item(), rel=1e-5)


def images_of_two_classes():
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(40, 1, 6, 6, generator=generator), torch.arange(40) % 2
    images[labels == 1] += 1
    return DataLoader(TensorDataset(images, labels), batch_size=20)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))


def test_training_adds_the_penalty():
    recipe = Recipe(epochs=3, learning_rate=0.01, schedule="constant", weight_decay=0.0, precision="32-true")
    model = network()
    penalty = make_penalty("ufkt", Parting({"0": (1, 4)}), {"strength": 0.5})
    plain, shrunk = (
        output_norms(train(model, images_of_two_classes(), recipe=recipe, penalty=one).model[0])
        for one in (None, penalty)
    )
    assert (shrunk[[1, 4]] < plain[[1, 4]]).all()
    assert torch.allclose(shrunk[[0, 2]], plain[[0, 2]], rtol=0.2)


SCHEDULE = PruningSchedule(
    layers=(LayerPace("0", Pace(plus=2), 2),),
    retraining=Recipe(epochs=1, learning_rate=1e-3, precision="32-true"),
    before=Recipe(epochs=2, learning_rate=0.01, schedule="constant", precision="32-true"),
    penalty="ufkt",
    penalty_options={"strength": 1.0, "form": "code"},
    criterion="l1",
    augmentation=False,
)


def test_a_schedule_trains_with_the_penalty_before_it_cuts(monkeypatch):
    data = images_of_two_classes()
    seen = []

    def noting(model, *args, penalty=None, **words):
        found = train(model, *args, penalty=penalty, **words)
        seen.append((output_norms(model[0]).detach(), output_norms(found.model[0]).detach(), penalty))
        return found

    monkeypatch.setattr("infoprune.iterative.iterate.train", noting)
    result = iterate(network(), Images(data, list(data)), SCHEDULE)
    assert [one.filters["0"] for one in result.rounds] == [6, 4, 2]
    assert [penalty is not None for _, _, penalty in seen] == [True, False, True, False]
    before, after, _ = seen[0]
    smallest = before.argsort()[:2]
    assert (after[smallest] < before[smallest]).all()
    assert set(result.plan.decisions["0"].removed) >= set(smallest.tolist())
    again = iterate(network(), Images(data, list(data)), SCHEDULE)
    assert torch.equal(result.model[0].weight, again.model[0].weight)


def test_a_schedule_with_a_penalty_survives_json_and_one_without_says_nothing():
    assert PruningSchedule.from_dict(SCHEDULE.to_dict()) == SCHEDULE
    plain = dataclasses.replace(SCHEDULE, before=None, penalty=None, penalty_options={})
    assert not {"before", "penalty", "penalty_options"} & set(plain.to_dict())
    assert SCHEDULE.seeded(5).before.seed == 5


def test_what_cannot_be_is_refused():
    assert [info.name for info in all_penalties()] == ["ufkt"]
    with pytest.raises(InputError, match="unknown penalty 'ufk'"):
        make_penalty("ufk", PARTING)
    with pytest.raises(InputError, match="unknown option of the penalty 'ufkt' 'weight'"):
        make_penalty("ufkt", PARTING, {"weight": 1})
    with pytest.raises(InputError, match="the strength of a penalty"):
        penalty_of(four(), strength=-1.0)
    with pytest.raises(InputError, match="form"):
        penalty_of(four(), form="x")
    with pytest.raises(InputError, match="give both 'before' and 'penalty'"):
        dataclasses.replace(SCHEDULE, before=None)
