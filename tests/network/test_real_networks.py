"""What real networks contain: each is cut right, or left whole with the true reason."""

import dataclasses

import plans
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm
from toys import Head, Plain, conv_bn

import infoprune
from infoprune.errors import InputError
from infoprune.network import equivalence
from infoprune.network.cost import CostModel, count
from infoprune.network.coupled_groups import find_groups
from infoprune.network.surgery import apply
from infoprune.network.verify import verify

EXAMPLE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Frozen(nn.Module):
    """A batch norm of buffers alone, as detectors have."""

    def __init__(self, channels):
        super().__init__()
        for name, value in (("weight", 1.5), ("bias", 0.3), ("running_mean", 0.1), ("running_var", 0.8)):
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, x):
        weight, bias, mean, var = (t.reshape(1, -1, 1, 1) for t in self.buffers())
        scale = weight * (var + 1e-5).rsqrt()
        return x * scale + (bias - mean * scale)


class FrozenCall(Frozen):
    """The same by PyTorch's function."""

    def forward(self, x):
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, 1e-5)


class LayerScale(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(channels))

    def forward(self, x):
        return x * self.gamma[:, None, None]


class Listed(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.scales = nn.ParameterList([torch.rand(1, channels, 1, 1) for _ in range(2)])

    def forward(self, x):
        return x * self.scales[0] + self.scales[1].abs()


class Blur(nn.Module):
    """A fixed filter over every channel, with the number of channels held by the module."""

    def __init__(self, channels):
        super().__init__()
        self.channels = channels
        self.register_buffer(
            "filt", torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]).div(16).repeat(channels, 1, 1, 1)
        )

    def forward(self, x):
        return F.conv2d(x, self.filt, padding=1, groups=self.channels)


class Splits(nn.Module):
    """MixNet: one kernel size for each share of the channels; the shares are held as a list."""

    def __init__(self, channels):
        super().__init__()
        self.splits = [channels // 2, channels - channels // 2 - 2, 2]
        self.convs = nn.ModuleList(
            [nn.Conv2d(n, n, k, padding=k // 2, groups=n) for n, k in zip(self.splits, (3, 5, 1), strict=True)]
        )

    def forward(self, x):
        parts = torch.split(x, self.splits, 1)
        return torch.cat([conv(part) for conv, part in zip(self.convs, parts, strict=True)], 1)


class Hierarchy(nn.Module):
    """Res2Net: equal shares, each convolved with the one before added."""

    def __init__(self, channels):
        super().__init__()
        self.width = channels // 4
        self.convs = nn.ModuleList([conv_bn(self.width, self.width) for _ in range(3)])

    def forward(self, x):
        parts = torch.split(x, self.width, 1)
        found = [parts[0]]
        for conv, part in zip(self.convs, parts[1:], strict=True):
            found.append(conv(part + found[-1]))
        return torch.cat(found, 1)


class CrossStage(nn.Module):
    """CSPNet: half of an expansion passes by; the module holds the whole width."""

    def __init__(self, channels):
        super().__init__()
        self.wide = 2 * channels
        self.expand = conv_bn(channels, self.wide, 1)
        self.block, self.join = conv_bn(channels, channels), conv_bn(self.wide, channels, 1)

    def forward(self, x):
        passed, x = self.expand(x).split(self.wide // 2, dim=1)
        return self.join(torch.cat([passed, self.block(x)], dim=1))


class Slices(nn.Module):
    """PConv: the first channels are convolved, the others pass."""

    def __init__(self, channels):
        super().__init__()
        self.first = channels // 4
        self.conv = nn.Conv2d(self.first, self.first, 3, padding=1)

    def forward(self, x):
        return torch.cat([self.conv(x[:, : self.first]), x[:, self.first :]], 1)


class Gated(nn.Module):
    """MambaOut: linear layers over channels that lie last, and a split at places held as a tuple."""

    def __init__(self, channels):
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(channels), nn.Linear(channels, 24), nn.Linear(12, channels)
        self.indices, self.conv = (12, 8, 4), nn.Conv2d(4, 4, 3, padding=1, groups=4)

    def forward(self, x):
        shortcut, y = x, self.norm(x.permute(0, 2, 3, 1))
        gate, same, moved = self.fc1(y).split(self.indices, dim=-1)
        moved = self.conv(moved.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return shortcut + self.fc2(F.gelu(gate) * torch.cat([same, moved], -1)).permute(0, 3, 1, 2)


@torch.jit.script
def swish(x):
    return x * torch.sigmoid(x)


class Scripted(nn.Module):
    def __init__(self, channels):
        super().__init__()

    def forward(self, x):
        return swish(x)


class Between(Head):
    """A convolution, what is looked at, and two convolutions after it."""

    def __init__(self, kind, channels=16):
        super().__init__(7)
        self.first, self.between = conv_bn(3, channels), kind(channels)
        self.inner, self.last = conv_bn(channels, 9), conv_bn(9, 7)

    def body(self, x):
        return self.last(self.inner(self.between(self.first(x))))


KINDS = [Frozen, FrozenCall, LayerScale, Listed, Blur, Splits, Hierarchy, CrossStage, Slices, Scripted]


@pytest.mark.parametrize("kind", KINDS)
def test_channels_go_through_it_and_it_is_cut_with_them(kind):
    torch.manual_seed(0)
    model = equivalence.randomised(Between(kind), seed=2)
    groups = find_groups(model, EXAMPLE)
    assert set(groups.left_alone) == {"fc"}
    costs = CostModel(model, EXAMPLE, groups)
    for seed in range(4):
        plan = plans.random_plan(groups, seed)
        small = apply(plan, model, EXAMPLE, groups=groups)
        assert verify(plan, model, EXAMPLE, small, groups=groups) < 1e-4
        assert costs.cost(plan.kept) == count(small, EXAMPLE)
        small.train()(EXAMPLE).sum().backward()


def test_splits_at_places_held_by_a_module_between_linear_layers():
    torch.manual_seed(0)
    model = equivalence.randomised(Between(Gated), seed=2)
    groups = find_groups(model, EXAMPLE)
    wide = groups.by_name()["between.fc1"]
    assert wide.pointwise
    assert len(wide.units) == 12
    plan = plans.keeping(groups, between__fc1=tuple(sorted(i for unit in wide.units[1::2] for i in unit)))
    small = apply(plan, model, EXAMPLE, groups=groups)
    assert sum(small.between.indices) == small.between.fc1.out_features == 12
    assert type(small.between.indices) is tuple
    assert model.between.indices == (12, 8, 4)
    assert verify(plan, model, EXAMPLE, small) < 1e-4


def test_the_given_network_keeps_its_numbers_and_buffers():
    model = Between(Splits)
    before = list(model.between.splits)
    groups = find_groups(model, EXAMPLE)
    first = groups.by_name()["first.0"]
    small = apply(plans.keeping(groups, first__0=tuple(range(0, first.filters, 2))), model, EXAMPLE)
    assert model.between.splits == before
    assert sum(small.between.splits) == first.filters // 2
    assert all(size > 0 for size in small.between.splits)


@pytest.mark.parametrize(
    "norm",
    [
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        parametrizations.orthogonal,
        spectral_norm,
    ],
)
def test_a_computed_weight_becomes_a_plain_one_that_gives_the_same(norm):
    torch.manual_seed(0)
    model = Plain()
    model.conv2[0] = norm(nn.Conv2d(8, 12, 3, padding=1))
    model.eval()
    groups = find_groups(model, EXAMPLE)
    assert set(groups.by_name()) == {"conv1.0", "conv2.0"}
    assert set(groups.computed) == {"conv2.0"}
    plan = plans.keeping(groups, conv1__0=(0, 2, 5), conv2__0=(1, 2, 3, 11))
    small = apply(plan, model, EXAMPLE, groups=groups)
    assert type(small.conv2[0]) is nn.Conv2d
    assert verify(plan, model, EXAMPLE, small, groups=groups) < 1e-5
    assert CostModel(model, EXAMPLE, groups).cost(plan.kept) == count(small, EXAMPLE)
    small.train()(EXAMPLE).sum().backward()
    assert small.conv2[0].weight.grad is not None


class Dynamic(nn.Conv2d):
    """The weight depends on the images: no plain weight gives the same."""

    def forward(self, x):
        return F.conv2d(x, self.weight * (1 + x.mean()), self.bias, padding=self.padding)


def test_a_weight_that_depends_on_the_images_is_not_made_plain():
    model = Plain()
    model.conv2[0] = Dynamic(8, 12, 3, padding=1)
    groups = find_groups(model, EXAMPLE)
    assert "conv2.0" in groups.left_alone


def test_masks_of_torch_are_to_be_removed_first():
    model = Plain()
    prune.ln_structured(model.conv1[0], "weight", 0.5, n=1, dim=0)
    assert "call torch.nn.utils.prune.remove" in find_groups(model, EXAMPLE).left_alone["conv1.0"]
    prune.remove(model.conv1[0], "weight")
    assert "conv1.0" in find_groups(model, EXAMPLE).by_name()


class LowRank(nn.Conv2d):
    """LoRA: train() and eval() fold an addition of low rank into the weight, and take it out again."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs, 3, padding=1)
        self.down = nn.Parameter(torch.randn(2, inputs * 9) / 5)
        self.up, self.merged = nn.Parameter(torch.randn(outputs, 2) / 5), False

    def delta(self):
        return (self.up @ self.down).view(self.weight.shape)

    def train(self, mode=True):
        super().train(mode)
        if mode == self.merged:
            self.weight.data += self.delta() * (-1 if mode else 1)
            self.merged = not mode
        return self

    def forward(self, x):
        return self._conv_forward(x, self.weight if self.merged else self.weight + self.delta(), self.bias)


@pytest.mark.parametrize("training", [True, False])
def test_weights_that_modes_fold_are_left_alone_in_the_given_network_and_plain_in_the_result(training):
    torch.manual_seed(0)
    model = Plain()
    model.conv1[0] = LowRank(3, 8)
    model.train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = infoprune.prune(model, [EXAMPLE], criterion="l1", ratio=0.5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.conv1[0].merged is not training
    assert result.plan.settings["made_plain"] == {"conv1.0": "LowRank"}
    result.model.train().eval().train()
    result.model(EXAMPLE).sum().backward()


class TwoHeads(Plain):
    def __init__(self):
        super().__init__()
        self.mask = nn.Sequential(conv_bn(12, 6), nn.Conv2d(6, 5, 1))

    def forward(self, x):
        x = self.conv2(self.conv1(x))
        return {"logits": self.fc(x.mean((2, 3))), "mask": self.mask(x)}


class Logits(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)["logits"]


def test_a_head_that_a_wrapper_does_not_return_keeps_its_outputs():
    found = find_groups(Logits(TwoHeads()), EXAMPLE)
    reason = "its outputs reach no output of the network"
    assert found.left_alone["net.mask.0.0"] == found.left_alone["net.mask.1"] == reason
    small = apply(plans.keeping(found, net__conv2__0=(0, 3)), Logits(TwoHeads()), EXAMPLE)
    assert small.net(EXAMPLE)["mask"].shape == (2, 5, 8, 8)


@dataclasses.dataclass
class Outputs:
    logits: torch.Tensor
    nothing: None = None


class Returning(Plain):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, x):
        return self.kind(super().forward(x))


@pytest.mark.parametrize("kind", [Outputs, lambda x: {"a": [x, x]}, lambda x: (x, None), lambda x: [Outputs(x)]])
def test_outputs_of_any_form_are_compared(kind):
    model = Returning(kind)
    groups = find_groups(model, EXAMPLE)
    plan = plans.keeping(groups, conv1__0=(0, 3))
    assert verify(plan, model, EXAMPLE) < 1e-5
    wrong = apply(plans.keeping(groups, conv1__0=(1, 3)), model, EXAMPLE)
    with pytest.raises(infoprune.VerificationError):
        verify(plan, model, EXAMPLE, wrong)


def test_outputs_without_a_tensor_are_refused():
    with pytest.raises(InputError, match="returns no tensor"):
        find_groups(Returning(lambda x: x.tolist()), EXAMPLE)
    assert equivalence.compare([], [])[0] == float("inf")


class BySize(Head):
    """A layer that only large images run through."""

    def __init__(self):
        super().__init__(8)
        self.conv, self.big = conv_bn(3, 8), conv_bn(8, 8, stride=2)

    def body(self, x):
        x = self.conv(x)
        return self.big(x) if x.shape[-1] > 8 else x


def test_layers_that_only_some_sizes_run_are_cut_where_all_sizes_are_given():
    large, model = torch.randn(2, 3, 16, 16), BySize()
    assert "no part in the forward pass" in find_groups(model, EXAMPLE).left_alone["big.0"]
    groups = find_groups(model, [EXAMPLE, large])
    assert groups.by_name()["conv.0"].producers == ("conv.0", "big.0")
    plan = plans.keeping(groups, conv__0=(0, 2, 5))
    assert verify(plan, model, [EXAMPLE, large]) < 1e-5
    loader = [(EXAMPLE, torch.zeros(2).long()), (large, torch.zeros(2).long())]
    small = infoprune.prune(model, loader, criterion="l1", ratio=0.5)
    assert small.model(large).shape == small.model(EXAMPLE).shape == (2, 5)
    again = infoprune.apply(small.plan, model)
    assert again(large).shape == (2, 5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_precision_and_memory_format_stay_and_the_result_trains(dtype):
    model = Plain().to(dtype).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        groups = find_groups(model, EXAMPLE)
        small = apply(plans.keeping(groups, conv1__0=(0, 2, 5)), model, EXAMPLE)
    assert small.conv1[0].weight.dtype is small.conv2[0].weight.dtype is dtype
    assert small.conv2[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert not any(parameter.is_inference() for parameter in small.parameters())
    if dtype is not torch.float16:
        small.train()(EXAMPLE.to(dtype)).sum().backward()
        assert small.conv1[0].weight.grad is not None


def test_a_network_made_in_inference_mode_is_cut_and_the_result_trains():
    with torch.inference_mode():
        model = Plain()
    plan = plans.keeping(find_groups(model, EXAMPLE), conv1__0=(0, 2, 5))
    apply(plan, model, EXAMPLE).train()(EXAMPLE).sum().backward()


def test_images_of_whole_numbers_are_cut_as_floats_are():
    class Scaling(Plain):
        def forward(self, x):
            return super().forward(x.float() / 255)

    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    model = Scaling()
    groups = find_groups(model, images)
    assert groups == find_groups(model, images.float())
    assert verify(plans.keeping(groups, conv1__0=(0, 2, 5)), model, images) < 1e-5


def test_dropout_that_is_always_on_is_the_reason():
    class Dropping(Plain):
        def body(self, x):
            return self.conv2(F.dropout(self.conv1(x), 0.5, training=True))

    left = find_groups(Dropping(), EXAMPLE).left_alone
    assert "draws random numbers in eval mode" in left["conv1.0"]


def test_a_branch_of_a_concatenation_keeps_a_channel_whatever_is_asked():
    class Joined(Head):
        def __init__(self):
            super().__init__(7)
            self.weak, self.strong = conv_bn(3, 4), conv_bn(3, 12)
            self.gate, self.last = nn.Conv2d(16, 16, 1), conv_bn(16, 7)

        def body(self, x):
            x = torch.cat([self.weak(x), self.strong(x)], 1)
            return self.last(x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid())

    model = Joined()
    with torch.no_grad():
        model.weak[0].weight.mul_(0.01), model.gate.weight[:4].mul_(0.01)
    assert find_groups(model, EXAMPLE).by_name()["gate"].parts == ((0, 1, 2, 3), tuple(range(4, 16)))
    for words in ({"ratio": 0.5}, {"ratio": 0.8}, {"budget": infoprune.Budget(macs=0.4)}, {"threshold": 0.5}):
        plan = infoprune.plan(model, [EXAMPLE], criterion="l1", layers="gate", **words)
        assert set(plan.kept["gate"]) & {0, 1, 2, 3}
        infoprune.apply(plan, model)
