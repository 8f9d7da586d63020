"""Folders of the suite's own files: beside the package in a checkout, inside it in a wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
ROOT = _PACKAGE if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent
CONF = ROOT / "conf"
EXPERIMENTS = "experiments"


def experiments_folder() -> Path | None:
    """experiments/ in the working directory, else the suite's own; None if neither exists."""
    return next((path for path in (Path.cwd() / EXPERIMENTS, ROOT / EXPERIMENTS) if path.is_dir()), None)
