"""What is known of a network and its calibration images: found once, then passed down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor, nn

from infoprune.data.batches import Batches, for_processor, surveyed
from infoprune.device import device_of
from infoprune.measure.figures import check_runs, latencies
from infoprune.network import equivalence, surgery
from infoprune.network.computed_weights import computed_layers, put_plain
from infoprune.network.cost import CostModel
from infoprune.network.coupled_groups import Groups, find_groups
from infoprune.network.intake import check_network
from infoprune.plan import LayerDecision, Plan


@dataclass(frozen=True)
class Calibration:
    """A network, the images that choose its filters, and what follows from both.

    Args:
        model: The network; left as it is.
        batches: Calibration images, with or without labels, iterable more than once.
        examples: ``(2, ...)`` the first images of every shape, where the network is and in its precision.
        groups: What can be removed, and why the rest cannot.
        count: Number of calibration images.

    Example:
        >>> import torch
        >>> from infoprune import zoo
        >>> Calibration.of(zoo.build("digits"), [torch.zeros(8, 1, 8, 8)]).count
        8
    """

    model: nn.Module
    batches: Batches
    examples: tuple[Tensor, ...]
    groups: Groups
    count: int

    @classmethod
    def of(cls, model: nn.Module, batches: Batches) -> Calibration:
        """Look at a network with its calibration images.

        Raises:
            InputError: There are no images, they can be read only once, the network cannot be cut or cannot read
                them, or it returns values that are not finite.

        Example:
            >>> import torch
            >>> from infoprune import zoo
            >>> found = Calibration.of(zoo.build("digits"), [torch.zeros(8, 1, 8, 8), torch.zeros(3, 1, 8, 8)])
            >>> found.count, tuple(found.example.shape), len(found.groups.groups)
            (11, (2, 1, 8, 8), 4)
        """
        check_network(model)
        examples, count = surveyed(batches, model)
        if device_of(model).type == "cpu":
            batches = for_processor(batches, examples[0])
        return cls._with(model, batches, examples, count)

    @classmethod
    def _with(cls, model: nn.Module, batches: Batches, examples: Sequence[Tensor], count: int) -> Calibration:
        for one in examples:
            check_runs(model, one)
        return cls(model, batches, tuple(examples), find_groups(model, examples), count)

    def of_network(self, model: nn.Module) -> Calibration:
        """Look at another network with the same images, which are not read again.

        Args:
            model: A network where this one is, in its precision, that reads the same images.

        Raises:
            InputError: As for ``of``.
        """
        return self._with(model, self.batches, self.examples, self.count)

    def made_plain(self) -> Calibration:
        """Look at a copy of the network with plain weights in place of computed ones, which cannot be fitted.

        Example:
            >>> import torch
            >>> from infoprune import zoo
            >>> net = zoo.build("digits").eval()
            >>> net.features[3] = nn.utils.parametrizations.weight_norm(net.features[3])
            >>> "weight" in Calibration.of(net, [torch.zeros(8, 1, 8, 8)]).made_plain().model.features[3]._parameters
            True
        """
        model = equivalence.copied(self.model)
        if self.groups.computed:
            with equivalence.exactly(self.example.device):
                put_plain(model, computed_layers(equivalence.copied(model), self.example), self.groups.computed)
        return replace(self, model=model)

    @property
    def example(self) -> Tensor:
        """``(2, ...)`` the first images."""
        return self.examples[0]

    @cached_property
    def costs(self) -> CostModel:
        """The cost of any cut of the network."""
        return CostModel(self.model, self.example, self.groups)

    def milliseconds(self, kept: Mapping[str, Sequence[int]]) -> float:
        """Return the latency of the network really cut to these filters of the named groups."""
        built = self.model
        if kept:
            filters = {group.name: group.filters for group in self.groups.groups}
            cut = Plan({name: LayerDecision(name, filters[name], tuple(some)) for name, some in kept.items()})
            built = surgery.apply(cut, self.model, self.examples, groups=self.groups, check=False)
        return latencies((built,), self.example)[0].milliseconds
