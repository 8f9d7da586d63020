"""The first files of a method or a task: templates, with the name filled in."""

from __future__ import annotations

import importlib.util
import json
import keyword
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from bench.process.files import write_whole
from bench.study.folders import CONF
from bench.sweep.choices import choices_of

KINDS = ("method", "task")
_TEMPLATES = Path(__file__).parent / "templates"
# Template -> file below the user's folder.
_FILES = {
    "method": {
        "method.py.txt": "{name}.py",
        "method.yaml.txt": "conf/method/{name}.yaml",
        "test_method.py.txt": "test_{name}.py",
    },
    "task": {
        "task.yaml.txt": "conf/task/{name}.yaml",
        "dataset.yaml.txt": "conf/dataset/{name}.yaml",
        "definition.yaml.txt": "conf/definitions/{name}.yaml",
        "metrics.py.txt": "conf/definitions/{name}_metrics.py",
    },
}
_COMMANDS = {
    "method": ("python -m pytest test_{name}.py", "python -m bench.run --config-dir conf method={name} study=mine"),
    "task": ("python -m bench.run --config-dir conf data.root=data task={name} train.max_steps=20 study=mine",),
}
_ROWS = {"train": range(1, 9), "test": range(9, 11)}  # ten sums


@dataclass(frozen=True)
class Written:
    """What was written, and the commands to try next."""

    paths: Sequence[Path]
    commands: Sequence[str]


def write(kind: str, name: str, to: Path) -> Written:
    """Writes the files of a method or a task below `to`.

    Args:
        kind: "method": class, YAML and test; or "task": task, dataset, lm-eval definition, metric, and ten rows.
        name: a Python identifier in lower case.
        to: the user's folder, made if it is not there.

    Raises:
        ValueError: the name cannot be taken, a file exists, or the folder is the suite's own; one line.
    """
    _check(kind, name)
    if (to / "conf").resolve() == CONF.resolve():
        raise ValueError(
            f"{to.resolve()} is the suite's own folder; give one of yours with --to DIR (CONTRIBUTING.md says how to "
            f"add a {kind} to the suite)"
        )
    words = {"name": name, "Class": "".join(part.capitalize() for part in name.split("_"))}
    texts = {
        to / place.format(name=name): Template((_TEMPLATES / template).read_text(encoding="utf-8")).substitute(words)
        for template, place in _FILES[kind].items()
    }
    if kind == "task":
        texts |= {to / "data" / name / f"{split}.jsonl": _rows(numbers) for split, numbers in _ROWS.items()}
    if there := [str(path) for path in texts if path.exists()]:
        raise ValueError(f"{', '.join(there)} exists; choose another name, or another folder with --to DIR")
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    first = [] if to.resolve() == Path.cwd() else [f"cd {shlex.quote(str(to))}"]
    return Written(list(texts), [*first, *(one.format(name=name) for one in _COMMANDS[kind])])


def _check(kind: str, name: str) -> None:
    if not name.isidentifier() or keyword.iskeyword(name) or name != name.lower():
        raise ValueError(f"{name!r} is no name for a {kind}: take lower-case letters, digits and _, a letter first")
    if name in choices_of(kind):
        raise ValueError(f"{kind}={name} exists; choose another name")
    if kind == "task" and (CONF / "dataset" / f"{name}.yaml").is_file():
        raise ValueError(f"the suite has a dataset {name}; choose another name")
    if kind == "method" and importlib.util.find_spec(name) is not None:
        raise ValueError(f"there is a Python module {name}; choose another name")


def _rows(numbers: Sequence[int]) -> str:
    rows = ({"question": f"What is {n} plus {n + 1}?", "answer": str(2 * n + 1)} for n in numbers)
    return "".join(json.dumps(row) + "\n" for row in rows)
