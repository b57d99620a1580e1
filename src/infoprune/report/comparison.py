"""Accuracy against cost over several runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from infoprune.errors import InputError
from infoprune.report import views
from infoprune.report.page import comparison_rows, rendered
from infoprune.report.run import Run

COSTS = ("macs", "parameters", "latency_ms")


def pareto_front(points: Sequence[tuple[float, float | None]]) -> tuple[int, ...]:
    """Return which points no other one beats, the cheapest first.

    Args:
        points: Cost and accuracy of each; ``None`` where accuracy was not measured: never on the front.

    Returns:
        Indices of the points for which no other has both at most the cost and at least the accuracy, and one of them
        strictly; of equal points all.

    Example:
        >>> pareto_front([(0.5, 90.0), (0.4, 91.0), (0.9, 93.0)])
        (1, 2)
    """
    known = [(cost, accuracy, index) for index, (cost, accuracy) in enumerate(points) if accuracy is not None]
    front = [
        (cost, accuracy, index)
        for cost, accuracy, index in known
        if not any(
            other <= cost and better >= accuracy and (other, better) != (cost, accuracy) for other, better, _ in known
        )
    ]
    return tuple(index for _, _, index in sorted(front))


def comparison_page(runs: Sequence[Run]) -> str:
    """Return a page of several runs as HTML: accuracy against MACs, parameters and latency, the fronts marked.

    Raises:
        InputError: There are no runs, or Jinja2 or Plotly is not installed.

    Example:
        >>> import torch, infoprune
        >>> from infoprune.report.keep import kept_run
        >>> net, batches = infoprune.zoo.build("digits").eval(), [(torch.rand(8, 1, 8, 8), torch.arange(8))]
        >>> result = infoprune.prune(net, batches, criterion="l1", ratio=0.5, repair=None)
        >>> run = kept_run(net, result, result.record(), batches, name="l1")
        >>> "l1" in comparison_page([run])
        True
    """
    if not runs:
        raise InputError("there is nothing to compare: name the folders of two or more runs")
    rows = comparison_rows(distinct(runs))
    fronts = {cost: pareto_front([(row[cost], row["accuracy"]) for row in rows]) for cost in COSTS}
    return rendered(
        "compare.html.j2",
        title="Accuracy against cost",
        rows=rows,
        data={"runs": rows, "fronts": {cost: list(front) for cost, front in fronts.items()}},
        short=views.short,
    )


def distinct(runs: Sequence[Run]) -> list[Run]:
    """Return the runs under names that differ: equal ones are numbered.

    Example:
        >>> from infoprune.plan import Plan
        >>> [run.name for run in distinct([Run({}, Plan({}), name="l1"), Run({}, Plan({}), name="l1")])]
        ['l1 1', 'l1 2']
    """
    names = [run.name for run in runs]
    seen: dict[str, int] = {}
    found = []
    for run in runs:
        seen[run.name] = seen.get(run.name, 0) + 1
        name = f"{run.name} {seen[run.name]}" if names.count(run.name) > 1 else run.name
        found.append(replace(run, name=name))
    return found
