"""Where the suite's own files lie: beside the package in a checkout, inside it in a wheel. Knows no Hydra."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
ROOT = _PACKAGE if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent
CONF = ROOT / "conf"
EXPERIMENTS = "experiments"


def experiments_folder() -> Path | None:
    """experiments/ of the working directory, else the suite's own; None where there is neither."""
    return next((path for path in (Path.cwd() / EXPERIMENTS, ROOT / EXPERIMENTS) if path.is_dir()), None)
