"""Where studies lie: those that are run here in runs/, those that a repository keeps in results/."""

from __future__ import annotations

import os
from pathlib import Path

RUNS = Path("runs")  # results_dir of conf/config.yaml
RESULTS = Path("results")  # a sweep writes nothing here, unless results_dir says so


def located(study: str, results_dir: Path | None = None) -> tuple[Path, str]:
    """The results folder and the name of a study, as a command line or a notebook gives them.

    Args:
        study: a name, such as lora_ga/llama2_tiny, or a folder, such as runs/mine, results/demo/ or /data/runs/mine.
        results_dir: the results folder; None: the first part of a folder, else runs/ if it has such a study, else
            results/ if that has one, else runs/; of a folder that lies elsewhere the one above it.
    """
    folder = Path(study)
    if results_dir is None and (folder.is_absolute() or ".." in folder.parts):
        study = Path(os.path.relpath(folder)).as_posix()
        if study.startswith("../"):
            return folder.parent, folder.name
    name = study.rstrip("/").removeprefix("./")
    for root in (RUNS, RESULTS) if results_dir is None else (results_dir,):
        if name.startswith(f"{root}/"):
            return root, name.removeprefix(f"{root}/")
    if results_dir is not None:
        return results_dir, name
    return next((root for root in (RUNS, RESULTS) if (root / name).is_dir()), RUNS), name
