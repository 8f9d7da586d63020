"""Which run a command line names: by its folder, its id, or the beginning of that."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from bench.process.places import RESULTS, RUNS
from bench.runs.record import RECORD
from bench.study.plan_file import every_run_folder

NAMED = 4  # runs that a refusal names
RUN_HELP = "its folder, STUDY/RUN_ID, RUN_ID, or the beginning of one"


def add_results_dirs(parser: argparse.ArgumentParser) -> None:
    """Adds the option --results-dir, the folders in which `run_folder` looks for a run."""
    parser.add_argument(
        "--results-dir", type=Path, nargs="+", default=[RUNS, RESULTS], help="default: runs and results"
    )


def run_folder(results_dirs: Sequence[Path], text: str) -> Path:
    """The one run that a text names.

    Raises:
        ValueError: none does, or several do; one line that names some of them.
    """
    if Path(text).is_absolute() or (Path(text) / RECORD).is_file():
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
