"""Small networks, each with one way in which channels belong together, or cannot go."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, weight_norm

from infoprune.zoo.shortcut import ZeroPadShortcut

IMAGE = (3, 8, 8)


def conv_bn(inputs, outputs, kernel=3, stride=1, groups=1, act=nn.ReLU):
    padding = tuple(k // 2 for k in kernel) if isinstance(kernel, tuple) else kernel // 2
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, act()) if act else nn.Sequential(*layers)


class Head(nn.Module):
    """Trunk, mean over space, linear layer."""

    def __init__(self, channels):
        super().__init__()
        self.fc = nn.Linear(channels, 5)

    def body(self, x):
        raise NotImplementedError

    def forward(self, x):
        return self.fc(self.body(x).mean((2, 3)))


class Plain(Head):
    def __init__(self):
        super().__init__(12)
        self.conv1, self.conv2 = conv_bn(3, 8), conv_bn(8, 12)

    def body(self, x):
        return self.conv2(self.conv1(x))


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride, shortcut):
        super().__init__()
        self.conv1 = conv_bn(inputs, outputs, stride=stride)
        self.conv2 = conv_bn(outputs, outputs, act=None)
        self.shortcut = shortcut

    def forward(self, x):
        return F.relu(self.conv2(self.conv1(x)) + self.shortcut(x))


class Residual(Head):
    """Two stages; the shortcut between them is a convolution ("B"), zeros ("A"), or zeros by a foreign lambda."""

    def __init__(self, option="B"):
        super().__init__(16)
        self.stem = conv_bn(3, 8)
        between = {"A": lambda: ZeroPadShortcut(8, 16, 2), "B": lambda: conv_bn(8, 16, 1, 2, act=None)}
        self.blocks = nn.Sequential(
            Block(8, 8, 1, nn.Identity()),
            Block(8, 16, 2, between.get(option, Padding)()),
            Block(16, 16, 1, nn.Identity()),
        )

    def body(self, x):
        return self.blocks(self.stem(x))


class Padding(nn.Module):
    """Option A as it is usually written."""

    def forward(self, x):
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4), "constant", 0)


class DenseLayer(nn.Module):
    def __init__(self, inputs, growth):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 8, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(8), nn.Conv2d(8, growth, 3, padding=1, bias=False)

    def forward(self, x):
        new = self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))
        return torch.cat([x, new], 1)


class Dense(nn.Module):
    """DenseNet: what is concatenated is normalised anew by each reader, and the head flattens it."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.block1 = nn.Sequential(*[DenseLayer(6 + 4 * i, 4) for i in range(3)])
        self.transition = nn.Sequential(nn.BatchNorm2d(18), nn.ReLU(), nn.Conv2d(18, 9, 1), nn.AvgPool2d(2))
        self.block2 = nn.Sequential(*[DenseLayer(9 + 4 * i, 4) for i in range(2)])
        self.norm, self.fc = nn.BatchNorm2d(17), nn.Linear(17 * 16, 5)

    def forward(self, x):
        x = self.block2(self.transition(self.block1(self.stem(x))))
        return self.fc(torch.flatten(F.relu(self.norm(x)), 1))


class Mixed(nn.Module):
    """An Inception module: four branches side by side."""

    def __init__(self, inputs, a, b, c, d):
        super().__init__()
        self.one = conv_bn(inputs, a, 1)
        self.three = nn.Sequential(conv_bn(inputs, 6, 1), conv_bn(6, b))
        self.five = nn.Sequential(conv_bn(inputs, 6, 1), conv_bn(6, 6, (1, 3)), conv_bn(6, c, (3, 1)))
        self.pool = nn.Sequential(nn.AvgPool2d(3, 1, 1), conv_bn(inputs, d, 1))

    def forward(self, x):
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], dim=1)


class Inception(Head):
    def __init__(self):
        super().__init__(18)
        self.stem, self.mixed1, self.mixed2 = conv_bn(3, 8), Mixed(8, 4, 6, 5, 3), Mixed(18, 4, 6, 5, 3)

    def body(self, x):
        return self.mixed2(self.mixed1(self.stem(x)))


class InvertedResidual(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.same = stride == 1 and inputs == outputs
        wide = 3 * inputs
        self.layers = nn.Sequential(
            conv_bn(inputs, wide, 1, act=nn.ReLU6),
            conv_bn(wide, wide, 3, stride, groups=wide, act=nn.ReLU6),
            conv_bn(wide, outputs, 1, act=None),
        )

    def forward(self, x):
        return x + self.layers(x) if self.same else self.layers(x)


class Inverted(Head):
    """MobileNetV2."""

    def __init__(self):
        super().__init__(12)
        self.stem = conv_bn(3, 6)
        self.blocks = nn.Sequential(InvertedResidual(6, 8, 2), InvertedResidual(8, 8, 1), InvertedResidual(8, 12, 1))

    def body(self, x):
        return self.blocks(self.stem(x))


class Grouped(Head):
    """ResNeXt: a grouped convolution in a bottleneck."""

    def __init__(self):
        super().__init__(8)
        self.stem = conv_bn(3, 8)
        self.block = nn.Sequential(conv_bn(8, 12, 1), conv_bn(12, 12, 3, groups=3), conv_bn(12, 8, 1, act=None))

    def body(self, x):
        x = self.stem(x)
        return F.relu(x + self.block(x))


class OneFilterPerGroup(Head):
    """As many groups as filters, but two inputs each: not depthwise, whatever it looks like."""

    def __init__(self):
        super().__init__(4)
        self.conv1, self.conv2 = conv_bn(3, 8), conv_bn(8, 4, groups=4)

    def body(self, x):
        return self.conv2(self.conv1(x))


class Multiplier(Head):
    """A depthwise convolution with two filters per input channel."""

    def __init__(self):
        super().__init__(12)
        self.conv1, self.wide, self.conv2 = conv_bn(3, 4), conv_bn(4, 8, groups=4), conv_bn(8, 12)

    def body(self, x):
        return self.conv2(self.wide(self.conv1(x)))


class Gate(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.fc2(F.relu(self.fc1(F.adaptive_avg_pool2d(x, 1)))))


class SqueezeExcite(Head):
    def __init__(self):
        super().__init__(8)
        self.conv1, self.gate, self.conv2 = conv_bn(3, 10, act=nn.SiLU), Gate(10), conv_bn(10, 8)

    def body(self, x):
        return self.conv2(self.gate(self.conv1(x)))


class Twice(Head):
    """One module called twice, so that its inputs and its outputs are one stream."""

    def __init__(self):
        super().__init__(8)
        self.stem, self.shared, self.last = conv_bn(3, 6), conv_bn(6, 6), conv_bn(6, 8)

    def body(self, x):
        return self.last(self.shared(self.shared(self.stem(x))))


class Tied(Head):
    """Two layers that share one parameter, among others that do not."""

    def __init__(self):
        super().__init__(7)
        self.stem = conv_bn(3, 6)
        self.a, self.b = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.b.weight = self.a.weight
        self.inner, self.last = conv_bn(6, 9), conv_bn(9, 7)

    def body(self, x):
        return self.last(self.inner(F.relu(self.b(F.relu(self.a(self.stem(x)))))))


class RawWeight(Head):
    """A convolution by function, with a parameter of no layer, between layers that are."""

    def __init__(self):
        super().__init__(7)
        self.first, self.second = conv_bn(3, 6), conv_bn(6, 8)
        self.raw = nn.Parameter(torch.randn(8, 8, 3, 3))
        self.third, self.last = conv_bn(8, 9), conv_bn(9, 7)

    def body(self, x):
        x = self.second(self.first(x))
        return self.last(self.third(F.conv2d(x, self.raw, padding=1)))


class Scaled(Head):
    """A parameter with one value per channel that belongs to no layer."""

    def __init__(self):
        super().__init__(7)
        self.first, self.second = conv_bn(3, 6), conv_bn(6, 7)
        self.scale = nn.Parameter(torch.rand(6, 1, 1))
        self.bias = nn.Parameter(torch.rand(1, 1, 8, 8))

    def body(self, x):
        return self.second(self.first(x) * self.scale) + self.bias


class Shuffle(Head):
    """ShuffleNet's channel shuffle by views; ``built_in`` uses PyTorch's own."""

    def __init__(self, built_in=False):
        super().__init__(7)
        self.built_in = built_in
        self.first, self.grouped, self.last = conv_bn(3, 12), conv_bn(12, 12, groups=3), conv_bn(12, 7)

    def body(self, x):
        x = self.first(x)
        if self.built_in:
            return self.last(self.grouped(F.channel_shuffle(x, 3)))
        n, c, h, w = x.shape
        x = x.view(n, 3, c // 3, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
        return self.last(self.grouped(x))


class HardShuffle(Shuffle):
    """A channel shuffle with its number of channels written into it."""

    def body(self, x):
        x = self.first(x)
        x = x.view(-1, 3, 4, *x.shape[2:]).transpose(1, 2).reshape(-1, 12, *x.shape[2:])
        return self.last(self.grouped(x))


class ShuffleUnit(Head):
    """A unit of ShuffleNetV2: half of the channels pass, half go through a branch, then all are shuffled."""

    def __init__(self):
        super().__init__(7)
        self.first, self.last = conv_bn(3, 8), conv_bn(8, 7)
        self.branch = nn.Sequential(conv_bn(4, 6, 1), conv_bn(6, 6, groups=6, act=None), conv_bn(6, 4, 1))

    def body(self, x):
        passed, changed = self.first(x).chunk(2, dim=1)
        return self.last(F.channel_shuffle(torch.cat((passed, self.branch(changed)), dim=1), 2))


class ShuffledDepthwise(Head):
    """A channel shuffle by views between layers that are not grouped, or wholly."""

    def __init__(self):
        super().__init__(7)
        self.first, self.depthwise, self.last = conv_bn(3, 12), conv_bn(12, 12, groups=12), conv_bn(12, 7)

    def body(self, x):
        x = self.first(x)
        n, c, h, w = x.shape
        return self.last(self.depthwise(x.view(n, 3, -1, h, w).transpose(1, 2).reshape(n, c, h, w)))


class PixelShuffle(Head):
    def __init__(self):
        super().__init__(7)
        self.first, self.wide = conv_bn(3, 6), conv_bn(6, 12)
        self.shuffle, self.last = nn.PixelShuffle(2), conv_bn(3, 7)

    def body(self, x):
        return self.last(self.shuffle(self.wide(self.first(x))))


class Masked(Head):
    """A map of one channel that multiplies all: its filter goes with none of theirs."""

    def __init__(self):
        super().__init__(7)
        self.first, self.mask, self.last = conv_bn(3, 9), nn.Conv2d(9, 1, 1), conv_bn(9, 7)

    def body(self, x):
        x = self.first(x)
        return self.last(x * torch.sigmoid(self.mask(x)))


class ChannelMean(Head):
    """CBAM's attention in space: the mean over channels changes with their number."""

    def __init__(self):
        super().__init__(7)
        self.first, self.mask, self.last = conv_bn(3, 9), nn.Conv2d(1, 1, 3, padding=1), conv_bn(9, 7)
        self.inner = conv_bn(7, 7)

    def body(self, x):
        x = self.first(x)
        return self.inner(self.last(x * torch.sigmoid(self.mask(x.mean(1, keepdim=True)))))


class Chunks(Head):
    """A gated unit: one half of the channels multiplies the other."""

    def __init__(self):
        super().__init__(7)
        self.first, self.last = conv_bn(3, 12, act=None), conv_bn(6, 7)

    def body(self, x):
        a, b = self.first(x).chunk(2, dim=1)
        return self.last(a * torch.sigmoid(b))


class HardSplit(Head):
    """A split at places written into the code."""

    def __init__(self):
        super().__init__(7)
        self.first, self.left, self.right = conv_bn(3, 12), conv_bn(4, 7), conv_bn(8, 7)

    def body(self, x):
        a, b = torch.split(self.first(x), [4, 8], dim=1)
        return self.left(a) + self.right(b)


class Flattened(nn.Module):
    """LeNet: flattened maps into hidden linear layers."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 3)
        self.ip1, self.ip2 = nn.Linear(8 * 4 * 4, 10), nn.Linear(10, 5)

    def forward(self, x):
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        return self.ip2(F.relu(self.ip1(x.view(x.size(0), -1))))


class HardFlattened(Flattened):
    """The number of features after the maps is written into the code."""

    def forward(self, x):
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        return self.ip2(F.relu(self.ip1(x.view(-1, 128))))


class Generator(nn.Module):
    """A linear layer whose outputs become maps; transposed convolutions; an image out."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 6, 8), nn.Linear(6, 8 * 4)
        self.up1, self.norm = nn.ConvTranspose2d(8, 6, 2, 2), nn.BatchNorm2d(6)
        self.up2 = nn.ConvTranspose2d(6, 6, 3, 1, 1, groups=6)
        self.up3 = nn.ConvTranspose2d(6, 3, 2, 2)

    def forward(self, x):
        x = self.fc(self.conv(x).flatten(1))
        x = F.relu(self.norm(self.up1(x.view(len(x), -1, 2, 2))))
        return torch.tanh(self.up3(F.leaky_relu(self.up2(x))))


class GroupedTransposed(Head):
    def __init__(self):
        super().__init__(6)
        self.first, self.up, self.last = conv_bn(3, 8), nn.ConvTranspose2d(8, 8, 2, 2, groups=2), conv_bn(8, 6)

    def body(self, x):
        return self.last(self.up(self.first(x)))


class GroupNormed(Head):
    def __init__(self):
        super().__init__(8)
        self.conv1, self.norm1 = nn.Conv2d(3, 12, 3), nn.GroupNorm(4, 12)
        self.conv2, self.norm2 = nn.Conv2d(12, 8, 3), nn.GroupNorm(1, 8)

    def body(self, x):
        return F.relu(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


class InstanceNormed(Head):
    def __init__(self):
        super().__init__(8)
        self.conv1, self.norm1 = nn.Conv2d(3, 9, 3), nn.InstanceNorm2d(9, affine=True)
        self.conv2, self.act = nn.Conv2d(9, 8, 3), nn.PReLU(8)

    def body(self, x):
        return self.act(self.conv2(F.relu(self.norm1(self.conv1(x)))))


class LayerNormed(nn.Module):
    """ConvNeXt: channels last, a layer norm over them, and hidden linear layers inside."""

    def __init__(self):
        super().__init__()
        self.stem, self.dw = nn.Conv2d(3, 8, 2, 2), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x)
        y = self.down(F.gelu(self.up(self.norm(self.dw(x).permute(0, 2, 3, 1)))))
        return self.fc((x + y.permute(0, 3, 1, 2)).mean((-2, -1)))


class Attention(nn.Module):
    """ViT: patches, a class token, positions, self attention, a hidden linear layer."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.token, self.positions = nn.Parameter(torch.zeros(1, 1, 8)), nn.Parameter(torch.zeros(1, 5, 8))
        self.norm1, self.attention = nn.LayerNorm(8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm2, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 12), nn.Linear(12, 8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = self.patches(x)
        x = x.reshape(len(x), 8, -1).permute(0, 2, 1)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.positions
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.fc(x[:, 0])


class Windows(nn.Module):
    """Swin: rolled windows, attention by matrix products, patches merged by strided slices."""

    def __init__(self):
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, 8, 2, 2), nn.LayerNorm(8)
        self.qkv, self.projection = nn.Linear(8, 24), nn.Linear(8, 8)
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)
        self.merge, self.fc = nn.Linear(32, 16, bias=False), nn.Linear(16, 5)

    def forward(self, x):
        x = self.patches(x).permute(0, 2, 3, 1)
        n, h, w, c = x.shape
        y = torch.roll(self.norm(x), (-1, -1), (1, 2))
        y = y.view(n, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
        q, k, v = self.qkv(y).reshape(-1, 4, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        y = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        y = self.projection(y.transpose(1, 2).reshape(-1, 4, c))
        y = y.view(n, h // 2, w // 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
        x = x + torch.roll(y, (1, 1), (1, 2))
        x = x + self.down(F.gelu(self.up(x)))
        parts = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]
        return self.fc(self.merge(torch.cat(parts, -1)).mean((1, 2)))


class Detached(Head):
    """Part of the forward pass runs without gradients."""

    def __init__(self):
        super().__init__(7)
        self.first, self.side, self.last = conv_bn(3, 9), conv_bn(9, 7), conv_bn(9, 7)

    def body(self, x):
        x = self.first(x)
        with torch.no_grad():
            side = self.side(x)
        return self.last(x) + side.detach()


class Unused(Plain):
    """A layer that never runs."""

    def __init__(self):
        super().__init__()
        self.auxiliary = nn.Conv2d(8, 4, 1)


class Normalised(Head):
    """Weights that are computed from others."""

    def __init__(self, old=False):
        super().__init__(7)
        norm = weight_norm if old else parametrizations.weight_norm
        self.first, self.second, self.last = conv_bn(3, 6), norm(nn.Conv2d(6, 8, 3)), conv_bn(8, 7)
        self.inner = conv_bn(7, 7)

    def body(self, x):
        return self.inner(self.last(F.relu(self.second(self.first(x)))))


class Standardised(nn.Conv2d):
    """Weight standardisation: the mean is over the inputs too."""

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight / weight.std((1, 2, 3), keepdim=True), self.bias, self.stride, self.padding)


class WeightStandardised(Head):
    def __init__(self):
        super().__init__(7)
        self.first, self.second, self.last = conv_bn(3, 6), Standardised(6, 8, 3), conv_bn(8, 7)

    def body(self, x):
        return self.last(F.relu(self.second(self.first(x))))


class Joined(Head):
    """Concatenations added to concatenations, of other widths: some layers share only a part."""

    def __init__(self):
        super().__init__(7)
        self.a, self.b, self.c, self.d = conv_bn(3, 4), conv_bn(3, 6), conv_bn(3, 6), conv_bn(3, 4)
        self.last = conv_bn(10, 7)

    def body(self, x):
        left = torch.cat([self.a(x), self.b(x)], 1)
        return self.last(left + torch.cat([self.c(x), self.d(x)], 1))


class Doubled(Head):
    """One layer twice side by side, added to a layer twice as wide."""

    def __init__(self):
        super().__init__(7)
        self.narrow, self.wide, self.last = conv_bn(3, 5), conv_bn(3, 10), conv_bn(10, 7)

    def body(self, x):
        x, y = self.narrow(x), self.wide(x)
        return self.last(torch.cat([x, x], 1) + y)


class Images(nn.Module):
    """Channels that are added to the images, and channels that are the output."""

    def __init__(self):
        super().__init__()
        self.first, self.back = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 3, 3, padding=1)
        self.out = nn.Conv2d(9, 4, 1)

    def forward(self, x):
        y = F.relu(self.first(x))
        return {"image": x + self.back(y), "maps": [self.out(torch.cat([y, x], 1))]}


class Sequence1d(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.norm, self.conv2 = nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8), nn.Conv1d(8, 6, 3)
        self.fc = nn.Linear(6, 5)

    def forward(self, x):
        x = F.elu(self.norm(self.conv1(x.flatten(2))))
        return self.fc(F.adaptive_max_pool1d(self.conv2(x), 1).squeeze(-1))


class Volume(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.norm, self.conv2 = nn.Conv3d(1, 8, 3), nn.BatchNorm3d(8), nn.Conv3d(8, 6, (1, 3, 3))
        self.fc = nn.Linear(6 * 4 * 4, 5)

    def forward(self, x):
        x = F.relu(self.norm(self.conv1(x.unsqueeze(1))))
        return self.fc(torch.flatten(self.conv2(x), 1))


class Inplace(Head):
    """Additions and activations in place."""

    def __init__(self):
        super().__init__(8)
        self.a, self.b = conv_bn(3, 8, act=None), conv_bn(8, 8, act=None)
        self.act = nn.ReLU(inplace=True)

    def body(self, x):
        x = self.act(self.a(x))
        y = self.b(x)
        y += x
        return y.clamp_(max=2).mul_(2)


class Efficient(Head):
    """EfficientNet's sigmoid gate by linear layers, global pooling by mean, stochastic depth absent in eval mode."""

    def __init__(self):
        super().__init__(8)
        self.first, self.last = conv_bn(3, 10, act=nn.Hardswish), conv_bn(10, 8)
        self.squeeze, self.excite = nn.Linear(10, 3), nn.Linear(3, 10)

    def body(self, x):
        x = self.first(x)
        gate = F.hardtanh(self.excite(F.silu(self.squeeze(x.mean(dim=(2, 3))))))
        return self.last(F.dropout2d(x * gate[:, :, None, None], training=self.training))


class ResponseNormed(Head):
    """AlexNet's response norm mixes neighbouring channels."""

    def __init__(self):
        super().__init__(7)
        self.first, self.second, self.last = conv_bn(3, 8), conv_bn(8, 8), conv_bn(8, 7)
        self.norm = nn.LocalResponseNorm(3, alpha=1.0)

    def body(self, x):
        return self.last(self.second(self.norm(self.first(x))))


class Auxiliary(Plain):
    """GoogLeNet's second head, which runs in train mode alone."""

    def __init__(self):
        super().__init__()
        self.side, self.side_fc = nn.Conv2d(8, 4, 1), nn.Linear(4 * 64, 5)

    def forward(self, x):
        y = self.conv1(x)
        out = self.fc(self.conv2(y).mean((2, 3)))
        return (out, self.side_fc(self.side(y).flatten(1))) if self.training else out


class SelectiveKernel(Head):
    """Two branches, mixed by a softmax over branches."""

    def __init__(self):
        super().__init__(7)
        self.a, self.b, self.last = conv_bn(3, 6), conv_bn(3, 6, 5), conv_bn(6, 7)
        self.squeeze, self.choose = nn.Linear(6, 4), nn.Linear(4, 12)

    def body(self, x):
        branches = torch.stack([self.a(x), self.b(x)], dim=1)
        share = self.choose(F.relu(self.squeeze(branches.sum(1).mean((2, 3))))).view(len(x), 2, -1, 1, 1)
        return self.last((branches * share.softmax(1)).sum(1))


class Written(Head):
    """Channels that are overwritten in place by others, and channels that others are added to."""

    def __init__(self):
        super().__init__(7)
        self.wide, self.narrow = conv_bn(3, 8), conv_bn(3, 4)
        self.added, self.inner, self.last = conv_bn(3, 7), conv_bn(8, 7), conv_bn(7, 7)

    def body(self, x):
        wide = self.wide(x)
        wide[:, 2:6] = self.narrow(x)
        y = self.inner(wide)
        y += self.added(x)
        return self.last(y)
