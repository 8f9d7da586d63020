"""Folders of the user's own configurations, beside the suite's conf/: `--config-dir DIR`, or $LORA_INIT_BENCH_CONF.

DIR/method/NAME.yaml, DIR/task/NAME.yaml, DIR/dataset/NAME.yaml, DIR/experiments/NAME.yaml and so on are choices as
those of conf/ and experiments/ are, and a dataset may name an lm-eval definition by its path below DIR. The processes
of a sweep inherit the variable, and so find what the command has found.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

VARIABLE = "LORA_INIT_BENCH_CONF"


def add_option(parser: argparse.ArgumentParser) -> None:
    """Adds --config-dir to a command's parser; the folders are `config_dir`, and `add_config_dir` takes each."""
    parser.add_argument(
        "--config-dir", "-cd", metavar="DIR", action="append", default=[], help="a folder of your own configurations"
    )


def config_dirs() -> tuple[Path, ...]:
    """The folders, absolute, in order.

    Raises:
        ValueError: one of them does not exist; one line.
    """
    found = tuple(Path(one).absolute() for one in os.environ.get(VARIABLE, "").split(os.pathsep) if one)
    for folder in found:
        if not folder.is_dir():
            raise ValueError(f"--config-dir (or ${VARIABLE}) names {folder}, which is no folder")
    return found


def add_config_dir(folder: str | Path) -> None:
    """Adds a folder for this process and those that it starts.

    Raises:
        ValueError: it does not exist; one line.
    """
    path = Path(folder).expanduser().absolute()
    known = os.environ.get(VARIABLE, "")
    if str(path) not in known.split(os.pathsep):
        os.environ[VARIABLE] = os.pathsep.join(filter(None, (known, str(path))))
    config_dirs()


def config_dir_words(shown_as: str | None = None) -> list[str]:
    """The folders as words of a command line: --config-dir DIR for each.

    Args:
        shown_as: written instead of each folder, for a command that is not of this machine.
    """
    return [word for folder in config_dirs() for word in ("--config-dir", shown_as or str(folder))]
