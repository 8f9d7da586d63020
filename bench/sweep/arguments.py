"""What a command line may say: known keys and choices; anything else is refused in one line before Hydra sees it."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException

from bench.process.config_dirs import add_config_dir, add_option, config_dirs
from bench.process.provenance import version
from bench.process.validation import did_you_mean, one_line
from bench.runs.renamed import modern_override
from bench.study.folders import EXPERIMENTS, experiments_folder
from bench.sweep.choices import GROUPS, check_own_names, choices_of, likely

KEYS = (*GROUPS, *"seed study results_dir adapter svd cache checkpoint data run score retention hydra".split())

# Keys whose value is a name: study=2024 is the study "2024", though Hydra reads a number, and data.root=~/ü a folder.
NAMES = (
    *"study results_dir data.root cache.dir model.path model.revision".split(),
    *"task.template track.project retention.text".split(),
)

SEARCH_PATH = "hydra.searchpath"
COMPLETION = ("-sc", "--shell-completion")
WORKER = "--worker"  # the only argument of a process that takes cells of a sweep (bench.sweep.worker)
LAUNCHERS = {"slurm": "hydra-submitit-launcher"}  # that need a package of their own

# Of the hydra node: what an experiment file may set, and what not even a command line may, since it names code to call.
OF_EXPERIMENTS = ("mode", "run", "sweep", "sweeper")
NAMES_CODE = ("callbacks", "job_logging", "hydra_logging")


def refuse(message: str) -> NoReturn:
    """Prints one line on stderr and exits with status 2."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(2)


def check_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments, -m first, with present names for former ones, of which a line on stderr warns, and names quoted.

    Folders of --config-dir and of hydra.searchpath become those of this process and of the ones that it starts
    (bench.process.config_dirs); Hydra is given them by bench.sweep.search_path.

    Raises:
        SystemExit: an unknown key or choice, or a key that names code; one line on stderr.
    """
    if any(text in COMPLETION for text in arguments):  # whose words are no overrides
        return list(arguments)
    given = []
    for text in _with_config_dirs(arguments):
        now, notes = (text, []) if text.startswith("-") else modern_override(text)
        given.append(_readable(now))
        for note in notes:
            warnings.warn(note, stacklevel=2)
    texts = [text for text in given if not text.startswith("-") and ("=" in text or text.startswith("~"))]
    try:
        overrides = OverridesParser.create().parse_overrides(texts)
        for text, override in zip(texts, overrides, strict=True):
            if override.key_or_group == SEARCH_PATH:
                _add_search_path(text, override.value())
                given.remove(text)
        check_own_names()
        sweeps = [swept(one) for one in overrides]
    except HydraException as error:
        refuse(f"{one_line(error)}: Hydra cannot read this; quote a value that is a text: 'KEY=\"VALUE\"'")
    except ValueError as error:
        refuse(one_line(error))
    for text, override, several in zip(texts, overrides, sweeps, strict=True):
        _check(text, override, several)
        if override.key_or_group in NAMES and isinstance(override.value(), int | float):
            given[given.index(text)] = f'{override.get_key_element()}="{override.get_value_string().strip()}"'
    given += _of_torchrun(given)
    return sorted(given, key=lambda text: text not in ("-m", "--multirun"))  # no flag among overrides for Hydra


def _with_config_dirs(arguments: Sequence[str]) -> list[str]:
    """The arguments without --config-dir, whose folders are added to those of this process."""
    parser = argparse.ArgumentParser(prog="python -m bench.run", add_help=False, allow_abbrev=False)
    add_option(parser)
    options, left = parser.parse_known_args(arguments)
    try:
        for folder in options.config_dir:
            add_config_dir(folder)
    except ValueError as error:
        refuse(str(error))
    return left


def _add_search_path(text: str, folders: Any) -> None:
    for folder in folders if isinstance(folders, list) else [folders]:
        scheme, separator, path = str(folder).rpartition("://")
        if separator and scheme != "file":
            raise ValueError(f"{text}: {SEARCH_PATH} takes folders here, as file://FOLDER, and not {scheme}://")
        add_config_dir(path)


def _of_torchrun(given: Sequence[str]) -> list[str]:
    """What is added in the processes of torchrun, which do each cell together: none of them has workers.

    Raises:
        SystemExit: they were asked to; one line on stderr.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return []
    if "launch=workers" in given:
        refuse("launch=workers: the processes of torchrun do each cell together; leave it out, or torchrun")
    return [] if any(text.startswith("launch=") for text in given) else ["launch=basic"]


def _readable(text: str) -> str:
    """The override of a name or a group with its values in quotation marks, if Hydra cannot read them without.

    Such is ~/data, which shells expand behind some keys only; here it is the home folder's behind each.
    """
    key, _, value = text.partition("=")
    if key.lstrip("+") not in (*NAMES, *GROUPS) or "${" in value:
        return text
    try:
        OverridesParser.create().parse_override(text)
    except HydraException:
        names = (one if one.startswith(("'", '"')) else f'"{os.path.expanduser(one)}"' for one in value.split(","))
        return f"{key}={','.join(names)}"
    return text


def swept(override: Override) -> list[str] | None:
    """The values of a sweep, as texts; None for an override of one value.

    glob(lora_*) stands for the choices of its group that match, and glob([lora_*], exclude=[*_sb]) for fewer of them.

    Raises:
        ValueError: an interval, whose values cannot be enumerated; or glob(...) of what is no group, or of nothing;
            one line.
    """
    pattern, key = override.value(), override.key_or_group
    if override.is_interval_sweep():
        raise ValueError(f"{override.input_line}: an interval has no values to enumerate; write range(START,STOP,STEP)")
    if not isinstance(pattern, Glob):
        return list(override.sweep_string_iterator()) if override.is_sweep_override() else None
    if key not in (*GROUPS, EXPERIMENTS):
        raise ValueError(f"{override.input_line}: glob(...) takes choices of a group: {', '.join(GROUPS)}")
    known = choices_of(key)
    if not (found := pattern.filter(known)):
        raise ValueError(f"{override.input_line} matches nothing; choose from {', '.join(known)}")
    return found


def keys_of(values: Any, above: str = "") -> Iterator[str]:
    """Every key of a nest of dicts and lists, with those above it: "hydra.sweeper.params"."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield f"{above}{key}"
            yield from keys_of(value, f"{above}{key}.")
    elif isinstance(values, list):
        for value in values:
            yield from keys_of(value, above)


def names_code(key: str, in_experiment: bool = False) -> bool:
    """Whether the value of a dotted key could make Hydra, or Python's logging, call what it names."""
    first, *inner = key.split(".")
    of_hydra = inner[0] if first == "hydra" and inner else None
    if of_hydra in NAMES_CODE or (in_experiment and of_hydra not in (None, *OF_EXPERIMENTS)):
        return True
    return "_target_" in (first, *inner) and key != "method._target_"


def _check(text: str, override: Override, several: list[str] | None) -> None:
    """Refuses an override of what nothing reads, of no choice, or of a key that names code."""
    key, value = override.key_or_group, override.value()
    values = list(map(str, value if isinstance(value, list) else [value])) if several is None else several
    if override.package is not None and not override.is_delete():
        refuse(f"{text}: a choice has one place; leave @{override.package} out")
    named = [name for name in keys_of({key.replace("/", "."): value}) if names_code(name)]
    if named or ("_target_" in text.partition("=")[2]):
        refuse(f"{text}: no key but method._target_ names code; hydra.{', hydra.'.join(NAMES_CODE)} cannot be set")
    if key == EXPERIMENTS:
        _check_experiments(text, values, added=override.is_add())
    elif key in GROUPS:
        _check_choices(text, key, values)
    elif key.split(".")[0].split("/")[0] not in KEYS:
        meant = did_you_mean(key.split(".")[0].split("/")[0], KEYS)
        refuse(f"{text}: nothing reads {key}{meant}; known are {', '.join(KEYS)}, and +experiments=NAME")


def _check_choices(text: str, group: str, values: list[str]) -> None:
    known = choices_of(group)
    for value in values:
        if (group, value) == ("launch", "submitit_local"):
            refuse("launch=submitit_local is gone: launch=workers does runs in processes of this machine")
        if value not in known:
            refuse(f"{group}={value} does not exist{likely(group, value)}; choose from {', '.join(known)}")
    if group == "launch" and len(values) != 1:
        refuse(f"{text}: a sweep has one launcher; choose one")
    package = LAUNCHERS.get(values[0]) if group == "launch" else None
    if package and version(package) is None:
        refuse(f"{text} needs {package}: pip install 'lora-init-bench[cluster]'")


def _check_experiments(text: str, values: list[str], added: bool) -> None:
    folder, known = experiments_folder(), choices_of(EXPERIMENTS)
    if folder is None and not known:
        refuse(f"{text}: there is no folder experiments/ here ({Path.cwd()}), beside the package or in --config-dir")
    for value in values:
        if value not in known:
            places = ", ".join(map(str, (folder, *config_dirs())))
            meant = likely(EXPERIMENTS, value)
            refuse(f"experiments={value} does not exist in {places}{meant}; choose from {', '.join(known)}")
    if not added:
        refuse(f"{text}: an experiment is added, not replaced: +{text}")
