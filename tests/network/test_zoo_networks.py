"""Every network of the zoo, cut by random plans, is the masked network."""

import time

import plans
import pytest
import torch

from infoprune import zoo
from infoprune.network import equivalence
from infoprune.network.cost import CostModel, count
from infoprune.network.coupled_groups import find_groups
from infoprune.network.surgery import apply
from infoprune.network.verify import verify

# The deepest differ from ResNet-56 in the number of blocks alone.
NETWORKS = [name for name in zoo.names() if not name.startswith(("resnet110", "resnet44", "resnet32"))]


@pytest.mark.parametrize("name", NETWORKS)
def test_all_but_the_classifier_is_removable_and_random_plans_give_the_masked_network(name):
    shape = zoo.info(name).input_shape
    # A quarter of ImageNet's size on either side says as much.
    example = torch.randn(2, shape[0], *(size if size < 100 else size // 4 for size in shape[1:]))
    model = equivalence.randomised(zoo.build(name), seed=3)
    groups = find_groups(model, example)
    assert list(groups.left_alone.values()) == ["its outputs are the network's outputs"]
    costs = CostModel(model, example, groups)
    plan = plans.random_plan(groups, seed=1)
    small = apply(plan, model, example, groups=groups, check=False)
    whole = equivalence.outputs(model, example)[0].abs().max().item()
    assert verify(plan, model, example, small, groups=groups) < 1e-4 * max(1, whole)
    assert costs.cost(plan.kept) == count(small, example)


@pytest.mark.parametrize(("name", "blocks"), [("resnet20", 3), ("resnet56", 9), ("resnet56_b", 9)])
def test_residual_networks_have_a_group_per_block_and_one_per_stage(name, blocks):
    found = find_groups(zoo.build(name), torch.zeros(1, 3, 32, 32), check=False).by_name()
    inner = {f"layer{stage}.{block}.conv1" for stage in (1, 2, 3) for block in range(blocks)}
    streams = set(found) - inner
    assert inner < set(found)
    assert [found[name].filters for name in sorted(streams)] == [16, 32, 64]
    assert all(len(found[name].producers) >= blocks for name in streams)


def test_resnet_56_costs_what_is_published_and_what_is_cut_from_it():
    model, example = zoo.build("resnet56"), torch.zeros(1, 3, 32, 32)
    groups = find_groups(model, example, check=False)
    costs = CostModel(model, example, groups)
    assert (costs.base.macs, costs.base.parameters) == (125_485_696, 853_018)
    kept = {f"layer{stage}.{block}.conv1": n for stage, n in ((1, 10), (2, 17), (3, 24)) for block in range(9)}
    cost = costs.cost(kept)
    assert 1 - cost.macs / costs.base.macs == pytest.approx(0.4868, abs=5e-5)
    assert 1 - cost.parameters / costs.base.parameters == pytest.approx(0.5808, abs=5e-5)
    start = time.perf_counter()
    for _ in range(20):
        costs.cost(kept)
    assert (time.perf_counter() - start) / 20 < 0.005  # a fraction of a millisecond where nothing else runs
