"""How far second moments of few samples are drawn towards a multiple of the identity."""

from __future__ import annotations


def shrinkage(features: int, size: float, spread: float, count: int, error: float | None = None) -> float:
    """Return the share of the identity that so few samples ask for.

    Of independent samples it is that of oracle approximating shrinkage (Chen et al. 2010, arXiv 0907.4698, equation
    23). Positions of an image are not independent: where the error of the moments was measured, the share that brings
    them nearest to the true ones is known without a model (Ledoit and Wolf 2004, Journal of Multivariate Analysis 88),
    and counts if it is larger. Where features outnumber samples, each could be computed exactly from the others on
    those samples, and all of them would look free to go.

    Args:
        features: Their number.
        size: Mean of their variances.
        spread: Mean of the squares of all their covariances.
        count: Number of samples.
        error: The expected squared Frobenius distance of the moments from the true ones.

    Returns:
        From 0, for many samples, to 1.

    Example:
        >>> shrinkage(2, size=1.0, spread=1.0, count=10**9) < 1e-8, shrinkage(2, size=1.0, spread=0.5, count=10)
        (True, 1.0)
    """
    apart = spread - size**2 / features
    if apart <= 0:
        return 1.0
    # Of all pairs of features together, as the spread.
    measured = 0.0 if error is None else error / features**2
    return min(1.0, max((spread + size**2) / (count + 1), measured) / apart)
