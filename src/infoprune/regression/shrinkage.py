"""How far second moments of few samples are drawn towards a multiple of the identity."""

from __future__ import annotations


def shrinkage(features: int, size: float, spread: float, count: int) -> float:
    """Return the share of the identity that so few samples ask for (oracle approximating shrinkage).

    Chen et al. 2010, arXiv 0907.4698, equation 23. Where features outnumber samples, each could be computed exactly
    from the others on those samples, and all of them would look free to go.

    Args:
        features: Their number.
        size: Mean of their variances.
        spread: Mean of the squares of all their covariances.
        count: Number of samples.

    Returns:
        From 0, for many samples, to 1.

    Example:
        >>> shrinkage(2, size=1.0, spread=1.0, count=10**9) < 1e-8, shrinkage(2, size=1.0, spread=0.5, count=10)
        (True, 1.0)
    """
    apart = (count + 1) * (spread - size**2 / features)
    return min(1.0, (spread + size**2) / apart) if apart > 0 else 1.0
