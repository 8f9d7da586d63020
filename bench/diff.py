"""Says in what two runs differ: `python -m bench.diff RUN_A RUN_B`.

A run is named by its folder, or by its id or the beginning of it, with the study in front where several have the run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from bench.process import command
from bench.runs.diff import differing
from bench.study.named import RUN_HELP, add_results_dirs, run_folder


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0 whether or not the runs differ."""
    parser = command.parser("diff", __doc__)
    add_results_dirs(parser)
    for name in ("first", "second"):
        parser.add_argument(name, metavar="RUN", help=RUN_HELP)
    return command.main(parser, _print, arguments)


def _print(options: argparse.Namespace) -> None:
    import pandas as pd

    from bench.report.tables.render import markdown

    first, second = (run_folder(options.results_dir, text) for text in (options.first, options.second))
    found = differing(first, second)
    print(f"first:  {first}\nsecond: {second}\n")
    if not found:
        print("no difference")
        return
    rows = [(one.part, one.what, _text(one.first), _text(one.second), _change(one.first, one.second)) for one in found]
    print(markdown(pd.DataFrame(rows, columns=["part", "what", "first", "second", "second - first"])))


def _text(value: Any) -> str:
    """A value as a cell of the table."""
    if value is None:
        return "–"
    shown = f"{value:.6g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _change(first: Any, second: Any) -> str:
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (first, second))
    return f"{second - first:+.4g}" if numbers else ""


if __name__ == "__main__":
    sys.exit(main())
