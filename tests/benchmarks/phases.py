"""python tests/benchmarks/phases.py OVERRIDE ...: does a cell, and prints seconds and peak memory of each phase.

Or RUN_DIR ...: prints those of finished runs. The peak is of the process's resident set, or of a GPU's allocations.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from tabulate import tabulate

from process import ENVIRONMENT, output


def main() -> None:
    """Prints a table a run."""
    words = sys.argv[1:]
    if not words:
        sys.exit(__doc__)
    if all(Path(word, "record.json").is_file() for word in words):
        for word in words:
            print(f"{word}\n{table(Path(word))}\n")
        return
    os.environ |= ENVIRONMENT | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    with tempfile.TemporaryDirectory() as folder:
        print(f"{' '.join(words)}\n{table(cell(Path(folder), *words))}")


def cell(folder: Path, *overrides: str) -> Path:
    """Does a cell by its command, with results and cache in the folder; returns that of the run.

    Raises:
        RuntimeError: the run failed.
    """
    before = set(folder.glob("results/*/*/record.json"))
    output("-m", "bench.run", *overrides, "track=none", f"results_dir={folder}/results", f"cache.dir={folder}/cache")
    (record,) = set(folder.glob("results/*/*/record.json")) - before
    return record.parent


def table(run: Path) -> str:
    """Phases of a run in the order in which they ended, and their sum."""
    from bench.runs.record import read_record

    phases = read_record(run).phases
    rows = [[name, one.seconds, (one.peak_bytes or 0) / 1e9] for name, one in phases.items()]
    rows.append(["all", *(function(row[at] for row in rows) for at, function in ((1, sum), (2, max)))])
    return tabulate(rows, ["phase", "seconds", "peak, GB"], tablefmt="github", floatfmt=(".0f", ".1f", ".2f"))


if __name__ == "__main__":
    main()
