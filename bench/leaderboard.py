"""Every study of a results folder on one page: `python -m bench.leaderboard`.

A row is a method, a column a task and model of a study. A method is ranked below another only where the study's own
corrected comparison says that it is worse; otherwise they tie.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.process import command
from bench.process.places import RESULTS, RUNS


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = command.parser("leaderboard", __doc__)
    parser.add_argument(
        "--results-dir", type=Path, nargs="+", default=[RUNS, RESULTS], help="its studies; default: runs and results"
    )
    parser.add_argument(
        "--to", type=Path, default=RUNS / "leaderboard", help="where the page goes; default: runs/leaderboard"
    )
    return command.main(parser, _write, arguments)


def _write(options: argparse.Namespace) -> None:
    from bench.report.board import read_board, write_board

    board = read_board(*options.results_dir)
    page = write_board(board, options.to)
    studies = {column.study for column in board.columns}
    print(f"{len(board.titles)} rows, {len(board.columns)} columns of {len(studies)} studies: {page}")
    for name, reason in board.left_out:
        print(f"left out: {name}: {reason}")


if __name__ == "__main__":
    sys.exit(main())
