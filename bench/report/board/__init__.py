"""The leaderboard: every study of a results folder on one page, ranked as far as the studies' own statistics reach."""

from bench.report.board.rows import Board, read_board
from bench.report.board.write import write_board

__all__ = ["Board", "read_board", "write_board"]
