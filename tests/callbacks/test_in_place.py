"""A network that is cut while it is trained goes on as if the removed filters had never been there."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from infoprune.callbacks.optimizers import cut_optimizer, restore_optimizer
from infoprune.errors import InputError
from infoprune.network.coupled_groups import find_groups
from infoprune.network.in_place import cut_in_place
from infoprune.network.surgery import apply, removal_of
from network import plans, toys

EXAMPLE = torch.randn(2, *toys.IMAGE, generator=torch.Generator().manual_seed(1))
NETWORKS = {
    "residual": toys.Residual,
    "zero padding": lambda: toys.Residual("A"),
    "dense": toys.Dense,
    "grouped": toys.Grouped,
    "inverted": toys.Inverted,
    "gate": toys.SqueezeExcite,
    "group norm": toys.GroupNormed,
    "scale of no layer": toys.Scaled,
    "tied": toys.Tied,
    "shuffle": toys.ShuffleUnit,
}


def attributes(model):
    """Return what the modules hold besides tensors, such as their numbers of channels."""
    return {
        (name, key): value
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, (int, tuple, list)) and key != "training"
    }


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_a_cut_in_place_is_the_cut_of_a_copy_and_can_be_undone(make):
    model = make()
    plan = plans.random_plan(find_groups(model, EXAMPLE), seed=5)
    whole, small = copy.deepcopy(model), apply(plan, model, EXAMPLE)
    parameters = dict(model.named_parameters())
    change = cut_in_place(plan, model, EXAMPLE)
    assert {name: id(one) for name, one in model.named_parameters()} == {k: id(v) for k, v in parameters.items()}
    assert attributes(model) == attributes(small)
    assert model.training
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), small.state_dict().values(), strict=True))
    assert torch.equal(model.eval()(EXAMPLE), small.eval()(EXAMPLE))
    change.undo()
    assert not model.training
    assert attributes(model) == attributes(whole)
    for parameter, left in change.smaller.items():
        assert parameter.count_nonzero() <= left.places.numel()
    model.load_state_dict(whole.state_dict())
    assert torch.equal(model(EXAMPLE), whole.eval()(EXAMPLE))


def without(model, plan):
    """Return a network whose removed channels are zero and receive no gradient, by scale and bias of their norms."""
    held = copy.deepcopy(model)
    modules = dict(held.named_modules())
    with torch.no_grad():
        for (layer, side), channels in removal_of(plan, find_groups(model, EXAMPLE.double()), model).items():
            if side == "out":
                modules[layer].weight[list(channels)] = 0
                if isinstance(modules[layer], nn.BatchNorm2d):
                    modules[layer].bias[list(channels)] = 0
    return held


def steps(model, optimizer, numbers):
    for number in numbers:
        drawn = torch.Generator().manual_seed(number)
        images = torch.randn(8, *toys.IMAGE, generator=drawn, dtype=torch.float64)
        optimizer.zero_grad()
        F.cross_entropy(model(images), torch.arange(8) % 5).backward()
        optimizer.step()


OPTIMIZERS = {
    "plain": lambda some: torch.optim.SGD(some, lr=0.05),
    "momentum": lambda some: torch.optim.SGD(some, lr=0.05, momentum=0.9, nesterov=True),
    "foreach": lambda some: torch.optim.SGD(some, lr=0.05, momentum=0.9, foreach=True),
    "adam": lambda some: torch.optim.Adam(some, lr=0.01, amsgrad=True),
    "fused": lambda some: torch.optim.AdamW(some, lr=0.01, weight_decay=0, fused=True),
    "rmsprop": lambda some: torch.optim.RMSprop(some, lr=0.01, centered=True, momentum=0.5),
    "adagrad": lambda some: torch.optim.Adagrad(some, lr=0.05),
    "adadelta": lambda some: torch.optim.Adadelta(some, lr=1.0),
    "nadam": lambda some: torch.optim.NAdam(some, lr=0.01),
    "radam": lambda some: torch.optim.RAdam(some, lr=0.01),
    "adamax": lambda some: torch.optim.Adamax(some, lr=0.01),
    "asgd": lambda some: torch.optim.ASGD(some, lr=0.01),
    "rprop": lambda some: torch.optim.Rprop(some, lr=0.01),
}


@pytest.mark.parametrize("make", [toys.Residual, toys.Grouped], ids=["residual", "grouped"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_training_goes_on_as_if_the_removed_filters_had_never_been_there(make, optimizer):
    """Both trainings have the same filters in use: one network is cut before the first step, one after the third."""
    model = make().double()
    plan = plans.random_plan(find_groups(model, EXAMPLE.double()), seed=2)
    late = without(model, plan)
    early = apply(plan, late, EXAMPLE.double())
    first, second = optimizer(early.parameters()), optimizer(late.parameters())
    steps(early, first, range(6))
    steps(late, second, range(3))
    change = cut_in_place(plan, late, EXAMPLE.double())
    cut_optimizer(second, change)
    assert change.smaller
    steps(late, second, range(3, 6))
    for name, value in early.state_dict().items():
        torch.testing.assert_close(late.state_dict()[name], value, rtol=1e-7, atol=1e-9)


def test_state_of_another_form_starts_again_and_that_of_whole_parameters_stays():
    model = toys.Plain()
    optimizer = torch.optim.Adafactor(model.parameters(), lr=0.01)
    model(EXAMPLE).sum().backward()
    optimizer.step()
    plan = plans.keeping(find_groups(model, EXAMPLE), conv1__0=(0, 3, 4))
    cut_optimizer(optimizer, cut_in_place(plan, model, EXAMPLE))
    assert model.conv1[0].weight not in optimizer.state
    assert model.fc.weight in optimizer.state
    model(EXAMPLE).sum().backward()
    optimizer.step()
    assert optimizer.state[model.conv1[0].weight]["row_var"].shape == (3, 3, 3, 1)


def test_gradients_of_a_cut_parameter_are_dropped_and_others_are_left():
    model = toys.Plain()
    model(EXAMPLE).sum().backward()
    cut_in_place(plans.keeping(find_groups(model, EXAMPLE), conv1__0=(0, 3, 4)), model, EXAMPLE)
    assert model.conv1[0].weight.grad is None
    assert model.fc.weight.grad is not None


def test_frozen_parameters_stay_frozen_and_layouts_stay():
    model = toys.Plain().to(memory_format=torch.channels_last)
    model.conv1[0].weight.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(EXAMPLE).sum().backward()
    optimizer.step()
    cut_optimizer(optimizer, cut_in_place(plans.keeping(find_groups(model, EXAMPLE), conv1__0=(0, 3)), model, EXAMPLE))
    weight = model.conv2[0].weight
    assert not model.conv1[0].weight.requires_grad
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert optimizer.state[weight]["momentum_buffer"].stride() == weight.stride()


def test_a_layer_that_computed_its_weight_becomes_plain_in_the_optimizer_too():
    model = toys.Plain()
    parametrizations.weight_norm(model.conv1[0])
    optimizer = torch.optim.SGD(model.named_parameters(), lr=0.1, momentum=0.9)
    model(EXAMPLE).sum().backward()
    optimizer.step()
    before = {name for name, _ in model.named_parameters()}
    change = cut_in_place(plans.keeping(find_groups(model, EXAMPLE), conv1__0=(0, 3)), model, EXAMPLE)
    cut_optimizer(optimizer, change)
    assert type(model.conv1[0]) is nn.Conv2d
    assert list(map(id, optimizer.param_groups[0]["params"])) == list(map(id, model.parameters()))
    assert len(optimizer.param_groups[0]["param_names"]) == len(list(model.parameters()))
    optimizer.zero_grad()
    model(EXAMPLE).sum().backward()
    optimizer.step()
    assert optimizer.state[model.conv1[0].weight]["momentum_buffer"].shape == (2, 3, 3, 3)
    change.undo()
    restore_optimizer(optimizer, change)
    assert {name for name, _ in model.named_parameters()} == before
    assert list(map(id, optimizer.param_groups[0]["params"])) == list(map(id, model.parameters()))


def test_what_cannot_be_cut_is_refused():
    change = cut_in_place(plans.keeping(find_groups(toys.Plain(), EXAMPLE)), toys.Plain(), EXAMPLE)
    with pytest.raises(InputError, match="LBFGS keeps one vector"):
        cut_optimizer(torch.optim.LBFGS(toys.Plain().parameters()), change)
    with pytest.raises(InputError, match="one of torch.optim"):
        cut_optimizer("sgd", change)
