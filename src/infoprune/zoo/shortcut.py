"""The parameter-free shortcut of the CIFAR ResNets (option A), in a form that can lose channels on either side."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ZeroPadShortcut(nn.Module):
    """Every ``stride``-th pixel, and channels of zeros around the given ones until there are ``out_channels``.

    Option A of He et al., "Deep residual learning for image recognition" (https://arxiv.org/abs/1512.03385),
    section 4.2. It equals ``F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, n, n))`` with
    ``n = (out_channels - in_channels) // 2`` bit for bit, but it remembers where each output channel comes from, so
    that it behaves like a fixed 1x1 convolution of zeros and ones: either side loses channels without the other.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output, at least ``in_channels``; an odd difference puts one more zero channel
            after than before.
        stride: Step along both image axes.

    Attributes:
        source: ``(out_channels,)``: the input channel each output channel copies, -1 where it is zero. Not part of
            the state dict, so that weights made for other forms of this shortcut load.

    Example:
        >>> import torch
        >>> ZeroPadShortcut(2, 6, stride=2)(torch.ones(1, 2, 4, 4))[0, :, 0, 0].tolist()
        [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]
    """

    source: Tensor

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        if not 0 < in_channels <= out_channels:
            raise ValueError(f"a zero-padded shortcut cannot lead from {in_channels} to {out_channels} channels")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.stride = stride
        before = (out_channels - in_channels) // 2
        after = out_channels - in_channels - before
        self._copied = [-1] * before + list(range(in_channels)) + [-1] * after
        self.register_buffer("source", torch.tensor(self._copied), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(n, in_channels, H, W)`` to ``(n, out_channels, ceil(H / stride), ceil(W / stride))``."""
        with_zero = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, 1))
        # The remainder turns -1 into the channel of zeros just appended, which index_select can address.
        return with_zero.index_select(1, self.source % (self.in_channels + 1))

    def remove_inputs(self, channels: Iterable[int]) -> None:
        """Take away input channels; outputs that copied one of them become zero."""
        gone = set(channels)
        kept = [i for i in range(self.in_channels) if i not in gone]
        place = {old: new for new, old in enumerate(kept)}
        self.in_channels = len(kept)
        self._copy([place.get(i, -1) for i in self._copied])

    def remove_outputs(self, channels: Iterable[int]) -> None:
        """Take away output channels."""
        gone = set(channels)
        self._copy([source for output, source in enumerate(self._copied) if output not in gone])
        self.out_channels = len(self._copied)

    def as_convolution(self) -> nn.Conv2d:
        """Return the 1x1 convolution of zeros and ones that computes the same."""
        convolution = nn.Conv2d(self.in_channels, self.out_channels, 1, self.stride, bias=False)
        weight = torch.zeros_like(convolution.weight)
        for output, channel in enumerate(self._copied):
            if channel >= 0:
                weight[output, channel] = 1
        convolution.weight = nn.Parameter(weight.to(self.source.device))
        return convolution

    def _copy(self, copied: list[int]) -> None:
        self._copied = copied
        self.source = torch.tensor(copied, device=self.source.device)

    def extra_repr(self) -> str:
        """Return the arguments, as other layers print them."""
        return f"{self.in_channels}, {self.out_channels}, stride={self.stride}"
