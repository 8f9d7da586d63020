"""Rebuilds tables, figures and page of a study from its records alone: `python -m bench.report STUDY`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.process import command
from bench.report import frame
from bench.report.read.load import load_study


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = command.parser("report", __doc__, study=True)
    parser.add_argument(
        "--mix", action="store_true", help="put different stacks, schema versions or unequal searches into one table"
    )
    parser.add_argument("--every-figure", action="store_true", help="also those that a large study leaves out; slow")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write bench.report.frame as CSV, and no report")
    parser.add_argument("--parquet", type=Path, metavar="FILE", help="the same as Parquet")
    return command.main(parser, _write, arguments)


def _write(options: argparse.Namespace) -> None:
    if options.csv or options.parquet:
        rows = frame(options.study, options.results_dir)
        if options.csv:
            rows.to_csv(options.csv, index=False, lineterminator="\n")
        if options.parquet:
            rows.to_parquet(options.parquet, index=False)
        return
    study = load_study(options.results_dir, options.study, options.mix)
    from bench.report.write import write_report

    report = write_report(study, study.folder, options.every_figure)
    print(report.text)
    if report.note:
        print(f"{report.note}\n")
    print(f"tables: {study.folder / 'tables'}  figures: {study.folder / 'figures'}  page: {report.page}")


if __name__ == "__main__":
    sys.exit(main())
