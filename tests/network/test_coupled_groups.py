import copy
import random

import plans
import pytest
import torch
import torch_pruning as tp
import toys
from torch import nn

from infoprune.errors import InputError
from infoprune.network import equivalence
from infoprune.network.coupled_groups import find_groups
from infoprune.network.surgery import apply
from infoprune.network.verify import verify

EXAMPLE = torch.randn(2, *toys.IMAGE, generator=torch.Generator().manual_seed(1))

# Each toy, the groups it must have as {naming layer: number of units}, and words of the reason for each other layer.
OUTPUT = "its outputs are the network's outputs"
EXPECTED = {
    "plain": (toys.Plain, {"conv1.0": 8, "conv2.0": 12}, {"fc": OUTPUT}),
    "residual B": (
        toys.Residual,
        {"stem.0": 8, "blocks.0.conv1.0": 8, "blocks.1.conv1.0": 16, "blocks.1.conv2.0": 16, "blocks.2.conv1.0": 16},
        {"fc": OUTPUT},
    ),
    "residual A": (
        lambda: toys.Residual("A"),
        {"stem.0": 8, "blocks.0.conv1.0": 8, "blocks.1.conv1.0": 16, "blocks.1.conv2.0": 16, "blocks.2.conv1.0": 16},
        {"fc": OUTPUT},
    ),
    "residual, foreign padding": (
        lambda: toys.Residual("foreign"),
        {"blocks.0.conv1.0": 8, "blocks.1.conv1.0": 16, "blocks.2.conv1.0": 16},
        dict.fromkeys(("stem.0", "blocks.0.conv2.0", "blocks.1.conv2.0", "blocks.2.conv2.0"), "passes through 'pad'")
        | {"fc": OUTPUT},
    ),
    "dense": (
        toys.Dense,
        {"stem": 6, "transition.2": 9}
        | {f"block{b}.{i}.conv{k}": 8 if k == 1 else 4 for b, n in ((1, 3), (2, 2)) for i in range(n) for k in (1, 2)},
        {"fc": OUTPUT},
    ),
    "inception": (
        toys.Inception,
        {"stem.0": 8}
        | {
            f"mixed{m}.{name}": units
            for m in (1, 2)
            for name, units in {
                "one.0": 4,
                "three.0.0": 6,
                "three.1.0": 6,
                "five.0.0": 6,
                "five.1.0": 6,
                "five.2.0": 5,
                "pool.1.0": 3,
            }.items()
        },
        {"fc": OUTPUT},
    ),
    "inverted residuals": (
        toys.Inverted,
        {
            "stem.0": 6,
            "blocks.0.layers.0.0": 18,
            "blocks.0.layers.2.0": 8,
            "blocks.1.layers.0.0": 24,
            "blocks.2.layers.0.0": 24,
            "blocks.2.layers.2.0": 12,
        },
        {"fc": OUTPUT},
    ),
    "grouped": (toys.Grouped, {"stem.0": 8, "block.0.0": 4, "block.1.0": 4}, {"fc": OUTPUT}),
    "one filter per group": (
        toys.OneFilterPerGroup,
        {"conv1.0": 2},
        {"conv2.0": "only be removed all together", "fc": OUTPUT},
    ),
    "depthwise multiplier": (
        toys.Multiplier,
        {"wide.0": 2, "conv2.0": 12},
        {"conv1.0": "only be removed all together", "fc": OUTPUT},
    ),
    "squeeze and excitation": (toys.SqueezeExcite, {"conv1.0": 10, "gate.fc1": 4, "conv2.0": 8}, {"fc": OUTPUT}),
    "gate by linear layers": (toys.Efficient, {"first.0": 10, "squeeze": 3, "last.0": 8}, {"fc": OUTPUT}),
    "module called twice": (toys.Twice, {"stem.0": 6, "last.0": 8}, {"fc": OUTPUT}),
    "tied weights": (
        toys.Tied,
        {"inner.0": 9, "last.0": 7},
        {
            "a": "shares its weight with 'b'",
            "b": "shares its weight with 'a'",
            "stem.0": "is coupled to 'a'",
            "fc": OUTPUT,
        },
    ),
    "raw weight": (
        toys.RawWeight,
        {"first.0": 6, "third.0": 9, "last.0": 7},
        {"second.0": "enters 'conv2d' outside any layer", "fc": OUTPUT},
    ),
    "raw scale": (toys.Scaled, {"first.0": 6, "second.0": 7}, {"fc": OUTPUT}),
    "shuffle into groups": (
        toys.Shuffle,
        {"grouped.0": 4, "last.0": 7},
        {"first.0": "only be removed all together", "fc": OUTPUT},
    ),
    "built-in shuffle into groups": (
        lambda: toys.Shuffle(built_in=True),
        {"grouped.0": 4, "last.0": 7},
        {"first.0": "only be removed all together", "fc": OUTPUT},
    ),
    "shuffle": (toys.ShuffledDepthwise, {"first.0": 4, "last.0": 7}, {"fc": OUTPUT}),
    "shuffle unit": (toys.ShuffleUnit, {"first.0": 4, "branch.0.0": 6, "last.0": 7}, {"fc": OUTPUT}),
    "pixel shuffle": (toys.PixelShuffle, {"first.0": 6, "wide.0": 3, "last.0": 7}, {"fc": OUTPUT}),
    "mask": (toys.Masked, {"first.0": 9, "last.0": 7}, {"mask": "single filter", "fc": OUTPUT}),
    "mean over channels": (
        toys.ChannelMean,
        {"last.0": 7, "inner.0": 7},
        {"first.0": "differs from the masked one", "mask": "single filter", "fc": OUTPUT},
    ),
    "chunks": (toys.Chunks, {"first.0": 6, "last.0": 7}, {"fc": OUTPUT}),
    "split at fixed places": (
        toys.HardSplit,
        {"left.0": 7},
        {"first.0": "the cut network does not run", "fc": OUTPUT},
    ),
    "flattened": (toys.Flattened, {"conv1": 6, "conv2": 8, "ip1": 10}, {"ip2": OUTPUT}),
    "flattened to a fixed number": (
        toys.HardFlattened,
        {"conv1": 6, "ip1": 10},
        {"conv2": "the cut network does not run", "ip2": OUTPUT},
    ),
    "generator": (toys.Generator, {"conv": 6, "fc": 8, "up1": 6}, {"up3": OUTPUT}),
    "grouped transposed convolution": (
        toys.GroupedTransposed,
        {"last.0": 6},
        {"first.0": "is coupled to 'up'", "up": "is a transposed convolution in groups", "fc": OUTPUT},
    ),
    "group norm": (toys.GroupNormed, {"conv1": 4}, {"conv2": "only be removed all together", "fc": OUTPUT}),
    "instance norm": (toys.InstanceNormed, {"conv1": 9, "conv2": 8}, {"fc": OUTPUT}),
    "layer norm": (
        toys.LayerNormed,
        {"up": 16},
        dict.fromkeys(("stem", "dw", "down"), "normalised over its channels") | {"fc": OUTPUT},
    ),
    "attention": (
        toys.Attention,
        {"up": 12},
        {
            "patches": "normalised over its channels",
            "attention.out_proj": "no part in the forward pass",
            "down": "'multi_head_attention_forward'",
            "fc": OUTPUT,
        },
    ),
    "windows": (
        toys.Windows,
        {"up": 12, "merge": 16},
        {
            "patches": "normalised over its channels",
            "qkv": "'matmul'",
            "projection": "normalised over its channels",
            "down": "normalised over its channels",
            "fc": OUTPUT,
        },
    ),
    "detached": (toys.Detached, {"first.0": 9, "side.0": 7}, {"fc": OUTPUT}),
    "unused": (toys.Unused, {"conv1.0": 8, "conv2.0": 12}, {"auxiliary": "no part in the forward pass", "fc": OUTPUT}),
    "weight norm": (
        toys.Normalised,
        {"first.0": 6, "second": 8, "last.0": 7, "inner.0": 7},
        {"fc": OUTPUT},
    ),
    "old weight norm": (
        lambda: toys.Normalised(old=True),
        {"first.0": 6, "second": 8, "last.0": 7, "inner.0": 7},
        {"fc": OUTPUT},
    ),
    "weight standardisation": (
        toys.WeightStandardised,
        {"first.0": 6, "second": 8, "last.0": 7},
        {"fc": OUTPUT},
    ),
    "sums of concatenations": (toys.Joined, {"a.0": 4, "b.0": 6, "last.0": 7}, {"fc": OUTPUT}),
    "twice side by side": (toys.Doubled, {"narrow.0": 5, "last.0": 7}, {"fc": OUTPUT}),
    "images": (toys.Images, {"first": 6}, {"back": "tied to the network's inputs", "out": OUTPUT}),
    "one axis": (toys.Sequence1d, {"conv1": 8, "conv2": 6}, {"fc": OUTPUT}),
    "three axes": (toys.Volume, {"conv1": 8, "conv2": 6}, {"fc": OUTPUT}),
    "in place": (toys.Inplace, {"a.0": 8}, {"fc": OUTPUT}),
    "auxiliary head": (
        toys.Auxiliary,
        {"conv1.0": 8, "conv2.0": 12},
        {"side": "runs in train mode only", "side_fc": "runs in train mode only", "fc": OUTPUT},
    ),
    "selective kernels": (toys.SelectiveKernel, {"a.0": 6, "squeeze": 4, "last.0": 7}, {"fc": OUTPUT}),
    "written in place": (
        toys.Written,
        {"added.0": 7, "last.0": 7},
        {"wide.0": "written into by index", "narrow.0": "written into by index", "fc": OUTPUT},
    ),
    "response norm": (
        toys.ResponseNormed,
        {"second.0": 8, "last.0": 7},
        {"first.0": "on the way: local_response_norm", "fc": OUTPUT},
    ),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_every_layer_is_in_the_right_group_or_has_the_right_reason(name):
    build, units, reasons = EXPECTED[name]
    found = find_groups(build(), EXAMPLE)
    assert {group.name: len(group.units) for group in found.groups} == units
    assert set(found.left_alone) == set(reasons)
    for layer, words in reasons.items():
        assert words in found.left_alone[layer], found.left_alone[layer]


@pytest.mark.parametrize("name", EXPECTED)
def test_random_plans_give_the_network_with_those_channels_at_zero(name):
    model = equivalence.randomised(EXPECTED[name][0](), seed=5)
    groups = find_groups(model, EXAMPLE)
    for seed in range(3):
        plan = plans.random_plan(groups, seed)
        small = apply(plan, model, EXAMPLE, groups=groups, check=False)
        assert verify(plan, model, EXAMPLE, small, groups=groups) < 1e-4


@pytest.mark.parametrize("name", ["residual A", "dense", "inception", "inverted residuals", "grouped", "shuffle unit"])
def test_the_masked_network_is_what_zeros_after_each_producer_and_norm_give(name):
    """A reference that knows nothing of inputs: enough wherever activations leave zero at zero."""
    model = equivalence.randomised(EXPECTED[name][0](), seed=5)
    groups = find_groups(model, EXAMPLE)
    removed = {group.name: group.units[0] for group in groups.groups}
    by_hand = copy.deepcopy(model).eval()
    for (layer, side), channels in groups.removal(removed).items():
        if side == "out":
            by_hand.get_submodule(layer).register_forward_hook(_zeroing(channels))
    masked = equivalence.masked(model, groups.removal(removed))
    with torch.no_grad():
        torch.testing.assert_close(masked(EXAMPLE), by_hand(EXAMPLE))


def _zeroing(channels):
    def hook(module, args, output):
        output = output.clone()
        output[:, list(channels)] = 0
        return output

    return hook


@pytest.mark.parametrize(
    "name", ["plain", "residual B", "dense", "inception", "inverted residuals", "squeeze and excitation", "flattened"]
)
def test_groups_equal_those_of_torch_pruning_where_it_is_right(name):
    model = EXPECTED[name][0]()
    ours = find_groups(model, EXAMPLE)
    names = {module: layer for layer, module in model.named_modules()}
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=EXAMPLE)
    for group in ours.groups:
        for index in random.Random(0).sample(range(group.filters), 3):
            prune = graph.get_pruner_of_module(model.get_submodule(group.name)).prune_out_channels
            theirs = {}
            for dependency, channels in graph.get_pruning_group(model.get_submodule(group.name), prune, [index]):
                if dependency.target.module in names:
                    module = dependency.target.module
                    inputs_only = (
                        isinstance(module, nn.Conv2d | nn.Linear)
                        and graph.is_in_channel_pruning_fn(dependency.handler)
                        and not graph.is_out_channel_pruning_fn(dependency.handler)
                    )
                    theirs.setdefault((names[module], "in" if inputs_only else "out"), set()).update(channels)
            assert {place: set(some) for place, some in group.removal([index]).items() if some} == theirs


@pytest.mark.parametrize("name", ["plain", "mean over channels", "tied weights", "attention", "in place"])
@pytest.mark.parametrize("training", [True, False])
def test_the_given_network_is_left_as_it_was(name, training):
    model = EXPECTED[name][0]().train(training)
    list(model.modules())[-1].train(not training)
    next(model.parameters()).requires_grad_(False)
    calls = []
    hooks = [module.register_forward_hook(lambda *_: calls.append(1)) for module in model.modules()]
    before = _state(model)
    random_states = torch.get_rng_state(), random.getstate()
    find_groups(model, EXAMPLE)
    with torch.inference_mode():
        find_groups(model, EXAMPLE, check=False)
    assert _state(model) == before
    assert torch.equal(torch.get_rng_state(), random_states[0])
    assert random.getstate() == random_states[1]
    assert all(len(module._forward_hooks) == 1 and not module._forward_pre_hooks for module in model.modules())
    assert len(hooks) == len(list(model.modules()))


def _state(model):
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    values = {name: (t.data_ptr(), t._version, t.requires_grad, t.sum().item()) for name, t in tensors.items()}
    return values, {name: module.training for name, module in model.named_modules()}


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="older PyTorch has other settings")
@pytest.mark.parametrize("precision", ["tf32", "ieee"])
def test_settings_of_precision_are_as_before(precision):
    places = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)
    before = [place.fp32_precision for place in places]
    try:
        for place in places:
            place.fp32_precision = precision
        assert len(find_groups(toys.Plain(), EXAMPLE).groups) == 2
        assert [place.fp32_precision for place in places] == [precision, precision]
    finally:
        for place, value in zip(places, before, strict=True):
            place.fp32_precision = value


def test_finding_twice_finds_the_same():
    assert find_groups(toys.Dense(), EXAMPLE) == find_groups(toys.Dense(), EXAMPLE)


def test_the_check_alone_finds_what_following_channels_cannot():
    for build in (toys.ChannelMean, toys.HardSplit, toys.HardFlattened, toys.ResponseNormed):
        model = build()
        unchecked = set(find_groups(model, EXAMPLE, check=False).by_name())
        assert set(find_groups(model, EXAMPLE).by_name()) < unchecked


def test_a_head_of_train_mode_follows_what_it_reads():
    model = toys.Auxiliary()
    small = apply(plans.keeping(find_groups(model, EXAMPLE), conv1__0=(1, 5)), model, EXAMPLE).train()
    assert small.side.in_channels == 2
    out, side = small(EXAMPLE)
    assert out.shape == side.shape == (2, 5)


def test_one_wrong_group_among_many_is_found_alone():
    class Many(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([toys.conv_bn(3 if i == 0 else 6, 6) for i in range(12)])
            self.fc = nn.Linear(6, 4)

        def forward(self, x):
            for index, layer in enumerate(self.layers):
                x = layer(x)
                if index in (3, 8):
                    x = x.softmax(dim=1)
            return self.fc(x.mean((2, 3)))

    found = find_groups(Many(), EXAMPLE)
    assert set(found.left_alone) == {"layers.3.0", "layers.8.0", "fc"}
    assert "on the way: softmax" in found.left_alone["layers.3.0"]


def test_members_say_which_channels_go_with_each_filter():
    found = find_groups(toys.Dense(), EXAMPLE)
    group = found.by_name()["block1.1.conv2"]
    places = {(member.layer, member.side): member.channels for member in group.members}
    assert places["block1.1.conv2", "out"] == ((0,), (1,), (2,), (3,))
    assert places["block1.2.norm1", "out"] == ((10,), (11,), (12,), (13,))
    assert places["transition.2", "in"] == places["block1.2.conv1", "in"] == places["transition.0", "out"]
    assert group.producers == ("block1.1.conv2",)
    assert group.norms == ()
    flat = find_groups(toys.Flattened(), EXAMPLE).by_name()["conv2"]
    assert flat.members[1].layer == "ip1"
    assert flat.members[1].channels[3] == tuple(range(48, 64))


def test_residual_streams_name_all_their_producers_and_the_norms_behind_them():
    stream = find_groups(toys.Residual("A"), EXAMPLE).by_name()["blocks.1.conv2.0"]
    assert stream.producers == ("blocks.1.conv2.0", "blocks.2.conv2.0")
    assert stream.norms == ("blocks.1.conv2.1", "blocks.2.conv2.1")
    shortcut = next(member for member in stream.members if member.layer == "blocks.1.shortcut")
    assert shortcut.side == "out"


def test_units_under_grouped_convolutions_are_aligned():
    found = find_groups(toys.Grouped(), EXAMPLE).by_name()
    assert found["block.0.0"].units == ((0, 4, 8), (1, 5, 9), (2, 6, 10), (3, 7, 11))
    assert found["block.0.0"].members[0].channels[5] == (5,)


def test_a_network_that_does_not_run_is_refused():
    with pytest.raises(InputError, match=r"does not run on an example of shape \(2, 4, 8, 8\)"):
        find_groups(toys.Plain(), torch.zeros(2, 4, 8, 8))
    with pytest.raises(InputError, match="one batch of inputs"):
        find_groups(toys.Plain(), torch.zeros(3))
    with pytest.raises(InputError, match="one batch of inputs"):
        find_groups(toys.Plain(), [EXAMPLE, "images"])


def test_a_network_whose_sizes_are_not_known_is_refused():
    with pytest.raises(InputError, match="run one batch"):
        find_groups(nn.Sequential(nn.LazyConv2d(4, 3), nn.Conv2d(4, 2, 3)), EXAMPLE)


def test_a_compiled_network_is_refused():
    with pytest.raises(InputError, match="compiled network"):
        find_groups(torch.compile(toys.Plain()), EXAMPLE)
    with pytest.raises(InputError, match="scripted or traced network"):
        find_groups(torch.jit.trace(toys.Plain().eval(), EXAMPLE), EXAMPLE)


def test_a_network_without_layers_has_no_groups():
    found = find_groups(nn.Sequential(nn.ReLU(), nn.Flatten()), EXAMPLE)
    assert not found.groups
    assert not found.left_alone


def test_networks_in_half_and_in_double_precision_have_the_same_groups():
    expected = find_groups(toys.Inverted(), EXAMPLE)
    assert find_groups(toys.Inverted().bfloat16(), EXAMPLE) == expected
    assert find_groups(toys.Inverted().double(), EXAMPLE) == expected


@pytest.mark.parametrize("name", ["residual A", "dense", "shuffle unit", "squeeze and excitation", "generator"])
def test_groups_do_not_depend_on_the_device(name):
    # The device without values stands for any that is not the CPU.
    model = EXPECTED[name][0]()
    assert find_groups(copy.deepcopy(model).to("meta"), EXAMPLE, check=False) == find_groups(model, EXAMPLE)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("name", ["residual A", "dense", "shuffle unit", "squeeze and excitation", "generator"])
def test_a_network_on_a_gpu_is_cut_there(name):
    model = equivalence.randomised(EXPECTED[name][0](), seed=5)
    on_gpu = copy.deepcopy(model).cuda()
    groups = find_groups(on_gpu, EXAMPLE)
    assert groups == find_groups(model, EXAMPLE)
    plan = plans.random_plan(groups, seed=1)
    small = apply(plan, on_gpu, EXAMPLE)
    assert all(parameter.is_cuda for parameter in small.parameters())
    assert verify(plan, on_gpu, EXAMPLE, small) < 1e-4


def test_a_network_that_cannot_run_in_double_precision_is_checked_in_single():
    class Single(toys.Plain):
        def body(self, x):
            return self.conv2(self.conv1(x).float())

    model = Single().float()
    assert len(find_groups(model, EXAMPLE).groups) == 2
