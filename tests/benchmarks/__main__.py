"""python tests/benchmarks [NAME ...]: timings of the suite against its peers, every ratio beside its goal.

Writes OUT/NAME.json with all single values, hardware and versions; prints a table a benchmark. Without --full all of
them take about an hour on two cores, of which those of `cell` take 12 minutes. gpu needs a CUDA card, and runs unasked
where there is one.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from pathlib import Path

from page import CELL
from process import ENVIRONMENT, Options, say

os.environ.update(ENVIRONMENT)  # before anything imports torch

NAMES = ("init_cost", "sweep_cost", "alignment_cost", "train_rate", *CELL, "scale", "busy", "gpu")


def main() -> int:
    """Runs what is asked for; 1 if a benchmark failed. A goal that is missed is a result, not a failure."""
    parser = argparse.ArgumentParser(prog="python tests/benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; cell: {', '.join(CELL)}")
    parser.add_argument("--full", action="store_true", help="64 samples; the whole grid, as the demo trains")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"), help="folder of the JSON files")
    parser.add_argument("--repetitions", type=int, help="of every contender, in turns; 3 or more by default")
    parser.add_argument("--samples", type=int, help="calibration samples, in place of the benchmark's own number")
    parser.add_argument("--threads", type=int, nargs="+", help="of a cell's contenders; 1 by default, 1 2 with --full")
    parser.add_argument("--data-root", type=Path, help="FOLDER/SPLIT.jsonl of real rows, in place of generated ones")
    arguments = parser.parse_args()
    names = [name for given in arguments.names or NAMES for name in (CELL if given == "cell" else (given,))]
    if unknown := set(names) - set(NAMES):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; choose from {', '.join(NAMES)}")
    threads = tuple(arguments.threads or ((1, 2) if arguments.full else (1,)))
    options = Options(arguments.full, arguments.repetitions, arguments.samples, arguments.data_root, threads)
    failed = []
    for name in names:
        began = time.perf_counter()
        try:
            report = importlib.import_module(name).run(options)
        except Exception as error:  # the other benchmarks run all the same
            print(f"{name} failed: {error}", file=sys.stderr, flush=True)
            failed.append(name)
            continue
        if report is not None:
            path = report.write(name, arguments.out, options.full, time.perf_counter() - began)
            print(f"{name}\n{report.text()}\n{path}\n", flush=True)
    say(f"failed: {', '.join(failed)}" if failed else "done")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
