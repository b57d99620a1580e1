"""TAILOR: sets of filters that keep the next layer's maps apart (Han et al. 2024, Information Sciences).

A reconstruction from the abstract; the search is this project's choice and no parity is claimed. Random sets S of k
filters of a layer are drawn. With all other filters at zero, the maps of a layer that reads them are compared::

    D(S) = mean over images and pairs of its channels i, j of 1 - cos(map_i, map_j)

Of all sets drawn so far the best quarter votes: the share of them that holds a filter is its score. The next sets are
drawn by these scores, for a few generations. Readers of one position, such as classifiers, are compared by their
results over the images. Over several readers D is the mean. No labels are read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from infoprune.criteria.base import Importance
from infoprune.criteria.weights import cosines
from infoprune.criteria.whole_network import register_network_criterion
from infoprune.data.batches import Batches, images_of
from infoprune.entropy.ties import bound_of_maps, ranking
from infoprune.errors import InputError
from infoprune.network.coupled_groups import CoupledGroup, Member
from infoprune.network.equivalence import copied
from infoprune.network.layers import channel_axis, is_producer
from infoprune.progress import Progress, silent

# Every filter can still be drawn in a later generation, if seldom.
_LEAST = 0.05


@torch.no_grad()
def distinction(
    model: nn.Module,
    groups: Sequence[CoupledGroup],
    batches: Batches,
    *,
    share: float = 0.5,
    sets: int = 64,
    generations: int = 3,
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, Importance]:
    """Return the importance of the filters of every coupled group.

    Args:
        model: The network; left as it is.
        groups: What to score.
        batches: Images.
        share: Of the filters, how many a set holds, above 0 and below 1.
        sets: How many are drawn in each generation, 4 or more.
        generations: 1 or more.
        seed: For the sets.
        progress: Called after every group.

    Returns:
        By the names of the groups; scores are shares of the best sets, 0 to 1. The evidence holds ``distinction``, D of
        every set in the order in which they were drawn, and ``sets``, which filters each holds.

    Raises:
        InputError: An option is out of range, or a group is read by no convolution or linear layer.

    Example:
        >>> import infoprune
        >>> from infoprune.network.coupled_groups import find_groups
        >>> _ = torch.manual_seed(0)
        >>> net, images = infoprune.zoo.build("digits").eval(), torch.rand(8, 1, 8, 8)
        >>> found = distinction(net, find_groups(net, images).groups[:1], [images], sets=8, generations=1)
        >>> found["features.0"].scores.sum().item()  # of 16 filters each set holds 8
        8.0
    """
    if not 0 < share < 1:
        raise InputError(f"a set of the criterion 'distinction' holds a share above 0 and below 1, not {share}")
    for name, value, least in (("sets", sets, 4), ("generations", generations, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"the criterion 'distinction' takes {name} of {least} or more, not {value!r}")
    model = copied(model)
    images = list(images_of(batches, model))
    found = {}
    for done, group in enumerate(groups, 1):
        inputs = _inputs_of_readers(model, group, images)
        readers = [(model.get_submodule(member.layer), member, torch.cat(inputs[member.layer]))
                   for member in _readers(model, group)]  # fmt: skip
        size = max(1, round(share * len(group.units)))
        generator = torch.Generator().manual_seed(seed)
        worth_of = partial(_mean_distinction, readers, group)
        drawn, worth = search(len(group.units), size, sets, generations, generator, worth_of)
        scores = torch.zeros(group.filters, dtype=torch.float64)
        holds = torch.zeros(len(drawn), group.filters, dtype=torch.bool)
        for place, (unit, vote) in enumerate(zip(group.units, votes(drawn, worth).tolist(), strict=True)):
            scores[list(unit)] = vote
            holds[:, list(unit)] = drawn[:, place, None]
        found[group.name] = Importance(scores, evidence={"distinction": worth, "sets": holds})
        progress("sets of filters", done, len(groups))
    return found


def search(
    units: int,
    size: int,
    sets: int,
    generations: int,
    generator: torch.Generator,
    worth: Callable[[Tensor], float],
) -> tuple[Tensor, Tensor]:
    """Draw sets at random, then by the votes of the best so far, and return all of them with their worths.

    Args:
        units: How many there are.
        size: How many each set holds.
        sets: How many sets a generation has.
        generations: How many.
        generator: For the sets.
        worth: From ``(units,)`` booleans to a number; more is better.

    Returns:
        ``(sets * generations, units)`` booleans and ``(sets * generations,)`` float64.

    Example:
        >>> drawn, found = search(4, 2, 8, 2, torch.Generator().manual_seed(0), lambda kept: float(kept[3]))
        >>> drawn.shape, drawn.sum(1).unique().tolist()
        (torch.Size([16, 4]), [2])
    """
    drawn = torch.zeros(0, units, dtype=torch.bool)
    found = torch.zeros(0, dtype=torch.float64)
    chances = torch.ones(units, dtype=torch.float64)
    for _ in range(generations):
        # Keys whose order is a draw without replacement by these chances (Efraimidis and Spirakis 2006).
        keys = torch.rand(sets, units, generator=generator, dtype=torch.float64).log() / chances
        fresh = torch.zeros(sets, units, dtype=torch.bool)
        fresh.scatter_(1, keys.sort(dim=1, descending=True, stable=True).indices[:, :size], value=True)
        drawn = torch.cat([drawn, fresh])
        found = torch.cat([found, torch.tensor([worth(kept) for kept in fresh], dtype=torch.float64)])
        chances = votes(drawn, found) + _LEAST
    return drawn, found


def votes(drawn: Tensor, worth: Tensor) -> Tensor:
    """Return the share of the best quarter of some sets that holds each unit, ``(units,)``.

    Example:
        >>> drawn = torch.tensor([[True, False], [False, True], [False, True], [False, True]])
        >>> votes(drawn, torch.tensor([0.9, 0.1, 0.2, 0.3])).tolist()
        [1.0, 0.0]
    """
    best = ranking(worth, bound_of_maps(worth))[: max(1, len(worth) // 4)]
    return drawn[best].double().mean(dim=0)


def distinction_of(maps: Tensor) -> float:
    """Return the mean over images and pairs of channels of 1 - the cosine of their maps.

    Args:
        maps: ``(n, O, D)``; where D is 1, ``(n, O)`` results are compared over the images.

    Example:
        >>> distinction_of(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])), distinction_of(torch.tensor([[[1.0, 0], [2, 0]]]))
        (1.0, 0.0)
    """
    rows = maps.double() if maps.shape[2] > 1 else maps[:, :, 0].double().T[None]
    channels = rows.shape[1]
    if channels < 2:
        return 0.0
    # Where both maps are zero they are the same; the diagonal is no pair.
    alike = cosines(rows) + ((rows == 0).all(2)[:, :, None] & (rows == 0).all(2)[:, None])
    apart = (1 - alike).sum(dim=(1, 2)) - (1 - alike.diagonal(dim1=1, dim2=2)).sum(dim=1)
    return float(apart.mean()) / (channels * (channels - 1))


def _readers(model: nn.Module, group: CoupledGroup) -> list[Member]:
    readers = [one for one in group.members if one.side == "in" and is_producer(model.get_submodule(one.layer))]
    if not readers:
        raise InputError(
            f"layer '{group.name}' is read by no convolution or linear layer: 'distinction' cannot score it"
        )
    return readers


def _inputs_of_readers(model: nn.Module, group: CoupledGroup, images: Sequence[Tensor]) -> dict[str, list[Tensor]]:
    kept: dict[str, list[Tensor]] = {member.layer: [] for member in _readers(model, group)}

    def keep(layer: str) -> Callable[..., None]:
        return lambda module, inputs: kept[layer].append(inputs[0].clone())  # the network may change it in place

    hooks = [model.get_submodule(layer).register_forward_pre_hook(keep(layer)) for layer in kept]
    try:
        for some in images:
            model(some)
    finally:
        for hook in hooks:
            hook.remove()
    return kept


def _mean_distinction(readers: Sequence[tuple[nn.Module, Member, Tensor]], group: CoupledGroup, kept: Tensor) -> float:
    gone = [filter_ for place, unit in enumerate(group.units) if not kept[place] for filter_ in unit]
    return sum(_distinction_at(module, member, inputs, gone) for module, member, inputs in readers) / len(readers)


def _distinction_at(module: Any, member: Member, inputs: Tensor, gone: Sequence[int]) -> float:
    axis = channel_axis(module)
    channels = member.channels_of(gone)
    held = inputs.index_fill(axis, torch.tensor(channels, dtype=torch.int64, device=inputs.device), 0.0)
    result = module(held).movedim(axis, 1)
    return distinction_of(result.reshape(*result.shape[:2], -1).cpu())


register_network_criterion(
    "distinction",
    distinction,
    "share of the sets of filters that keep the next layer's maps apart (reconstruction)",
    paper="Han et al. 2024, Information Sciences",
    images=32,
    cost="per coupled group one forward pass of 32 images, and its readers on them 192 times",
)
