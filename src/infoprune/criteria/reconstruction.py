"""The criterion ``reconstruction``: what the layers that read a filter lose when it goes and they are refitted.

For every layer that reads a coupled group, with X what the network feeds it (im2col patches), G = X^T X centred, P its
inverse and Z the weight times the scale of the norm that follows, taking away the rows r of a filter costs::

    tr(Z_r^T (P_rr)^-1 Z_r)

of squared error when all other weights are fitted again. Filters are removed one after the other, always the one that
costs least; then ``Z -= P_:r P_rr^-1 Z_r`` and ``P -= P_:r P_rr^-1 P_r:`` say what the rest is worth without it. Errors
are relative to the variance of what the layer's result becomes part of, the sum of a residual block where there is one.
No labels are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn

from infoprune.criteria.base import Importance
from infoprune.criteria.inverses import DenseInverse, SampledInverse
from infoprune.criteria.reader_moments import MEMORY, ByReaders, ReaderPart, mean_square
from infoprune.criteria.whole_network import register_network_criterion
from infoprune.data.batches import Batches
from infoprune.entropy.ties import first_least, rounding
from infoprune.errors import InputError
from infoprune.network.coupled_groups import CoupledGroup
from infoprune.progress import Progress, silent
from infoprune.regression.shrinkage import shrinkage

RIDGE = 1e-4
# Share of the features that must be gone before the others are copied together.
_SPARSE = 0.2


@dataclass(frozen=True)
class _Alike:
    """Units with the same number of features in one share; their features lie one after another.

    Args:
        units: ``(n,)`` the units.
        first: The first of their features.
        blocks: ``(n, f, f)``, the part of P of each unit with itself.
    """

    units: Tensor
    first: int
    blocks: Tensor

    @property
    def rows(self) -> slice:
        """Return where their features lie."""
        return slice(self.first, self.first + self.blocks.shape[0] * self.blocks.shape[1])

    def of_each(self, values: Tensor) -> Tensor:
        """Return ``(n, f, ...)``, the rows of each unit, without a copy."""
        return values[self.rows].view(*self.blocks.shape[:2], -1)


class Share:
    """One group of channels of one reading layer: the error that each unit of a coupled group causes there.

    Args:
        inverse: P, or the ``(F, F)`` float64 matrix, which is overwritten.
        weights: ``(F, O)`` float64, Z.
        rows: By unit, which of the F features are its own.
        worth: By which squared errors are divided.

    Example:
        >>> eye = torch.eye(2, dtype=torch.float64)
        >>> share = Share(eye, torch.tensor([[2.0], [1.0]]).double(), [torch.tensor([0]), torch.tensor([1])], worth=1.0)
        >>> share.costs().tolist()
        [4.0, 1.0]
    """

    def __init__(self, inverse: Tensor | SampledInverse, weights: Tensor, rows: Sequence[Tensor], worth: float) -> None:
        self.worth, self.units = worth, len(rows)
        self.inverse = DenseInverse(inverse) if isinstance(inverse, Tensor) else inverse
        self._arrange(weights, [(unit, mine) for unit, mine in enumerate(rows) if len(mine)])

    def costs(self) -> Tensor:
        """Return ``(U,)``: what each unit costs now, zero for units without features here."""
        found = torch.zeros(self.units, dtype=torch.float64)
        for some in self.alike:
            weights = some.of_each(self.weights)
            spent = torch.linalg.solve(some.blocks, weights @ weights.mT).diagonal(dim1=1, dim2=2).sum(dim=1)
            found[some.units] = (spent / self.worth).cpu()
        return found

    def take(self, unit: int) -> None:
        """Fit the rest again without a unit."""
        if unit not in self.rows:
            return
        rows = self.rows.pop(unit)
        root, step = self.inverse.take(rows)
        taken = torch.linalg.solve_triangular(root, self.weights[rows], upper=False)
        self.weights.addmm_(step, taken, alpha=-1)
        self.weights[rows] = 0
        for some in self.alike:
            each = some.of_each(step)
            some.blocks.baddbmm_(each, each.mT, alpha=-1)
            # What is left of its own block is rounding; its weights are zero, so it costs nothing.
            some.blocks[some.units == unit] = torch.eye(some.blocks.shape[1], dtype=step.dtype, device=step.device)
        if self.inverse.is_settled():
            self._leave_out()

    def _leave_out(self) -> None:
        """Leave out the units that were taken, once there are many."""
        left = sum(rows.stop - rows.start for rows in self.rows.values())
        if 0 < left <= (1 - _SPARSE) * len(self.weights):
            device = self.weights.device
            mine = [torch.arange(rows.start, rows.stop, device=device) for rows in self.rows.values()]
            self._arrange(self.weights, list(zip(self.rows, mine, strict=True)))

    def _arrange(self, weights: Tensor, rows: Sequence[tuple[int, Tensor]]) -> None:
        """Order the features by unit, units with equally many features together; those of no unit are left out."""
        ordered = sorted(rows, key=lambda one: len(one[1]))
        order = torch.cat([mine for _, mine in ordered]) if ordered else torch.arange(0, device=weights.device)
        self.weights = weights[order]
        self.inverse.keep(order, widest=max((len(mine) for _, mine in rows), default=0))
        self.rows: dict[int, slice] = {}
        self.alike: list[_Alike] = []
        first = 0
        for size, some in groupby(ordered, key=lambda one: len(one[1])):
            units = [unit for unit, _ in some]
            places = first + torch.arange(len(units) * size, device=order.device).reshape(len(units), size)
            self.alike.append(_Alike(torch.tensor(units), first, self.inverse.blocks(places)))
            self.rows |= {unit: slice(first + n * size, first + (n + 1) * size) for n, unit in enumerate(units)}
            first += len(units) * size


def eliminate(shares: Sequence[Share], units: int) -> Iterator[tuple[int, float]]:
    """Yield the units in the order in which they go, each with what it costs at that moment; of ties the last.

    Costs tie within what they may be out by: the rounding of the features, single precision, as a share of the least,
    and that of the normal equations as a share of the largest.

    Example:
        >>> eye = torch.eye(2, dtype=torch.float64)
        >>> share = Share(eye, torch.tensor([[2.0], [1.0]]).double(), [torch.tensor([0]), torch.tensor([1])], worth=1.0)
        >>> list(eliminate([share], units=2))
        [(1, 1.0), (0, 4.0)]
    """
    features = max((len(share.weights) for share in shares), default=1)
    gone = torch.zeros(units, dtype=torch.bool)
    for left in range(units, 0, -1):
        costs = torch.stack([share.costs() for share in shares]).sum(dim=0).masked_fill(gone, torch.inf)
        bound = rounding(torch.float32, 1) * float(costs.min())
        bound += rounding(torch.float64, features) * float(costs[~gone].max())
        unit = units - 1 - first_least(costs.flip(0), bound)
        yield unit, costs[unit].item()
        gone[unit] = True
        for share in shares if left > 1 else ():
            share.take(unit)


@torch.no_grad()
def reconstruction(
    model: nn.Module,
    groups: Sequence[CoupledGroup],
    batches: Batches,
    *,
    ridge: float = RIDGE,
    memory: int = MEMORY,
    progress: Progress = silent,
) -> dict[str, Importance]:
    """Return the importance of the filters of every coupled group, by backward elimination.

    Args:
        model: The network; left as it is.
        groups: What to score.
        batches: Images, with or without labels, iterable more than once.
        ridge: Added to G, relative to its mean diagonal, beside what so few images ask for.
        memory: Bytes of second moments held at once; more layers than fit take more passes.
        progress: Called after every batch and every group.

    Returns:
        By the names of the groups, in their order: scores are relative squared errors, never less than those of filters
        that went earlier.

    Raises:
        InputError: A group is read by no convolution or linear layer, or there are no images.

    Example:
        >>> import infoprune
        >>> from infoprune.network.coupled_groups import find_groups
        >>> _ = torch.manual_seed(0)
        >>> net, images = infoprune.zoo.build("digits").eval(), torch.rand(16, 1, 8, 8)
        >>> found = reconstruction(net, find_groups(net, images).groups[:1], [images])
        >>> found["features.0"].scores.shape
        torch.Size([16])
    """

    def eliminated(group: CoupledGroup, parts: Sequence[ReaderPart]) -> Importance:
        return _importance(group, eliminate([_share_of(part, ridge) for part in parts], len(group.units)))

    of = ByReaders("reconstruction", "backward elimination", memory)
    return of.score(model, groups, batches, eliminated, progress)


def _share_of(part: ReaderPart, ridge: float) -> Share:
    inverse = (
        inverse_of(part.covariance(), part.count, ridge, part.error)
        if part.samples is None
        else SampledInverse(part.samples, ridge=ridge)
    )
    return Share(inverse, part.weights, part.rows, part.worth)


def _importance(group: CoupledGroup, gone: Iterable[tuple[int, float]]) -> Importance:
    scores = torch.zeros(group.filters, dtype=torch.float64)
    order: list[int] = []
    most = 0.0
    for unit, cost in gone:
        most = max(most, cost)
        for filter_ in group.units[unit]:
            scores[filter_] = most
        order = [*group.units[unit], *order]
    return Importance(scores, tuple(order))


def inverse_of(gram: Tensor, count: int, ridge: float = RIDGE, error: float | None = None) -> Tensor:
    """Return the inverse of ``(F, F)`` second moments of ``count`` samples, drawn towards a multiple of the identity.

    By as much as so few samples ask for (:func:`~infoprune.regression.shrinkage.shrinkage`), and by ``ridge``, relative
    to the mean diagonal. The ridge grows by tens where rounding makes the matrix indefinite, as for maps that hardly
    depend on the image.

    Raises:
        InputError: The moments are not finite.

    Example:
        >>> inverse_of(torch.eye(2, dtype=torch.float64), count=10**6, ridge=0.0).round(decimals=6).abs().tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    features, size = len(gram), mean_square(gram)
    drawn = shrinkage(features, float(size), float(torch.linalg.vector_norm(gram).square()) / features**2, count, error)
    added = (drawn + ridge) * size
    for _ in range(30):
        ridged = (1 - drawn) * gram
        ridged.diagonal().add_(added)
        factor, failed = torch.linalg.cholesky_ex(ridged)
        if not failed:
            # By rows, which are copied faster; it is symmetric.
            return torch.cholesky_inverse(factor).mT
        added = 10 * added
    raise InputError("the filters cannot be scored: the feature maps may hold values that are not finite")


register_network_criterion(
    "reconstruction",
    reconstruction,
    "error of the next layers when the filter is removed and they are refitted by least squares",
    images=None,
    cost="filters x (features of the reading layer)^2",
)
