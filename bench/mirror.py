"""Puts a study's report on Weights & Biases: `python -m bench.mirror STUDY`.

One run of job type "report" in the study's group, beside the runs that were tracked: the tables, the figures as images,
and the files of both as an artifact. The report is read as `python -m bench.report` wrote it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from bench.process import command
from bench.process.validation import one_line
from bench.report.read.load import ReportError, Study, load_study
from bench.report.tables.tables import numbers, summary
from bench.runs.tracking import log_report


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = command.parser("mirror", __doc__, study=True)
    parser.add_argument("--project", default="lora-init-bench", help="default: lora-init-bench, as in conf/track")
    parser.add_argument("--offline", action="store_true", help="write files to upload later with wandb sync")
    parser.add_argument("--mix", action="store_true", help="put records of different stacks into one table")
    return command.main(parser, _mirror, arguments)


def _mirror(options: argparse.Namespace) -> None:
    study = load_study(options.results_dir, options.study, options.mix)
    files = report_files(study)
    config = {"study": study.name, "num_runs": sum(len(cell.runs) for cell in study.cells)}
    about = {"name": f"report {study.name}", "group": study.name, "project": options.project, "config": config}
    try:
        print(log_report("offline" if options.offline else "online", study.folder, tables(study), files, **about))
    except Exception as error:  # wandb's own, the service's, the folder's
        said = f"{type(error).__name__}: {one_line(error)}"
        raise ReportError(f"W&B: {said}; keep the report here with --offline") from error


def report_files(study: Study) -> list[Path]:
    """The files of the study's tables and figures, in their order, and its page.

    Raises:
        ReportError: there are no tables, or no figures.
    """
    found: list[Path] = []
    for folder in (study.folder / "tables", study.folder / "figures"):
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        if not files:
            raise ReportError(f"{folder} is empty; write it first: python -m bench.report {study.name}")
        found += files
    page = study.folder / "index.html"
    return [*found, page] if page.is_file() else found


def tables(study: Study) -> dict[str, pd.DataFrame]:
    """By name: `numbers`, unrounded, and the tables to read, one for each task and model; None for what is missing."""
    parts = study.by_task_and_model
    shown = {"/".join(["table", *place] if len(parts) > 1 else ["table"]): part for place, part in parts.items()}
    frames = {"numbers": numbers(study)} | {name: summary(part) for name, part in shown.items()}
    return {name: frame.astype(object).where(frame.notna(), None) for name, frame in frames.items()}


if __name__ == "__main__":
    sys.exit(main())
