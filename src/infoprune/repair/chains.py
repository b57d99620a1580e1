"""Chains of convolutions with activation functions between them, which alternating least squares changes together.

A chain begins and ends with a convolution that reads all channels; between the two there may be convolutions of groups
of channels, as the depthwise one of an inverted residual block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infoprune.network.equivalence import duplicate
from infoprune.network.layer_io import Reading, read_all, tensors_in
from infoprune.regression.layer_fit import Site, norm_scale_of, norm_shift_of

Function = Callable[[Tensor], Tensor]

# What a layer's output may pass through on the way to the next layer, each element by itself.
FUNCTIONS: tuple[Function, ...] = (
    torch.relu,
    F.relu6,
    F.silu,
    F.hardswish,
    F.gelu,
    F.mish,
    F.elu,
    F.leaky_relu,
    partial(F.leaky_relu, negative_slope=0.1),
    partial(F.leaky_relu, negative_slope=0.2),
)
_PROBES = (1000, -1000)


@dataclass(frozen=True)
class Link:
    """What lies between two layers of a chain.

    Args:
        function: Of each element.
        padding: Zeros around the maps, as ``F.pad`` takes them; empty where there are none.

    Example:
        >>> link = Link(F.relu6, (1, 0, 1, 0))
        >>> link(torch.tensor([[[[7.0]]]])).tolist()
        [[[[0.0, 0.0], [0.0, 6.0]]]]
    """

    function: Function
    padding: tuple[int, ...] = ()

    def __call__(self, maps: Tensor) -> Tensor:
        """Return what the next layer reads."""
        return self._padded(self.function(maps))

    def slope(self, maps: Tensor) -> Tensor:
        """Return the derivative of the function at each element."""
        # As numbers: a product with booleans takes twice as long.
        if self.function is torch.relu:
            return (maps > 0).to(maps.dtype)
        if self.function is F.relu6:
            return ((maps > 0) & (maps < 6)).to(maps.dtype)
        with torch.enable_grad():
            leaf = maps.detach().requires_grad_()
            (found,) = torch.autograd.grad(self.function(leaf).sum(), leaf)
        return found

    def onwards(self, change: Tensor, slope: Tensor) -> Tensor:
        """Return how what the next layer reads changes with the maps."""
        return self._padded(change * slope)

    def back(self, change: Tensor, slope: Tensor) -> Tensor:
        """Return the wanted change of the maps, for one of what the next layer reads."""
        return self._padded(change, sign=-1) * slope

    def _padded(self, maps: Tensor, sign: int = 1) -> Tensor:
        return F.pad(maps, [sign * width for width in self.padding]) if self.padding else maps


@dataclass(frozen=True)
class Affine:
    """A convolution and the batch norm that follows it as one affine map, in the precision of its weights.

    Args:
        site: The layer.

    Example:
        >>> from infoprune.network.layer_io import Window
        >>> window = Window(kernel=(1, 1), stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1)
        >>> layer = nn.Conv2d(2, 3, 1).requires_grad_(False)
        >>> one, maps = Affine(Site("conv", layer, None, torch.arange(3), window)), torch.rand(1, 2, 4, 4)
        >>> torch.allclose(one(maps), layer(maps), atol=1e-6)
        True
    """

    site: Site

    @property
    def weight(self) -> Tensor:
        """The weight, times the scale of the norm."""
        weight: Tensor = self.site.small.weight  # type: ignore[assignment]
        scale = norm_scale_of(self.site).reshape(-1, *[1] * (weight.dim() - 1))
        return (weight.double() * scale).to(weight.dtype)

    @property
    def shift(self) -> Tensor:
        """What bias and norm add to each output, ``(O,)`` float64."""
        return norm_shift_of(self.site).flatten()

    @property
    def places(self) -> dict[str, Any]:
        """How it moves over its inputs, as keywords of ``F.conv2d``."""
        window = self.site.window
        assert window is not None
        return {
            "stride": window.stride, "padding": window.padding, "dilation": window.dilation, "groups": window.groups,
        }  # fmt: skip

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the maps after the norm."""
        return F.conv2d(inputs, self.weight, self.shift.to(inputs.dtype), **self.places)

    def linear(self, inputs: Tensor) -> Tensor:
        """Return the maps without the constant."""
        return F.conv2d(inputs, self.weight, None, **self.places)

    def transposed(self, change: Tensor, size: Sequence[int]) -> Tensor:
        """Return the transposed map of a change of the output, for inputs of a height and a width."""
        window = self.site.window
        assert window is not None
        # The transposed convolution of PyTorch takes a third of the time of the gradient of a convolution.
        steps = zip(size, change.shape[2:], window.stride, window.padding, window.dilation, window.kernel, strict=True)
        left = [n - ((m - 1) * s - 2 * p + d * (k - 1) + 1) for n, m, s, p, d, k in steps]
        return F.conv_transpose2d(change, self.weight, None, output_padding=left, **self.places)

    def state(self) -> list[Tensor]:
        """Return the parameters of layer and norm, which may be changed in place."""
        norm = self.site.norm
        owners = [self.site.small] if norm is None else [self.site.small, norm]
        return [tensor.data for owner in owners for tensor in owner.parameters()]


@dataclass(frozen=True)
class Chain:
    """Layers in a row.

    Args:
        sites: The layers, the last one included.
        links: What lies between each and the next.

    Example:
        >>> chain = Chain((), ())
        >>> chain.layers
        []
    """

    sites: tuple[Site, ...]
    links: tuple[Link, ...]

    @property
    def first(self) -> str:
        """The name of the first layer."""
        return self.sites[0].name

    @property
    def last(self) -> str:
        """The name of the last layer."""
        return self.sites[-1].name

    @property
    def layers(self) -> list[Affine]:
        """The layers as affine maps."""
        return [Affine(site) for site in self.sites]

    def onwards(self, inputs: Tensor) -> Tensor:
        """Return what the last layer reads, from what the first one reads."""
        for layer, link in zip(self.layers, self.links, strict=False):
            inputs = link(layer(inputs))
        return inputs

    def state(self) -> list[Tensor]:
        """Return the parameters of all layers, which may be changed in place."""
        return [tensor for layer in self.layers for tensor in layer.state()]


def chains_of(small: nn.Module, sites: Sequence[Site], images: Tensor) -> list[Chain]:
    """Return the chains among layers that run one after the other.

    Args:
        small: The network.
        sites: Its layers, in the order in which they run.
        images: A few images, which show what passes from layer to layer.

    Example:
        >>> from infoprune.network.layer_io import read
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU6(), nn.Conv2d(4, 4, 3, groups=4), nn.ReLU6(),
        ...                     nn.Conv2d(4, 2, 1)).eval().requires_grad_(False)
        >>> images = torch.rand(2, 1, 5, 5)
        >>> sites = [Site(name, net.get_submodule(name), None, torch.arange(len(net.get_submodule(name).weight)),
        ...               read(net, name, images).window) for name in "024"]
        >>> [[site.name for site in chain.sites] for chain in chains_of(net, sites, images)]
        [['0', '2', '4']]
    """
    names = [site.name for site in sites]
    natural = read_all(small, names, images)
    # Functions that are alike up to a bound differ on larger values.
    probes = torch.cat([images * factor for factor in _PROBES]) if images.is_floating_point() else images
    large = read_all(small, names, probes)
    begun = (_chain_at(sites[start:], natural, large) for start in range(len(sites)))
    found = [chain for chain in begun if chain is not None]
    if found and not _can_be_put_in(small, found, images):
        return [chain for chain in found if _can_be_put_in(small, [chain], images)]
    return found


def _chain_at(sites: Sequence[Site], natural: Mapping[str, Reading], large: Mapping[str, Reading]) -> Chain | None:
    """Return the chain that begins with the first of some layers, if one does."""
    row, links = [sites[0]], list[Link]()
    for following in sites[1:] if _is_plain(sites[0]) else ():
        if not _is_convolution(following):
            return None
        # What a reading has of the output may have been changed in place since.
        before = row[-1]
        pairs = [(Affine(before)(seen[before.name].inputs), seen[following.name].inputs) for seen in (natural, large)]
        link = _link_between(*pairs)
        # The last layer reads what the network may read elsewhere too, without zeros around it.
        if link is None or (_is_plain(following) and link.padding):
            return None
        row.append(following)
        links.append(link)
        if _is_plain(following):
            return Chain(tuple(row), tuple(links))
    return None


def _link_between(natural: tuple[Tensor, Tensor], large: tuple[Tensor, Tensor]) -> Link | None:
    """Return what turns the output of a layer into the input of another, if one of the known functions does.

    Args:
        natural: What the one returns and the other reads, for images.
        large: The same for large values, which decide where several functions would do.
    """
    returned, fed = natural
    if returned.dim() != 4 or returned.shape[:2] != fed.shape[:2]:
        return None
    missing = [wide - narrow for wide, narrow in zip(fed.shape[:1:-1], returned.shape[:1:-1], strict=True)]
    if min(missing) < 0:
        return None
    # An odd number of zeros may have one more on either side.
    sides = product(*({width // 2, width - width // 2} for width in missing))
    paddings = [tuple(part for before, width in zip(some, missing, strict=True) for part in (before, width - before))
                for some in sides]  # fmt: skip
    links = [Link(function, padding if any(padding) else ()) for function in FUNCTIONS for padding in paddings]
    found = [link for link in links if _are_close(link(returned), fed)]
    return next((link for link in found if _are_close(link(large[0]), large[1])), next(iter(found), None))


def _are_close(mine: Tensor, theirs: Tensor) -> bool:
    """Return whether maps are equal up to the rounding of a convolution."""
    eps = torch.finfo(mine.dtype).eps
    return torch.allclose(mine, theirs, rtol=0, atol=(100 if eps < 1e-5 else 4) * eps * float(theirs.abs().max()))


def _is_convolution(site: Site) -> bool:
    return isinstance(site.small, nn.Conv2d) and site.window is not None


def _is_plain(site: Site) -> bool:
    return _is_convolution(site) and site.window is not None and site.window.groups == 1


def _can_be_put_in(small: nn.Module, chains: Sequence[Chain], images: Tensor) -> bool:
    """Return whether changing all layers of a chain but the last equals changing what the last one reads.

    It does not where another operation uses its own copy of what such a layer returns, before or after the function.
    """
    changed, fed = duplicate(small), {}
    for name in {site.name for chain in chains for site in chain.sites[:-1]}:
        weight = changed.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        weight.mul_(1 + 0.1 * torch.arange(len(weight), device=weight.device).reshape(-1, 1, 1, 1) / len(weight))

    def note(layer: str) -> Any:
        return lambda module, arguments: fed.update({layer: arguments[0].clone()})

    def put_in(layer: str) -> Any:
        def hook(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            arguments[0].copy_(fed[layer])

        return hook

    with ExitStack() as hooks:
        for chain in chains:
            hooks.callback(changed.get_submodule(chain.last).register_forward_pre_hook(note(chain.last)).remove)
        wanted = changed(images)
    with ExitStack() as hooks:
        for chain in chains:
            hooks.callback(small.get_submodule(chain.last).register_forward_pre_hook(put_in(chain.last)).remove)
        found = small(images)
    pairs = zip(tensors_in(wanted), tensors_in(found), strict=True)
    return all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in pairs)
