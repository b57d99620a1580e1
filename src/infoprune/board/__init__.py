"""The board: every criterion, budget and repair on one network under one protocol, and what the rows say together."""

from infoprune.board.options import BASELINES, BoardOptions
from infoprune.board.protocol import bench
from infoprune.board.rows import Board, Reference, Row, Scored

__all__ = ["BASELINES", "Board", "BoardOptions", "Reference", "Row", "Scored", "bench"]
