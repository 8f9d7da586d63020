"""The command line `python -m bench.report STUDY`: rebuilds tables, figures and page of a study from its records."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench.report.read.load import ReportError, load_study


def main() -> None:
    """Writes tables, figures and the page, and prints the table."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.report", description="Tables and figures of a study, from its records alone."
    )
    parser.add_argument("study", help="the folder below the results folder, such as demo")
    parser.add_argument("--results-dir", type=Path, default=Path("results"), help="default: results")
    parser.add_argument(
        "--mix", action="store_true", help="put records of different stacks or schema versions into one table"
    )
    parser.add_argument("--every-figure", action="store_true", help="also those that a large study leaves out; slow")
    arguments = parser.parse_args()
    try:
        study = load_study(arguments.results_dir, arguments.study, arguments.mix)
        from bench.report.write import write_report

        report = write_report(study, study.folder, arguments.every_figure)
    except (ReportError, OSError) as error:
        sys.exit(f"error: {error}")
    print(report.text)
    if report.note:
        print(f"{report.note}\n")
    print(f"tables: {study.folder / 'tables'}  figures: {study.folder / 'figures'}  page: {report.page}")


if __name__ == "__main__":
    main()
