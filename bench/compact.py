"""Keeps a finished study in results/, small enough for a repository: `python -m bench.compact STUDY`.

The study in runs/ stays as it is. One that lies in results/ already is made small in place.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.process import command
from bench.process.places import RESULTS
from bench.runs.names import study_folder
from bench.study.compact import compact, copied


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = command.parser("compact", __doc__, study=True)
    parser.add_argument("--to", type=Path, default=RESULTS, help="the folder that is to have it; default: results")
    return command.main(parser, _compact, arguments)


def _compact(options: argparse.Namespace) -> None:
    folder, kept = (study_folder(root, options.study) for root in (options.results_dir, options.to))
    if folder != kept:
        copied(folder, kept)
    before, after = compact(kept)
    print(f"{kept}: {before / 1e6:.1f} MB -> {after / 1e6:.1f} MB, without weights")


if __name__ == "__main__":
    sys.exit(main())
