"""The choices of each group of the configuration: the suite's own, and those in the folders of --config-dir."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from bench.process.config_dirs import config_dirs
from bench.process.validation import did_you_mean
from bench.study.folders import CONF, EXPERIMENTS, experiments_folder

GROUPS = ("method", "system", "rank", "task", "model", "train", "measure", "track", "launch")
_BESIDE_GROUPS = ("dataset", "protocol")  # what files list in their defaults, and no command line chooses


def choices(folder: Path) -> list[str]:
    """The configurations of a folder, by the name that the command line gives them."""
    found = (path for path in folder.rglob("*.yaml") if not path.name.startswith("_"))  # _base is no choice
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in found)


def choices_of(group: str) -> list[str]:
    """The choices of a group, or of `experiments`."""
    return sorted({name for folder in _folders(group) for name in choices(folder)})


def _folders(group: str) -> list[Path]:
    first = experiments_folder() if group == EXPERIMENTS else CONF / group
    found = [] if first is None else [first]
    return found + [path for own in config_dirs() if (path := own / group).is_dir() and path not in found]


def check_own_names() -> None:
    """Refuses a file of --config-dir that has the name of another one, since Hydra would take that one without a word.

    Raises:
        ValueError: such a file, or a folder of --config-dir that does not exist; one line.
    """
    for group in (*GROUPS, *_BESIDE_GROUPS, EXPERIMENTS):
        known: dict[Path, Path] = {}
        for folder in _folders(group):
            for path in sorted(folder.rglob("*.yaml")):
                name = path.relative_to(folder)
                if name in known and not path.samefile(known[name]):
                    raise ValueError(f"{path} has the name of {known[name]}, which would be taken; give it another")
                known.setdefault(name, path)


def likely(group: str, value: str) -> str:
    """What a value that is no choice of a group probably means: " (did you mean method=hu?)", or "" for no idea.

    Names are compared without capitals and punctuation, so that a paper's (LoRA-GA, Init[A]) are found, too; further
    names of a method are `other_names` in its YAML.
    """
    known = choices_of(group)
    if f"r{value}" in known:
        return f"; say {group}=r{value}"
    if group == "rank" and value.removeprefix("r").isdecimal():
        return f"; say rank.r={value.removeprefix('r')}"
    by_name = {plain(name): name for name in known} | {plain(name.rpartition("/")[2]): name for name in known}
    if group == "method":
        by_name = {plain(other): name for name in known for other in _other_names(name)} | by_name
    return did_you_mean(plain(value), by_name, f"+{group}=" if group == EXPERIMENTS else f"{group}=")


def plain(name: str) -> str:
    """A name without capitals and punctuation: init_a for Init[A]."""
    return re.sub(r"\W+", "_", name.lower()).strip("_")


def _other_names(method: str) -> list[str]:
    path = next(path for folder in _folders("method") if (path := folder / f"{method}.yaml").is_file())
    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("other_names", [])
