"""Makes a finished study small enough to be kept in a repository: `python -m bench.compact STUDY`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from bench.process import command
from bench.runs.names import study_folder
from bench.study.compact import compact


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    return command.main(command.parser("compact", __doc__, study=True), _compact, arguments)


def _compact(options: argparse.Namespace) -> None:
    before, after = compact(study_folder(options.results_dir, options.study))
    print(f"{options.study}: {before / 1e6:.1f} MB -> {after / 1e6:.1f} MB; its weights are gone")


if __name__ == "__main__":
    sys.exit(main())
