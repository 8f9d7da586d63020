"""The command line `python -m bench.mirror STUDY`: puts a study's report on Weights & Biases.

One run of job type "report" in the study's group, beside the runs that `bench.runs.tracking` has put there: the tables,
the figures as images, and the files of both as an artifact. The report is read as `python -m bench.report` wrote it.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench.process.environment import quiet_environment
from bench.report.read.load import ReportError, Study, load_study
from bench.report.tables.tables import numbers, summary
from bench.runs.tracking import Mode, remove_logs, start, upload_path

if TYPE_CHECKING:
    import wandb

FOLDERS, PAGE = ("tables", "figures"), "index.html"


def mirror(study: Study, project: str, mode: Mode) -> str:
    """Writes the report to W&B; returns its address, or the command that uploads it.

    Raises:
        ReportError: the report's files are missing, or W&B cannot be reached; one line with the remedy.
    """
    files = report_files(study)
    try:
        return _write(study, files, project, mode)
    except Exception as error:  # wandb's own, the service's, the folder's
        text = (str(error).splitlines() or [""])[0]
        raise ReportError(f"W&B: {type(error).__name__}: {text}; keep the report here with --offline") from error


def report_files(study: Study) -> list[Path]:
    """The files of the study's tables and figures, in their order, and its page.

    Raises:
        ReportError: there are none of either kind.
    """
    found: list[Path] = []
    for name in FOLDERS:
        files = sorted(path for path in (study.folder / name).rglob("*") if path.is_file())
        if not files:
            raise ReportError(f"{study.folder / name} is empty; write it first: python -m bench.report {study.name}")
        found += files
    page = study.folder / PAGE
    return [*found, page] if page.is_file() else found


def tables(study: Study) -> dict[str, pd.DataFrame]:
    """By name: `numbers`, unrounded, and the tables to read, one for each task and model."""
    parts = study.by_task_and_model
    shown = {"/".join(["table", *place] if len(parts) > 1 else ["table"]): part for place, part in parts.items()}
    return {"numbers": numbers(study)} | {name: summary(part) for name, part in shown.items()}


def as_table(frame: pd.DataFrame) -> wandb.Table:
    """A W&B table of plain values; what is missing is None."""
    import wandb

    plain = frame.astype(object).where(frame.notna(), None)
    return wandb.Table(columns=[str(name) for name in frame.columns], data=plain.to_numpy(), allow_mixed_types=True)


def _write(study: Study, files: list[Path], project: str, mode: Mode) -> str:
    import wandb

    with start(
        mode,
        study.folder,
        project=project,
        name=f"report {study.name}",
        group=study.name,
        job_type="report",
        config={"study": study.name, "num_runs": sum(len(cell.runs) for cell in study.cells)},
    ) as run:
        logged: dict[str, Any] = {name: as_table(frame) for name, frame in tables(study).items()}
        for path in files:
            if path.suffix == ".png":
                name = path.relative_to(study.folder).with_suffix("").as_posix()
                logged[name] = wandb.Image(str(path), caption=path.stem)
        run.log(logged)
        artifact = wandb.Artifact(re.sub(r"[^\w.-]", "-", f"report-{study.name}"), type="report")
        for path in files:
            artifact.add_file(str(path), name=path.relative_to(study.folder).as_posix())
        run.log_artifact(artifact)
        folder, url = upload_path(run), run.url
    remove_logs(folder)
    return f"wandb sync {folder}" if mode == "offline" else str(url)


def main() -> None:
    """Writes the report of a study to W&B and prints where it is."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.mirror", description="A study's tables and figures on Weights & Biases."
    )
    parser.add_argument("study", help="the folder below the results folder, such as demo")
    parser.add_argument("--project", default="lora-init-bench", help="default: lora-init-bench, as in conf/track")
    parser.add_argument("--offline", action="store_true", help="write files to upload later with wandb sync")
    parser.add_argument("--results-dir", type=Path, default=Path("results"), help="default: results")
    parser.add_argument("--mix", action="store_true", help="put records of different stacks into one table")
    arguments = parser.parse_args()
    quiet_environment()
    try:
        study = load_study(arguments.results_dir, arguments.study, arguments.mix)
        print(mirror(study, arguments.project, "offline" if arguments.offline else "online"))
    except (ReportError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
