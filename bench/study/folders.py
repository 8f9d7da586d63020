"""Folders of the suite's own files: beside the package in a checkout, inside it in a wheel."""

from __future__ import annotations

from pathlib import Path

from bench.process.config_dirs import config_dirs

_PACKAGE = Path(__file__).resolve().parents[1]
ROOT = _PACKAGE if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent
CONF = ROOT / "conf"
EXPERIMENTS = "experiments"


def experiment_file(name: str) -> Path | None:
    """The file of an experiment, in `experiments_folder` or in experiments/ of a folder of --config-dir; None: none."""
    folders = (experiments_folder(), *(own / EXPERIMENTS for own in config_dirs()))
    files = (folder / f"{name}.yaml" for folder in folders if folder is not None)
    return next((path for path in files if path.is_file()), None)


def experiments_folder() -> Path | None:
    """experiments/ in the working directory, else the suite's own; None if neither exists."""
    return next((path for path in (Path.cwd() / EXPERIMENTS, ROOT / EXPERIMENTS) if path.is_dir()), None)
