"""HASTE: channels of the input that are alike are merged at run time, by hashing (Meiner et al. 2023).

arXiv 2309.17211, a reconstruction from the abstracts; no parity is claimed. A convolution is computed patch by patch of
its output. The part of the input that a patch reads is a vector for each channel. The vectors, with their mean over the
channels subtracted, are hashed by the sides of L random hyperplanes on which they lie::

    code_c = sum over l of 2^l [ <v_l, x_c - mean of x> > 0 ],    v_l of +1, 0, -1 with probability 1/6, 2/3, 1/6

Channels of one code are a bucket: their mean is convolved with the sum of their weights. That is exact where they are
equal. Codes see the direction of a vector and not its length: a channel and its double have one code, and so have many
channels where a patch reads few values, as at the border of a map whose size is no multiple of the patch. The layer
has no other weights than the convolution, and is neither trained nor calibrated. More hyperplanes mean more buckets:
less is merged, and the error is smaller.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infoprune.errors import InputError

_FORM = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "padding_mode")
# A code is one whole number.
_MOST_PLANES = 62


def hyperplanes(size: int, count: int, seed: int = 0) -> Tensor:
    """Return ``(size, count)`` sparse random normals: entries +1, 0 and -1 with probability 1/6, 2/3 and 1/6.

    Example:
        >>> planes = hyperplanes(1000, 6)
        >>> sorted(planes.unique().tolist()), 0.6 < (planes == 0).double().mean().item() < 0.73
        ([-1.0, 0.0, 1.0], True)
    """
    drawn = torch.rand(size, count, generator=torch.Generator().manual_seed(seed))
    return (drawn < 1 / 6).float() - (drawn > 5 / 6).float()


def codes(vectors: Tensor, planes: Tensor) -> Tensor:
    """Return the ``(...)`` int64 codes of ``(..., p)`` vectors: bit l is 1 on the positive side of hyperplane l.

    Example:
        >>> codes(torch.tensor([[1.0, 0.0], [-1.0, 2.0]]), torch.eye(2)).tolist()
        [1, 2]
    """
    sides = (vectors @ planes.to(vectors)) > 0
    return (sides.long() << torch.arange(planes.shape[1], device=vectors.device)).sum(dim=-1)


class HashedConv2d(nn.Conv2d):
    """A convolution that merges input channels of one code, patch by patch.

    Its weights have the names and shapes of those of the convolution.

    Args:
        layer: A convolution of one group.
        planes: L, 1 to 62; 14 for images of 32 x 32 pixels, 20 and more for larger ones.
        patch: Side of a patch of the output.
        seed: For the hyperplanes.
        merge: Whether channels are really merged, one convolution for each patch and image. That saves multiply-adds,
            and on this level takes longer than a dense convolution. Otherwise every channel is replaced by the mean of
            its bucket and the convolution is dense: the same result but for rounding.

    Attributes:
        buckets: How many buckets there were since ``reset``.
        channels: How many channels they were made of.
        patches: In how many patches.

    Raises:
        InputError: The convolution has several groups, or an option is out of range.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> layer = nn.Conv2d(4, 2, 3, padding=1)
        >>> x = torch.rand(1, 2, 8, 8).repeat(1, 2, 1, 1)  # each channel twice
        >>> hashed = HashedConv2d(layer)
        >>> bool(torch.allclose(hashed(x), layer(x), atol=1e-5)), hashed.buckets <= 2
        (True, True)
    """

    def __init__(
        self, layer: nn.Conv2d, *, planes: int = 14, patch: int = 8, seed: int = 0, merge: bool = False
    ) -> None:
        if layer.groups != 1:
            raise InputError(f"channels are merged in convolutions of one group, not of {layer.groups}")
        if isinstance(planes, bool) or not isinstance(planes, int) or not 1 <= planes <= _MOST_PLANES:
            raise InputError(f"codes are made by 1 to {_MOST_PLANES} hyperplanes, not {planes!r}")
        if isinstance(patch, bool) or not isinstance(patch, int) or patch < 1:
            raise InputError(f"a patch has a side of 1 or more, not {patch!r}")
        form: dict[str, Any] = {name: getattr(layer, name) for name in _FORM}
        super().__init__(**form, bias=layer.bias is not None, device=layer.weight.device, dtype=layer.weight.dtype)
        self.weight, self.bias = layer.weight, layer.bias
        self.planes, self.patch, self.merge = planes, patch, merge
        self.train(layer.training)
        drawn = hyperplanes(self._reads(0) * self._reads(1), planes, seed).to(layer.weight.device)
        self.register_buffer("normals", drawn, persistent=False)
        self.reset()

    normals: Tensor

    def reset(self) -> None:
        """Begin to count again."""
        self.buckets, self.channels, self.patches = 0, 0, 0

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name of nn.Conv2d
        """Map ``(n, C, H, W)`` to ``(n, O, H', W')``."""
        images = len(input)
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        # Of all forms of padding, those in numbers and 'same' too.
        padded = F.pad(input, self._reversed_padding_repeated_twice, mode=mode)
        size = [self._outputs(padded.shape[2 + axis], axis) for axis in range(2)]
        parts, counts = self._parts(padded, size)
        bucket, means = self._buckets(parts)
        result = self._merged(bucket, means) if self.merge else self._dense(bucket, means, parts.shape)
        whole = result.reshape(images, *counts, self.out_channels, self.patch, self.patch)
        whole = whole.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)[:, :, : size[0], : size[1]]
        return whole if self.bias is None else whole + self.bias[:, None, None]

    def _reads(self, axis: int) -> int:
        """Return how many positions of the padded input a patch reads along an axis."""
        return (self.patch - 1) * self.stride[axis] + self.dilation[axis] * (self.kernel_size[axis] - 1) + 1

    def _outputs(self, length: int, axis: int) -> int:
        return (length - self.dilation[axis] * (self.kernel_size[axis] - 1) - 1) // self.stride[axis] + 1

    def _parts(self, padded: Tensor, size: list[int]) -> tuple[Tensor, list[int]]:
        """Return ``(P, C, h, w)``: what each patch of the output reads, and how many patches lie along each axis."""
        counts = [-(-length // self.patch) for length in size]
        step = [self.patch * self.stride[axis] for axis in range(2)]
        needed = [(counts[axis] - 1) * step[axis] + self._reads(axis) for axis in range(2)]
        more = [max(0, needed[axis] - padded.shape[2 + axis]) for axis in range(2)]
        padded = F.pad(padded, (0, more[1], 0, more[0]))
        cut = padded.unfold(2, self._reads(0), step[0])[:, :, : counts[0]]
        cut = cut.unfold(3, self._reads(1), step[1])[:, :, :, : counts[1]]
        return cut.permute(0, 2, 3, 1, 4, 5).flatten(0, 2), counts

    def _buckets(self, parts: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(P, C)``, the bucket of each channel, patch after patch, and the ``(B, h, w)`` means of buckets."""
        vectors = parts.detach().flatten(2)
        found = codes(vectors - vectors.mean(dim=1, keepdim=True), self.normals)
        # Of one number for every pair of a patch and a code, in the order of the patches.
        _, numbers = torch.unique(found, return_inverse=True)
        places = torch.arange(len(found), device=found.device)[:, None] * (int(numbers.max()) + 1)
        kinds, bucket = torch.unique(places + numbers, return_inverse=True)
        self.buckets += len(kinds)
        self.channels += found.numel()
        self.patches += len(found)
        sums = parts.new_zeros(len(kinds), *parts.shape[2:]).index_add(0, bucket.flatten(), parts.flatten(0, 1))
        sizes = torch.bincount(bucket.flatten(), minlength=len(kinds)).to(parts.dtype)
        return bucket, sums / sizes[:, None, None]

    def _dense(self, bucket: Tensor, means: Tensor, shape: torch.Size) -> Tensor:
        return F.conv2d(means[bucket.flatten()].reshape(shape), self.weight, None, self.stride, 0, self.dilation)

    def _merged(self, bucket: Tensor, means: Tensor) -> Tensor:
        results = []
        for own in bucket:
            first, last = int(own.min()), int(own.max()) + 1
            weight = self.weight.new_zeros(self.out_channels, last - first, *self.kernel_size)
            weight = weight.index_add(1, own - first, self.weight)
            results.append(F.conv2d(means[None, first:last], weight, None, self.stride, 0, self.dilation))
        return torch.cat(results)

    def extra_repr(self) -> str:
        """Return the arguments, as other layers print them."""
        described: str = super().extra_repr()  # type: ignore[no-untyped-call]
        return f"{described}, planes={self.planes}, patch={self.patch}"
