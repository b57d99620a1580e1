"""Inverses of the second moments of features, from which features are taken one after another.

Without the features r, the inverse P of the others is ``P - P_:r P_rr^-1 P_r:``. It is kept as a matrix, or, where
features outnumber samples, by the samples: with Y the centred samples, scaled so that ``Y^T Y`` is their shrunk
covariance, and a the ridge that is added to it::

    P = (Y^T Y + a I)^-1 = (I - Y^T K Y) / a        K = (Y Y^T + a I)^-1

K has one row for each sample, and without the features r it is ``K + K Y_r (I - Y_r^T K Y_r)^-1 Y_r^T K``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from infoprune.criteria.reader_moments import mean_of
from infoprune.errors import InputError
from infoprune.regression.shrinkage import shrinkage

# Columns of change to P that are put off: one product with all of them takes hardly longer than one with each.
_LATE = 128


class DenseInverse:
    """An inverse kept as a matrix.

    Args:
        matrix: ``(F, F)`` float64. It is overwritten.

    Example:
        >>> inverse = DenseInverse(2 * torch.eye(2, dtype=torch.float64))
        >>> inverse.keep(torch.arange(2), widest=1)
        >>> root, step = inverse.take(slice(0, 1))
        >>> round((root @ root.mT).item(), 6), (step @ step.mT)[1].tolist()
        (2.0, [0.0, 0.0])
    """

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        # Columns of `late` that the matrix does not have yet.
        self.waiting = 0

    def keep(self, order: Tensor, widest: int) -> None:
        """Keep some of the features, in an order; ``widest`` is the largest number that is taken at once."""
        if not torch.equal(order, torch.arange(len(self.matrix), device=order.device)):
            self.matrix = self.matrix.index_select(0, order).index_select(1, order)
        self.late = self.matrix.new_empty(len(order), _LATE + widest)

    def blocks(self, places: Tensor) -> Tensor:
        """Return ``(n, f, f)``, the parts of P of the features in each row of ``(n, f)`` places with themselves."""
        return self.matrix[places[:, :, None], places[:, None, :]]

    def take(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Take features away, and return the Cholesky factor L of P_rr and ``P_:r L^-T``, by which P changes."""
        late = self.late[:, : self.waiting]
        root, step = _step(self.matrix[rows] - late[rows] @ late.mT, rows)
        self.late[:, self.waiting : self.waiting + step.shape[1]] = step
        self.waiting += step.shape[1]
        return root, step

    def is_settled(self) -> bool:
        """Return whether P is up to date, so that features may be left out; it is brought up to date in time."""
        if self.waiting < _LATE:
            return False
        late, self.waiting = self.late[:, : self.waiting], 0
        self.matrix.addmm_(late, late.mT, alpha=-1)
        return True


class SampledInverse:
    """An inverse of few samples of many features, drawn towards a multiple of the identity as ``inverse_of`` does.

    Args:
        samples: ``(n, F)`` float64, the features about their means.
        ridge: Relative to the mean variance of the features.

    Raises:
        InputError: The samples are not finite.

    Example:
        >>> inverse = SampledInverse(torch.eye(2, 3).double(), ridge=1e-4)
        >>> inverse.keep(torch.arange(3), widest=1)
        >>> inverse.blocks(torch.arange(3)[:, None]).flatten().round(decimals=3).tolist()
        [3.0, 3.0, 3.0]
    """

    def __init__(self, samples: Tensor, *, ridge: float) -> None:
        count, features = samples.shape
        inner = samples @ samples.mT / count
        variance = float(mean_of(samples.square().sum(dim=0) / count))
        drawn = shrinkage(features, variance, float(inner.square().sum()) / features**2, count)
        self.added = (drawn + ridge) * variance
        inner = (1 - drawn) * inner
        inner.diagonal().add_(self.added)
        factor, failed = torch.linalg.cholesky_ex(inner)
        if failed:
            raise InputError("the filters cannot be scored: the feature maps may hold values that are not finite")
        self.inner = torch.cholesky_inverse(factor)
        self.samples = ((1 - drawn) / count) ** 0.5 * samples

    def keep(self, order: Tensor, widest: int) -> None:
        """Keep some of the features, in an order."""
        self.samples = self.samples[:, order]

    def blocks(self, places: Tensor) -> Tensor:
        """Return ``(n, f, f)``, the parts of P of the features in each row of ``(n, f)`` places with themselves."""
        mine = self.samples[:, places].movedim(0, 1)
        found = mine.mT @ (self.inner @ mine)
        eye = torch.eye(places.shape[1], dtype=found.dtype, device=found.device)
        return eye.sub(found).div(self.added)

    def take(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Take features away, and return the Cholesky factor L of P_rr and ``P_:r L^-T``, by which P changes."""
        through = self.inner @ self.samples[:, rows]
        across = -through.mT @ self.samples
        across[:, rows].diagonal().add_(1)
        root, step = _step(across / self.added, rows)
        change = torch.linalg.solve_triangular(root, through.mT, upper=False)
        self.inner.addmm_(change.mT, change, alpha=1 / self.added)
        return root, step

    def is_settled(self) -> bool:
        """Return whether P is up to date, so that features may be left out."""
        return True


def _step(across: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
    root = torch.linalg.cholesky(across[:, rows])
    return root, torch.linalg.solve_triangular(root, across, upper=False).mT
