"""The tables of a board in the terminal, one for each budget and way to share it out."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table

from infoprune.board.rows import Board
from infoprune.board.summary import Line, View, lines, stages_of, views_of
from infoprune.report.views import short

_WORDS = {"none": "as cut"}
BEFORE = "no pruning"
_WIDEST = len("54.87 ± 10.2")


def stage_words(stage: str) -> str:
    """Return a stage as a reader knows it.

    Example:
        >>> stage_words("none"), stage_words("bn"), stage_words("none, tuned")
        ('as cut', '+ bn', 'as cut, tuned')
    """
    repair, _, tuned = stage.partition(", ")
    return _WORDS.get(repair, f"+ {repair}") + (f", {tuned}" if tuned else "")


def board_tables(board: Board) -> list[Table]:
    """Return one table for each budget and way to share it out, the best criterion at the last stage first.

    Example:
        >>> from infoprune.board.rows import Reference, Row
        >>> base = Reference(93.4, 0.3, 2000, 100, 10, 9.1, {})
        >>> rows = (Row("l1", 0, "uniform", 0.5, "none", 55.0, None, 1.2, 50, 5, 6.0, 0, 0.0),)
        >>> board_tables(Board(base, (), rows))[0].row_count
        2
    """
    return [_table(board, view) for view in views_of(board)]


def _table(board: Board, view: View) -> Table:
    stages = stages_of(board)
    # A narrow form: one line of a terminal of 120 columns holds a criterion with three stages.
    title = f"{view.text()}: accuracy (%), 95 % interval over seeds; rank {stage_words(stages[-1])} (best-worst seed)"
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 0, 0, 1), collapse_padding=True)
    table.add_column("criterion", no_wrap=True)
    for name in map(stage_words, stages):
        table.add_column(name, justify="right", min_width=_WIDEST, overflow="fold")
    table.add_column("rank", justify="right", no_wrap=True)
    for name in ("MACs", "weights", "ms", "dead", "score s", "passes", "MiB"):
        table.add_column(name, justify="right", overflow="fold")
    base = board.base
    costs = (short(base.macs), short(base.parameters), f"{base.latency_ms:.2f}")
    table.add_row(BEFORE, *[f"{base.accuracy:.2f}"] * len(stages), "", *costs, "", "", "", "", style="dim")
    for line in lines(board, view):
        table.add_row(line.criterion, *_cells(line, stages))
    return table


def _cells(line: Line, stages: list[str]) -> list[str]:
    accuracy = [line.accuracy[stage].text() if stage in line.accuracy else "" for stage in stages]
    if line.reason and not any(accuracy):
        accuracy[0] = line.reason
    rank = line.rank.get(stages[-1])
    return [
        *accuracy,
        "" if rank is None else rank.text(),
        "" if line.macs is None else short(line.macs),
        "" if line.parameters is None else short(line.parameters),
        _number(line.latency_ms, ".2f"),
        _number(line.dead, ".0f"),
        _number(line.seconds, ".1f"),
        _number(line.passes, ".0f"),
        _number(line.memory_mib, ".0f"),
    ]


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
