"""What the rows of a board say together: means and ranks over seeds, and how far criteria agree."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from scipy.stats import rankdata, spearmanr, t  # type: ignore[import-untyped]

from infoprune.board.rows import Board, Row, Scored
from infoprune.criteria.base import Importance

CONFIDENCE = 0.95
TUNED = "tuned"
# Two standard deviations, as usual.
_NORMAL = 1.96


@dataclass(frozen=True)
class Mean:
    """A mean over seeds.

    Args:
        value: The mean.
        interval: Half the width of the 95 % interval of Student's t; ``None`` where there is one seed.

    Example:
        >>> Mean(91.5, 0.4).text()
        '91.50 ± 0.4'
    """

    value: float
    interval: float | None = None

    def text(self) -> str:
        """Return it as people write it."""
        spread = "" if self.interval is None else f" ± {self.interval:.1f}"
        return f"{self.value:.2f}{spread}"


@dataclass(frozen=True)
class Rank:
    """The ranks of a criterion over the seeds.

    Three ranks have no interval of Student's t that a reader can use: it reaches past the first and the last place.

    Args:
        value: Their mean, 1 for the best.
        best: The best of them.
        worst: The worst of them.

    Example:
        >>> Rank(4.5, 3.0, 6.0).text(), Rank(2.0, 2.0, 2.0).text()
        ('4.5 (3-6)', '2.0')
    """

    value: float
    best: float
    worst: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Rank:
        """Return the mean, the best and the worst of some ranks, at least one."""
        return cls(statistics.fmean(values), min(values), max(values))

    def text(self) -> str:
        """Return it as people write it."""
        spread = "" if self.best == self.worst else f" ({self.best:g}-{self.worst:g})"
        return f"{self.value:.1f}{spread}"


def mean_of(values: Iterable[float]) -> Mean | None:
    """Return the mean of some values with its interval, ``None`` of none.

    Example:
        >>> mean_of([90.0, 91.0, 92.0]).text()
        '91.00 ± 2.5'
    """
    some = list(values)
    if not some:
        return None
    if len(some) == 1:
        return Mean(some[0])
    width = float(t.ppf((1 + CONFIDENCE) / 2, len(some) - 1)) * statistics.stdev(some) / math.sqrt(len(some))
    return Mean(statistics.fmean(some), width)


@dataclass(frozen=True)
class View:
    """One budget, shared out in one way.

    Example:
        >>> View("uniform", 0.5).budget
        0.5
    """

    sharing: str
    budget: float

    def text(self) -> str:
        """Return it in words.

        Example:
            >>> View("uniform", 0.5).text()
            '50 % of the MACs, uniform'
        """
        return f"{100 * self.budget:.4g} % of the MACs, {self.sharing}"


@dataclass(frozen=True)
class Line:
    """One criterion in one view.

    Args:
        criterion: The criterion.
        accuracy: By stage, the accuracy in percent.
        rank: By stage, the rank among all criteria, 1 for the best.
        macs: Multiply-adds for one image.
        parameters: Number of parameters.
        latency_ms: Milliseconds of one image.
        dead: Kept filters that are constant.
        seconds: Wall time of scoring.
        passes: The same in forward passes over the images.
        memory_mib: Peak of memory of scoring.
        reason: Why nothing was measured.

    Example:
        >>> Line("l1", macs=500.0).criterion
        'l1'
    """

    criterion: str
    accuracy: Mapping[str, Mean] = field(default_factory=dict)
    rank: Mapping[str, Rank] = field(default_factory=dict)
    macs: float | None = None
    parameters: float | None = None
    latency_ms: float | None = None
    dead: float | None = None
    seconds: float | None = None
    passes: float | None = None
    memory_mib: float | None = None
    reason: str = ""


def views_of(board: Board) -> list[View]:
    """Return the budgets and ways to share them out, in the order of the rows.

    Example:
        >>> from infoprune.board.rows import Reference
        >>> rows = [Row(name, seed, "uniform", 0.5, "none", accuracy=value, macs=500, parameters=50)
        ...         for name, values in {"l1": (90.0, 92.0), "random": (80.0, 85.0)}.items()
        ...         for seed, value in enumerate(values)]
        >>> board = Board(Reference(93.0, 0.3, 10_000, 1000, 100, 5.0, {"conv1": 1}), (), tuple(rows))
        >>> views_of(board)
        [View(sharing='uniform', budget=0.5)]
    """
    return list(dict.fromkeys(View(row.sharing, row.budget) for row in board.rows))


def stages_of(board: Board) -> list[str]:
    """Return the repairs, and for each the fine-tuning after it where there was any, such as ``"bn, tuned"``.

    Example:
        >>> from infoprune.board.rows import Reference
        >>> rows = (Row("l1", 0, "uniform", 0.5, "bn", accuracy=90.0, tuned=91.0),)
        >>> stages_of(Board(Reference(93.0, 0.3, 100, 10, 10, 1.0, {}), (), rows))
        ['bn', 'bn, tuned']
    """
    repairs = list(dict.fromkeys(row.repair for row in board.rows))
    tuned = {row.repair for row in board.rows if row.tuned is not None}
    return [*repairs, *(f"{repair}, {TUNED}" for repair in repairs if repair in tuned)]


def accuracy_at(row: Row, stage: str) -> float | None:
    """Return the accuracy of a row at a stage, ``None`` where the row is of another stage.

    Example:
        >>> accuracy_at(Row("l1", 0, "uniform", 0.5, "bn", accuracy=91.0), "bn")
        91.0
    """
    if stage == row.repair:
        return row.accuracy
    return row.tuned if stage == f"{row.repair}, {TUNED}" else None


def accuracies(board: Board, view: View, stage: str) -> dict[str, dict[int, float]]:
    """Return the accuracy by criterion and seed.

    Example:
        >>> from infoprune.board.rows import Reference
        >>> rows = [Row(name, seed, "uniform", 0.5, "none", accuracy=value, macs=500, parameters=50)
        ...         for name, values in {"l1": (90.0, 92.0), "random": (80.0, 85.0)}.items()
        ...         for seed, value in enumerate(values)]
        >>> board = Board(Reference(93.0, 0.3, 10_000, 1000, 100, 5.0, {"conv1": 1}), (), tuple(rows))
        >>> accuracies(board, View("uniform", 0.5), "none")["l1"]
        {0: 90.0, 1: 92.0}
    """
    found: dict[str, dict[int, float]] = {}
    for row in board.rows:
        value = accuracy_at(row, stage)
        if value is not None and View(row.sharing, row.budget) == view:
            found.setdefault(row.criterion, {})[row.seed] = value
    return found


def ranks(board: Board, view: View, stage: str) -> dict[str, list[float]]:
    """Return the ranks of every criterion, one for each seed that all of them have; ties share the mean rank.

    Example:
        >>> from infoprune.board.rows import Reference
        >>> rows = [Row(name, seed, "uniform", 0.5, "none", accuracy=value, macs=500, parameters=50)
        ...         for name, values in {"l1": (90.0, 92.0), "random": (80.0, 85.0)}.items()
        ...         for seed, value in enumerate(values)]
        >>> board = Board(Reference(93.0, 0.3, 10_000, 1000, 100, 5.0, {"conv1": 1}), (), tuple(rows))
        >>> ranks(board, View("uniform", 0.5), "none")
        {'l1': [1.0, 1.0], 'random': [2.0, 2.0]}
    """
    by_criterion = accuracies(board, view, stage)
    if not by_criterion:
        return {}
    common = sorted(set.intersection(*(set(by_seed) for by_seed in by_criterion.values())))
    found: dict[str, list[float]] = {name: [] for name in by_criterion}
    for seed in common:
        order = rankdata([-by_seed[seed] for by_seed in by_criterion.values()])
        for name, rank in zip(by_criterion, order, strict=True):
            found[name].append(float(rank))
    return found


def lines(board: Board, view: View) -> list[Line]:
    """Return the criteria of one view, the best at the last stage first, those that could not run last.

    Example:
        >>> from infoprune.board.rows import Reference
        >>> rows = [Row(name, seed, "uniform", 0.5, "none", accuracy=value, macs=500, parameters=50)
        ...         for name, values in {"l1": (90.0, 92.0), "random": (80.0, 85.0)}.items()
        ...         for seed, value in enumerate(values)]
        >>> board = Board(Reference(93.0, 0.3, 10_000, 1000, 100, 5.0, {"conv1": 1}), (), tuple(rows))
        >>> [line.criterion for line in lines(board, View("uniform", 0.5))]
        ['l1', 'random']
    """
    stages = stages_of(board)
    accuracy = {stage: accuracies(board, view, stage) for stage in stages}
    ranked = {stage: ranks(board, view, stage) for stage in stages}
    names = dict.fromkeys(row.criterion for row in board.rows)
    found = [_line(board, view, name, accuracy, ranked) for name in names]
    last = stages[-1]

    def place(line: Line) -> tuple[bool, float]:
        return last not in line.accuracy, -line.accuracy[last].value if last in line.accuracy else 0.0

    return sorted(found, key=place)


def _line(
    board: Board,
    view: View,
    name: str,
    accuracy: Mapping[str, Mapping[str, Mapping[int, float]]],
    ranked: Mapping[str, Mapping[str, Sequence[float]]],
) -> Line:
    rows = [row for row in board.rows if row.criterion == name and View(row.sharing, row.budget) == view]
    scores = [one for one in board.scored if one.criterion == name and not one.reason]
    reasons = [row.reason for row in rows if row.reason]
    means = {stage: mean_of(found[name].values()) for stage, found in accuracy.items() if name in found}
    places = {stage: Rank.of(found[name]) for stage, found in ranked.items() if found.get(name)}
    return Line(
        name,
        {stage: mean for stage, mean in means.items() if mean is not None},
        places,
        _average(row.macs for row in rows),
        _average(row.parameters for row in rows),
        _average(row.latency_ms for row in rows),
        _average(row.dead_filters for row in rows),
        _average(one.seconds for one in scores),
        _average(one.passes for one in scores),
        _average(one.memory_mib for one in scores),
        reasons[0] if reasons else "",
    )


def _average(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


@dataclass(frozen=True)
class Difference:
    """How far a criterion is from a baseline, in points of accuracy.

    Args:
        points: Mean over the seeds of the difference.
        noise: What the difference must exceed: the interval over seeds and the sampling of the test images together.

    Example:
        >>> Difference(3.0, 2.0).verdict, Difference(-1.0, 2.0).verdict
        ('better', 'within the noise')
    """

    points: float
    noise: float

    @property
    def verdict(self) -> str:
        """``"better"``, ``"worse"`` or ``"within the noise"``."""
        if abs(self.points) <= self.noise:
            return "within the noise"
        return "better" if self.points > 0 else "worse"


def against(board: Board, view: View, stage: str, baseline: str) -> dict[str, Difference]:
    """Return how far every criterion is from a baseline, seed by seed.

    The noise is the root of the sum of two squares: the 95 % interval of the paired differences over the seeds, where
    there are several; and two standard errors of the difference of two accuracies on that number of test images, taken
    as independent, which they are not: the bound is on the safe side.

    Example:
        >>> from infoprune.board.rows import Reference
        >>> rows = [Row(name, seed, "uniform", 0.5, "none", accuracy=value, macs=500, parameters=50)
        ...         for name, values in {"l1": (90.0, 92.0), "random": (80.0, 85.0)}.items()
        ...         for seed, value in enumerate(values)]
        >>> board = Board(Reference(93.0, 0.3, 10_000, 1000, 100, 5.0, {"conv1": 1}), (), tuple(rows))
        >>> against(board, View("uniform", 0.5), "none", "random")["l1"].points
        8.5
    """
    found = accuracies(board, view, stage)
    ours = found.pop(baseline, {})
    differences = {}
    for name, by_seed in found.items():
        seeds = sorted(by_seed.keys() & ours.keys())
        mean = mean_of(by_seed[seed] - ours[seed] for seed in seeds)
        if mean is None:
            continue
        errors = [_variance(some[seed], board.base.images) for some in (by_seed, ours) for seed in seeds]
        sampling = _NORMAL * math.sqrt(sum(errors) / len(seeds))
        differences[name] = Difference(mean.value, math.hypot(mean.interval or 0.0, sampling))
    return differences


def _variance(percent: float, images: int) -> float:
    return percent * (100 - percent) / images


def rank_correlation(scored: Sequence[Scored], layers: Iterable[str] | None = None) -> tuple[list[str], np.ndarray]:
    """Return how far criteria order the filters of a layer alike: Spearman's correlation, averaged.

    Args:
        scored: What every criterion made of every sample.
        layers: The layers to average over; by default all.

    Returns:
        The criteria, and ``(n, n)`` float64: the mean over layers and seeds; NaN where two criteria share none in which
        both distinguish filters.

    Example:
        >>> import torch
        >>> up, down = torch.arange(4.0), -torch.arange(4.0)
        >>> some = [Scored("a", 0, {"conv": Importance(up)}), Scored("b", 0, {"conv": Importance(down)})]
        >>> rank_correlation(some)[1].tolist()
        [[1.0, -1.0], [-1.0, 1.0]]
    """
    wanted = None if layers is None else set(layers)
    names = list(dict.fromkeys(one.criterion for one in scored if not one.reason))
    total, count = np.zeros((len(names), len(names))), np.zeros((len(names), len(names)))
    keys = dict.fromkeys((one.seed, layer) for one in scored for layer in one.importances)
    for seed, layer in keys:
        if wanted is not None and layer not in wanted:
            continue
        here = {one.criterion: places(one.importances[layer]) for one in scored
                if one.seed == seed and layer in one.importances}  # fmt: skip
        there = [name for name, ranked in here.items() if len(set(ranked)) > 1]
        if len(there) < 2:
            continue
        found = np.atleast_2d(_spearman(np.array([here[name] for name in there])))
        index = np.ix_([names.index(name) for name in there], [names.index(name) for name in there])
        total[index] += found
        count[index] += 1
    with np.errstate(invalid="ignore"):
        return names, np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _spearman(ranked: np.ndarray) -> np.ndarray:
    found = np.asarray(spearmanr(ranked, axis=1).statistic)
    return np.array([[1.0, found], [found, 1.0]]) if found.ndim == 0 else found


def places(importance: Importance) -> list[float]:
    """Return the rank of every filter, larger for more important ones; equal scores share a rank.

    Where a criterion orders filters otherwise than by its scores, its order counts.

    Example:
        >>> import torch
        >>> places(Importance(torch.tensor([0.5, 2.0, 0.5])))
        [1.5, 3.0, 1.5]
    """
    scores = importance.scores.tolist()
    in_order = [scores[filter_] for filter_ in importance.order]
    if all(before >= after for before, after in pairwise(in_order)):
        return [float(rank) for rank in rankdata(scores)]
    found = [0.0] * len(scores)
    for place, filter_ in enumerate(importance.order):
        found[filter_] = float(len(scores) - place)
    return found


@dataclass(frozen=True)
class Verdicts:
    """In how many views a criterion is better, worse or within the noise of a baseline, at one stage.

    Example:
        >>> Verdicts(2, 1, 3).text()
        'better in 2, worse in 1 of 6'
    """

    better: int = 0
    worse: int = 0
    noise: int = 0

    def text(self) -> str:
        """Return it in words."""
        every = self.better + self.worse + self.noise
        said = [f"{word} in {count}" for word, count in (("better", self.better), ("worse", self.worse)) if count]
        return f"{', '.join(said)} of {every}" if said else f"within the noise in {every} of {every}"


def verdicts(board: Board, stage: str, baseline: str) -> dict[str, Verdicts]:
    """Return for every criterion how it compares with a baseline over all budgets and ways to share them out.

    Example:
        >>> from infoprune.board.rows import Reference
        >>> rows = [Row(name, seed, "uniform", 0.5, "none", accuracy=value, macs=500, parameters=50)
        ...         for name, values in {"l1": (90.0, 92.0), "random": (80.0, 85.0)}.items()
        ...         for seed, value in enumerate(values)]
        >>> board = Board(Reference(93.0, 0.3, 10_000, 1000, 100, 5.0, {"conv1": 1}), (), tuple(rows))
        >>> sorted(verdicts(board, "none", "random"))
        ['l1']
    """
    counts: dict[str, list[str]] = {}
    for view in views_of(board):
        for name, found in against(board, view, stage, baseline).items():
            counts.setdefault(name, []).append(found.verdict)
    return {
        name: Verdicts(some.count("better"), some.count("worse"), some.count("within the noise"))
        for name, some in counts.items()
    }
