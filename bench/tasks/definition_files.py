"""Where lm-eval task definitions lie: in this room, in lm-eval itself, or in a folder of --config-dir."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from bench.process.config_dirs import config_dirs
from bench.process.hashes import file_sha256

OWN = Path(__file__).parent / "definitions"
BUILT_IN = Path(importlib.util.find_spec("lm_eval").submodule_search_locations[0]) / "tasks"  # type: ignore[index, union-attr]
_FUNCTION = re.compile(r"!function\s+([\w.]+)\.\w+")


def located(path: str) -> Path:
    """The file of a definition.

    Args:
        path: relative to bench/tasks/definitions, to lm_eval/tasks, or to a folder of --config-dir; the first of these
            that has it counts.

    Raises:
        ValueError: none of them has it, or the path leads out of them: a definition may name functions, which are
            imported.
    """
    folders = (OWN, BUILT_IN, *config_dirs())
    if ".." in Path(path).parts or Path(path).is_absolute():
        raise ValueError(f"{path!r} is no task definition in {', '.join(map(str, folders))}")
    found = next((file for folder in folders if (file := folder / path).is_file()), None)
    if found is None:
        raise ValueError(f"no task definition {path!r} in {', '.join(map(str, folders))}; --config-dir=DIR adds yours")
    return found


def users_sha256(path: str) -> str | None:
    """A hash of a definition of --config-dir, of those that it includes and of the files of the functions they name.

    None for the suite's own and lm-eval's, which change with their versions only. A module that such a file imports is
    not hashed.

    Raises:
        ValueError: as `located`.
    """
    file = located(path)
    if file.is_relative_to(OWN) or file.is_relative_to(BUILT_IN):
        return None
    return hashlib.sha256("".join(map(file_sha256, _files(file))).encode()).hexdigest()


def included(file: Path, path: str) -> Path:
    """The file that `include: path` in a definition names: as `located` finds it, or beside a user's."""
    beside = file.parent / path
    of_user = not file.is_relative_to(OWN) and beside != file and ".." not in Path(path).parts
    return beside if of_user and beside.is_file() else located(path)


def _files(file: Path) -> Iterator[Path]:
    text = file.read_text(encoding="utf-8")
    yield file
    for module in sorted(set(_FUNCTION.findall(text))):
        beside = file.parent / f"{module.replace('.', '/')}.py"
        spec = None if beside.is_file() else importlib.util.find_spec(module)
        if beside.is_file():
            yield beside
        elif spec is not None and spec.origin is not None:
            yield Path(spec.origin)
    named = yaml.safe_load(text.replace("!function ", "")).get("include")
    for path in named if isinstance(named, list) else [named] if named else []:
        other = included(file, path)
        if not (other.is_relative_to(OWN) or other.is_relative_to(BUILT_IN)):
            yield from _files(other)
