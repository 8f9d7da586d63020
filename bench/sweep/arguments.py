"""What a command line may say: known keys and choices; anything else is refused in one line before Hydra sees it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from bench.study.folders import CONF, experiments_folder

GROUPS = ("method", "rank", "task", "model", "train", "measure", "track", "launch")
KEYS = (*GROUPS, *"seed study results_dir adapter svd cache checkpoint data run score hydra".split())

LAUNCHERS = {"joblib": "hydra_joblib_launcher", "submitit_local": "submitit", "slurm": "submitit"}  # and their packages


def refuse(message: str) -> NoReturn:
    """One line on stderr, exit status 2."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(2)


def choices(folder: Path) -> list[str]:
    """The configurations of a folder, by the name that the command line gives them."""
    found = (path for path in folder.rglob("*.yaml") if not path.name.startswith("_"))  # _base is no choice
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in found)


def check_arguments(arguments: Sequence[str]) -> None:
    """Refuses a command line with an unknown key or an unknown choice, before Hydra sees it."""
    texts = [text for text in arguments if not text.startswith("-") and ("=" in text or text.startswith("~"))]
    try:
        overrides = OverridesParser.create().parse_overrides(texts)
    except HydraException as error:
        refuse(str(error).splitlines()[0])
    for text, override in zip(texts, overrides, strict=True):
        key = override.key_or_group
        _check_calls(text, override)
        if override.is_sweep_override():
            values = [str(value) for value in override.sweep_string_iterator()]
        else:
            value = override.value()
            values = [str(v) for v in value] if isinstance(value, list) else [str(value)]
        if key == "experiments":
            _check_experiments(text, values, added=override.is_add())
        elif key in GROUPS:
            _check_choices(key, values)
            if key == "launch":
                _check_launcher(text, values)
        elif key.split(".")[0].split("/")[0] not in KEYS:
            refuse(f"{text}: nothing reads {key}; known are {', '.join(KEYS)}, and +experiments=NAME")


def _check_calls(text: str, override: Override) -> None:
    """Refuses what would make Hydra call something of the command line's choice."""
    parts = override.key_or_group.replace("/", ".").split(".")
    if override.package is not None and not override.is_delete():
        refuse(f"{text}: a choice has one place; leave @{override.package} out")
    if parts[0] == "hydra" and len(parts) > 1 and parts[1] in ("callbacks", "job_logging", "hydra_logging"):
        refuse(f"{text}: hydra.{parts[1]} is not for a command line to set")
    if ("_target_" in parts and parts != ["method", "_target_"]) or "_target_" in text.partition("=")[2]:
        refuse(f"{text}: no _target_ but method._target_ can be set")


def _check_choices(group: str, values: list[str]) -> None:
    known = choices(CONF / group)
    for value in values:
        if value not in known:
            hint = f"; say {group}=r{value}" if f"r{value}" in known else ""
            refuse(f"{group}={value} does not exist{hint}; choose from {', '.join(known)}")


def _check_launcher(text: str, values: list[str]) -> None:
    if len(values) != 1:
        refuse(f"{text}: a sweep has one launcher; choose one")
    package = LAUNCHERS.get(values[0])
    if package is None:
        return
    name = f"hydra_plugins.{package}" if package.startswith("hydra") else package
    try:
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError:  # no hydra_plugins at all
        found = None
    if found is None:
        refuse(f"{text} needs {package.replace('_', '-')}: pip install 'lora-init-bench[cluster]'")


def _check_experiments(text: str, values: list[str], added: bool) -> None:
    folder = experiments_folder()
    if folder is None:
        refuse(f"{text}: there is no folder experiments/ here ({Path.cwd()}) or beside the package")
    known = choices(folder)
    for value in values:
        if value not in known:
            refuse(f"experiments={value} does not exist in {folder}; choose from {', '.join(known)}")
    if not added:
        refuse(f"{text}: an experiment is added, not replaced: +{text}")
