import copy

import plans
import pytest
import torch
import toys
from test_coupled_groups import EXPECTED
from torch import nn
from torch.utils.benchmark import Measurement
from torch.utils.benchmark.utils.common import TaskSpec
from torch.utils.flop_counter import FlopCounterMode

from infoprune import zoo
from infoprune.errors import InputError
from infoprune.network.cost import Cost, CostModel, Latency, count, latency
from infoprune.network.coupled_groups import find_groups
from infoprune.network.surgery import apply

EXAMPLE = torch.randn(2, *toys.IMAGE, generator=torch.Generator().manual_seed(1))


def test_multiply_adds_are_counted_by_hand():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1),  # 4 x 4 positions, 4 filters of 3 x 3 x 3
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=False),  # 6 filters of 2 x 3 x 3
        nn.ConvTranspose2d(6, 5, 2, 2),  # 16 inputs x 6 meet 5 kernels of 2 x 2
        nn.Flatten(),
        nn.Linear(5 * 64, 7),
    )
    macs = 16 * 4 * 27 + 16 * 6 * 18 + 16 * 6 * 20 + 320 * 7
    parameters = (4 * 27 + 4) + 8 + 6 * 18 + (6 * 20 + 5) + (320 * 7 + 7)
    assert count(model, EXAMPLE) == Cost(macs, parameters)


def test_other_numbers_of_axes_and_leading_axes_are_counted():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv1d(3, 4, 5), nn.Linear(4, 2)

        def forward(self, x):
            return self.fc(self.conv(x.flatten(2)).transpose(1, 2))

    assert count(Tokens(), EXAMPLE).macs == 60 * 4 * 15 + 60 * 8
    assert count(nn.Conv3d(1, 2, 3), EXAMPLE.unsqueeze(1)).macs == 1 * 36 * 2 * 27


def test_a_layer_counts_as_often_as_it_runs_and_its_parameters_once():
    once = count(toys.Plain(), EXAMPLE)
    model = toys.Twice()
    shared = 64 * 6 * 6 * 9
    assert count(model, EXAMPLE).macs == 64 * 6 * 27 + 2 * shared + 64 * 8 * 54 + 40
    assert count(model, EXAMPLE).parameters == sum(p.numel() for p in model.parameters())
    assert once == count(toys.Plain(), EXAMPLE[:1]) == count(toys.Plain(), EXAMPLE.repeat(4, 1, 1, 1))


@pytest.mark.parametrize("name", ["vgg16", "resnet56", "mobilenet_v2", "lenet5"])
def test_multiply_adds_are_those_that_pytorch_counts(name):
    """PyTorch counts two operations a multiply-add, at the level of its operators: another way to the same number."""
    model = zoo.build(name).eval()
    images = torch.randn(1, *zoo.info(name).input_shape)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images)
    assert counter.get_total_flops() == 2 * count(model, images).macs


def test_counting_changes_nothing():
    model = toys.Plain().train()
    before = copy.deepcopy(model.state_dict())
    count(model, EXAMPLE)
    assert all(module.training and not module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", EXPECTED)
def test_the_cost_of_a_cut_is_known_without_making_it(name):
    model = EXPECTED[name][0]()
    groups = find_groups(model, EXAMPLE)
    costs = CostModel(model, EXAMPLE, groups)
    assert costs.base == costs.cost({}) == count(model, EXAMPLE)
    for seed in range(4):
        plan = plans.random_plan(groups, seed)
        assert costs.cost(plan.kept) == count(apply(plan, model, EXAMPLE, groups=groups, check=False), EXAMPLE)


@pytest.mark.parametrize("name", ["residual A", "dense", "grouped", "shuffle unit", "flattened", "group norm"])
def test_how_many_filters_stay_is_enough_to_know_the_cost(name):
    model = EXPECTED[name][0]()
    groups = find_groups(model, EXAMPLE)
    costs = CostModel(model, EXAMPLE, groups)
    kept = plans.random_plan(groups, seed=9).kept
    assert costs.cost({layer: len(some) for layer, some in kept.items()}) == costs.cost(kept)


def test_units_of_different_sizes_need_the_indices():
    class Uneven(toys.Head):
        """Half of the wide layer is added to the narrow one, the other half goes its own way."""

        def __init__(self):
            super().__init__(6)
            self.wide, self.narrow, self.last = toys.conv_bn(3, 6), toys.conv_bn(3, 3), toys.conv_bn(6, 6)

        def body(self, x):
            wide, narrow = self.wide(x), self.narrow(x)
            return self.last(wide + torch.cat([narrow, narrow.new_zeros(len(x), 3, *narrow.shape[2:])], 1))

    joined = toys.Joined()
    groups = find_groups(joined, EXAMPLE)
    costs = CostModel(joined, EXAMPLE, groups)
    with pytest.raises(InputError, match=r"'b.0' are removed in units of different sizes"):
        costs.cost({"b.0": 3})
    plan = plans.keeping(groups, b__0=(0, 2, 5))
    assert costs.cost(plan.kept) == count(apply(plan, joined, EXAMPLE), EXAMPLE)
    uneven = Uneven().eval()
    groups = find_groups(uneven, EXAMPLE)
    assert "wide.0" not in groups.by_name()  # zeros are added to a fixed number of its channels
    plan = plans.keeping(groups, narrow__0=(0, 2))
    assert CostModel(uneven, EXAMPLE, groups).cost(plan.kept) == count(apply(plan, uneven, EXAMPLE), EXAMPLE)


def test_unknown_layers_are_refused():
    model = toys.Plain()
    costs = CostModel(model, EXAMPLE, find_groups(model, EXAMPLE))
    with pytest.raises(InputError, match=r"did you mean 'conv1.0'"):
        costs.cost({"conv1": 3})


def test_a_network_that_does_not_run_is_refused():
    with pytest.raises(InputError, match="does not run on an example of shape"):
        count(toys.Plain(), torch.zeros(1, 5, 8, 8))


@pytest.mark.parametrize("threads", [1, None])
def test_latency_is_measured_on_a_cpu_and_leaves_no_trace(threads):
    model = toys.Plain().train()
    model.conv1.eval()
    modes = [module.training for module in model.modules()]
    set_to = torch.get_num_threads()
    runs = []
    model.register_forward_hook(lambda *_: runs.append(torch.get_num_threads()))
    found = Latency.of(latency(model, EXAMPLE, seconds=0.01, threads=threads))
    assert 0 < found.milliseconds < 10_000
    assert found.spread >= 0
    assert set(runs) == {threads or set_to}
    assert torch.get_num_threads() == set_to
    assert [module.training for module in model.modules()] == modes


def test_latency_is_the_median_and_its_spread_the_interquartile_range():
    task = TaskSpec("model(example)", setup="")
    parts = [Measurement(2, [2 * time for time in times], task) for times in ([0.001, 0.003], [0.002, 0.004, 0.1])]
    found = Latency.of(*parts)
    assert found.milliseconds == pytest.approx(3)
    assert found.spread == pytest.approx(2)  # of 1, 2, 3, 4, 100: from 2 to 4


def test_threads_are_restored_after_an_error():
    set_to = torch.get_num_threads()
    with pytest.raises(RuntimeError):
        latency(toys.Plain(), torch.zeros(1, 5, 8, 8), threads=set_to + 1)
    assert torch.get_num_threads() == set_to
    for wrong in ({"seconds": 0.0}, {"threads": 0}):
        with pytest.raises(InputError, match="more than 0 seconds on at least one thread"):
            latency(toys.Plain(), EXAMPLE, **wrong)
