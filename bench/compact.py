"""The command line `python -m bench.compact STUDY`: makes a finished study small enough to be kept in a repository."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench.runs.names import study_folder
from bench.study.compact import compact


def main() -> None:
    """Compacts one study and says what it came to."""
    parser = argparse.ArgumentParser(prog="python -m bench.compact", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("study", help="the folder below the results folder, such as demo")
    parser.add_argument("--results-dir", type=Path, default=Path("results"), help="default: results")
    arguments = parser.parse_args()
    try:
        before, after = compact(study_folder(arguments.results_dir, arguments.study))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{arguments.study}: {before / 1e6:.1f} MB -> {after / 1e6:.1f} MB; its weights are gone")


if __name__ == "__main__":
    main()
