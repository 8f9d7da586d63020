"""Checks that a run is as it was written, or with --rerun, that it can be repeated: `python -m bench.verify RUN`.

A run is as it was written if its record has the right schema and checksum and is of this run, and every file that it
names has its checksum. With --rerun the run is done again elsewhere, and all results are compared but times and memory.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.process import command
from bench.process.provenance import fingerprint
from bench.process.redact import redacted
from bench.runs.record import COMPLETED, read_record
from bench.runs.verify import differences, problems
from bench.study.named import RUN_HELP, add_results_dirs, run_folder

SHOWN = 20  # differences that are named


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit status is 1 if anything is wrong, 2 if it cannot be tried."""
    parser = command.parser("verify", __doc__)
    add_results_dirs(parser)
    parser.add_argument("run", metavar="RUN", nargs="+", help=f"{RUN_HELP}; or several of them")
    parser.add_argument("--rerun", action="store_true", help="do the run again and compare the numbers")
    return command.main(parser, _verify, arguments)


def _verify(options: argparse.Namespace) -> int:
    status = 0
    for folder in [run_folder(options.results_dir, text) for text in options.run]:
        found = problems(folder)
        for line in found or ["as it was written"]:
            print(redacted(f"{folder.name}: {line}"))
        status = max(status, bool(found), _repeat(folder) if options.rerun else 0)
    return status


def _repeat(folder: Path) -> int:
    """Reruns and compares; prints the differences."""
    if read_record(folder).environment.fingerprint != fingerprint():
        print("warning: made on another stack or machine type, where last digits are others", file=sys.stderr)
    with tempfile.TemporaryDirectory() as root:
        found = differences(folder, rerun(folder, Path(root)))
    for line in found[:SHOWN]:
        print(f"differs: {line}")
    if len(found) > SHOWN:
        print(f"and {len(found) - SHOWN} more")
    print("the same numbers again" if not found else f"{len(found)} differences")
    return 1 if found else 0


def rerun(folder: Path, root: Path) -> Path:
    """Does a run again, below another results folder; returns the folder of the new one.

    Raises:
        ValueError: the record is of a run that did not complete, or its configuration is not valid here.
    """
    from bench.config import Run
    from bench.run import run
    from bench.runs.job import Origin, execute
    from bench.runs.tracking import Track

    record = read_record(folder)
    if record.status != COMPLETED:
        raise ValueError(f"{folder} holds a run that {record.status}: there is nothing to compare")
    cfg = replace(Run.from_record(record), results_dir=root, track=Track(mode="none", project="verify"))
    if cfg.run_id != record.run_id:
        raise ValueError(f"this configuration is {cfg.run_id} here, not {record.run_id}: data, model or suite changed")
    execute(cfg, run, "[1/1]", Origin(record.command, record.registration))
    return root / cfg.study / cfg.run_id


if __name__ == "__main__":
    sys.exit(main())
