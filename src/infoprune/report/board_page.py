"""The page of a board: tables, ranks with intervals, and how far criteria agree."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from infoprune.board.options import BASELINES
from infoprune.board.rows import Board
from infoprune.board.summary import View, lines, rank_correlation, stages_of, verdicts, views_of
from infoprune.errors import InputError
from infoprune.report import views
from infoprune.report.board_table import stage_words
from infoprune.report.page import rendered


def board_page(board: Board, network: str) -> str:
    """Return the page of a board as HTML, with everything inside it.

    Args:
        board: The rows and the scores.
        network: What the network is called.

    Raises:
        InputError: The board has no rows, or Jinja2 or Plotly is not installed.

    Example:
        >>> from infoprune.board.rows import Board, Reference, Row
        >>> rows = [Row(name, seed, "uniform", 0.5, "none", accuracy=value, macs=500, parameters=50, latency_ms=3.0,
        ...             dead_filters=0)
        ...         for name, values in {"l1": (90.0, 92.0), "random": (80.0, 85.0)}.items()
        ...         for seed, value in enumerate(values)]
        >>> board = Board(Reference(93.0, 0.3, 10_000, 1000, 100, 5.0, {"conv1": 1}), (), tuple(rows))
        >>> "random" in board_page(board, "digits")
        True
    """
    if not board.rows:
        raise InputError("the board has no rows yet: run infoprune bench first")
    stages = stages_of(board)
    shown = views_of(board)
    return rendered(
        "board.html.j2",
        title=f"Criteria on {network}",
        base=board.base,
        criteria=len(dict.fromkeys(row.criterion for row in board.rows)),
        seeds=len(dict.fromkeys(row.seed for row in board.rows)),
        stages=[(stage, stage_words(stage)) for stage in stages],
        views=[(view.text(), lines(board, view)) for view in shown],
        verdicts=_verdicts(board, stages),
        baselines=BASELINES,
        failures=board.failures,
        data={
            "layers": [],
            "plane": [],
            "board": {
                "stages": stages,
                "words": [stage_words(stage) for stage in stages],
                "views": [_values(board, view, stages) for view in shown],
                "agreement": _agreement(board),
            },
        },
        short=views.short,
    )


def _verdicts(board: Board, stages: list[str]) -> list[tuple[str, list[dict[str, str]]]]:
    """Return by criterion, and for every stage, how it compares with each baseline in words."""
    found = [{baseline: verdicts(board, stage, baseline) for baseline in BASELINES} for stage in stages]
    names = dict.fromkeys(row.criterion for row in board.rows)
    return [
        (name, [{baseline: some[baseline][name].text() if name in some[baseline] else "" for baseline in BASELINES}
                for some in found])
        for name in names
    ]  # fmt: skip


def _values(board: Board, view: View, stages: list[str]) -> list[list[dict[str, Any]]]:
    """Return for every stage the criteria with accuracy and rank, as JSON values."""
    every = lines(board, view)
    return [
        [
            {"name": line.criterion, "accuracy": round(line.accuracy[stage].value, 2), **asdict(line.rank[stage])}
            for line in every
            if stage in line.accuracy and stage in line.rank
        ]
        for stage in stages
    ]


def _agreement(board: Board) -> dict[str, Any]:
    names, matrix = rank_correlation(board.scored)
    rows = [[None if math.isnan(value) else round(value, 3) for value in row] for row in matrix.tolist()]
    return {"names": names, "rows": rows}
