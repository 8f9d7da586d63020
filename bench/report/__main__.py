"""Rebuilds tables, figures and page of a study from its records alone: `python -m bench.report STUDY`.

Several studies are put side by side: `python -m bench.report A B`. Their report goes into a folder of its own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from bench.process import command
from bench.process.places import RESULTS, RUNS, located
from bench.report import frame
from bench.report.read.beside import side_by_side
from bench.report.read.load import load_study
from bench.report.read.members import ReportError
from bench.report.references import read_references, used_by
from bench.report.tables.render import ERRORS, INTERVAL
from bench.study.plan_file import run_folders


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = command.parser("report", __doc__, study=True)
    parser.add_argument("beside", nargs="*", metavar="STUDY", help="further studies, to be put side by side with it")
    parser.add_argument(
        "--to", type=Path, metavar="DIR", help="where the report goes; default: the study's folder, or runs/A+B"
    )
    parser.add_argument(
        "--mix", action="store_true", help="put different stacks, schema versions or unequal searches into one table"
    )
    parser.add_argument("--every-figure", action="store_true", help="also those that a large study leaves out; slow")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write bench.report.frame as CSV, and no report")
    parser.add_argument("--parquet", type=Path, metavar="FILE", help="the same as Parquet")
    parser.add_argument(
        "--bib", action="store_true", help="print BibTeX of methods, models and datasets, and no report"
    )
    parser.add_argument(
        "--errors",
        choices=ERRORS,
        default=INTERVAL,
        help="in results.tex: mean [95 %% interval], or mean ± s.d. over seeds",
    )
    return command.main(parser, _write, arguments)


def _beside(first: Path, study: str) -> tuple[Path, str]:
    """Where a study lies that is put beside one of the folder `first`: there, if it has it."""
    return located(study, first if (first / study).is_dir() else None)


def _write(options: argparse.Namespace) -> None:
    others = [_beside(options.results_dir, name) for name in options.beside]
    named = list(dict.fromkeys([(options.results_dir, options.study), *others]))
    if options.csv or options.parquet:
        rows = pd.concat([frame(name, root) for root, name in named], ignore_index=True)
        if options.csv:
            rows.to_csv(options.csv, index=False, lineterminator="\n")
        if options.parquet:
            rows.to_parquet(options.parquet, index=False)
        return
    studies = [load_study(root, name, options.mix) for root, name in named]
    if len({study.name for study in studies}) < len(studies):  # a study of runs/ and the same of results/
        studies = [replace(study, name=study.folder.as_posix()) for study in studies]
    if options.bib:
        print(read_references().of(used_by(studies)), end="")
        return
    root = RUNS if options.results_dir == RESULTS else options.results_dir
    together = root / "+".join(study.name.replace("/", "-") for study in studies)
    folder = options.to or (together if len(studies) > 1 else studies[0].folder)
    if run_folders(folder) and [folder.resolve()] != [study.folder.resolve() for study in studies]:
        raise ReportError(f"{folder} is a study, whose own report it keeps; name another folder with --to")
    study = studies[0] if len(studies) == 1 else side_by_side(studies, folder, options.mix)
    from bench.report.write import write_report

    report = write_report(study, folder, options.every_figure, options.errors)
    print(report.text)
    if report.note:
        print(f"{report.note}\n")
    print(f"tables: {folder / 'tables'}  figures: {folder / 'figures'}  page: {report.page}")


if __name__ == "__main__":
    sys.exit(main())
