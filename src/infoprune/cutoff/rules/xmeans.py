"""X-means (Pelleg & Moore 2000): where a new cluster of the points (m, c_m) begins."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from infoprune.cutoff.rules.curve import Curve, RuleInfo, register
from infoprune.errors import InputError

Points = NDArray[np.float64]


def xmeans(curve: Curve, *, most: int = 20, seed: int = 0) -> tuple[int, ...]:
    """Return the first m of every cluster but the first one, both axes scaled to [0, 1].

    Two clusters by k-means++, then each is split in two as long as the Bayesian values criterion of its points
    rises, up to ``most`` clusters.

    Args:
        curve: c_1, c_2, ... (c_0 is no point: no filter belongs to it).
        most: Clusters at most, at least 2.
        seed: Of k-means++.

    Raises:
        InputError: ``most`` is less than 2.

    Example:
        >>> from infoprune.cutoff import Curve
        >>> xmeans(Curve((9.0, 8.9, 8.8, 0.3, 0.2, 0.1)), most=2)
        (4,)
    """
    if most < 2:
        raise InputError(f"X-means starts from two clusters: {most} are too few")
    values = np.asarray(curve.resolved_values, dtype=np.float64)
    if len(values) < 3 or np.ptp(values) == 0:
        return ()
    points = np.stack([np.linspace(0, 1, len(values)), (values - values.min()) / np.ptp(values)], axis=1)
    clusters = _split(points, seed)
    while len(clusters) < most:
        found = [(gain, i, halves) for i, one in enumerate(clusters) for gain, halves in [_gain(one, seed)]]
        gain, worst, halves = max(found, key=lambda one: (one[0], -one[1]))
        if gain <= 0:
            break
        clusters[worst : worst + 1] = halves
    starts = sorted(1 + round(float(one[:, 0].min()) * (len(values) - 1)) for one in clusters)
    return tuple(starts[1:])


def _split(points: Points, seed: int) -> list[Points]:
    from sklearn.cluster import KMeans  # type: ignore[import-untyped]

    if len(np.unique(points, axis=0)) < 2:
        return [points]
    labels = KMeans(2, init="k-means++", n_init=4, random_state=seed).fit(points).labels_
    halves = [points[labels == label] for label in (0, 1)]
    return sorted(halves, key=lambda half: float(half[:, 0].min()))


def _gain(points: Points, seed: int) -> tuple[float, list[Points]]:
    """Return by how much the criterion rises when a cluster is split, and the halves."""
    if len(points) < 4:
        return -math.inf, [points]
    halves = _split(points, seed)
    if len(halves) < 2:
        return -math.inf, [points]
    return _information(halves) - _information([points]), halves


def _information(clusters: list[Points]) -> float:
    """Return Pelleg & Moore's criterion of spherical clusters of one common variance."""
    count, dimensions, k = sum(map(len, clusters)), 2, len(clusters)
    within = sum(float(((one - one.mean(axis=0)) ** 2).sum()) for one in clusters)
    variance = max(within / (dimensions * max(count - k, 1)), np.finfo(np.float64).tiny)
    likelihood = sum(len(one) * math.log(len(one) / count) for one in clusters)
    likelihood -= count * dimensions / 2 * math.log(2 * math.pi * variance) + dimensions * (count - k) / 2
    return likelihood - k * (dimensions + 1) / 2 * math.log(count)


register(RuleInfo("xmeans", xmeans, "where a new cluster of points of the curve begins", "Pelleg & Moore 2000"))
