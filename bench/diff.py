"""Says in what two runs differ: `python -m bench.diff RUN_A RUN_B`.

A run is named by its folder, or by its id or the beginning of it, with the study in front where several have the run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.process import command
from bench.process.places import RESULTS, RUNS
from bench.runs.diff import differing
from bench.runs.record import RECORD
from bench.study.plan_file import every_run_folder

NAMED = 4  # runs that a refusal names


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0 whether or not the runs differ."""
    parser = command.parser("diff", __doc__)
    parser.add_argument(
        "--results-dir", type=Path, nargs="+", default=[RUNS, RESULTS], help="default: runs and results"
    )
    for name in ("first", "second"):
        parser.add_argument(name, metavar="RUN", help="a folder, STUDY/RUN_ID, RUN_ID, or the beginning of one")
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


def run_folder(results_dirs: Sequence[Path], text: str) -> Path:
    """The one run that a text names.

    Raises:
        ValueError: none does, or several do; one line that names some of them.
    """
    if (Path(text) / RECORD).is_file():
        return Path(text)
    every = {path: path.relative_to(root).as_posix() for root in results_dirs for path in every_run_folder(root)}
    whole = [path for path, name in every.items() if text in (name, path.name)]
    found = whole or [path for path, name in every.items() if name.startswith(text) or path.name.startswith(text)]
    if len(found) == 1:
        return found[0]
    names = [path.as_posix() for path in found or every]
    shown = ", ".join([*names[:NAMED], *([f"and {len(names) - NAMED:,} more"] if len(names) > NAMED else [])])
    if found:
        raise ValueError(f"{text!r} names {len(found):,} runs: {shown}; write more of it, or the run's folder")
    raise ValueError(f"no run {text!r} in {' or '.join(map(str, results_dirs))}; there are: {shown or 'none'}")


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
