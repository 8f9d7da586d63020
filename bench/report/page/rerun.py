"""The command of a run that no plan holds, from its record."""

from __future__ import annotations

import re
import shlex
from typing import Any

from bench.runs.record import Record

GROUPS = ("method", "rank", "task", "model")
# Of settings with a default that an override can have changed; what a run's identity lacks does not concern it.
_SECTIONS = ("method", "rank", "adapter", "task", "model", "train", "measure", "score", "svd")
_CHOSEN_BY_GROUP = ("name", "_target_")
# What Hydra's grammar reads as a string without quotes (https://hydra.cc/docs/advanced/override_grammar/basic/).
_PLAIN_STRING = re.compile(r"[A-Za-z_./][\w./-]*")
_KEYWORDS = ("null", "true", "false", "nan", "inf")


def rerun_command(record: Record) -> str:
    """The shell command that makes this run again, with every setting of it spelt out."""
    config = record.config.model_dump()
    chosen = [f"{group}={_written(config[group]['name'])}" for group in GROUPS if config.get(group, {}).get("name")]
    settings = [
        f"++{section}.{key}={_written(value)}"  # ++: whether conf/ names the key or leaves it to its default
        for section in _SECTIONS
        if section in record.identity
        for key, value in config.get(section, {}).items()
        if key not in _CHOSEN_BY_GROUP and _writable(value)
    ]
    study = [f"study={_written(config['study'])}"] if config.get("study") else []
    seed = [f"seed={config['seed']}"] if "seed" in config else []
    return shlex.join(["python", "-m", "bench.run", *chosen, *seed, *study, *settings])


def _writable(value: Any) -> bool:
    """Whether a value fits on a command line; the nested ones come with the task's and the model's name."""
    return not isinstance(value, dict) and not (isinstance(value, list) and any(isinstance(v, dict) for v in value))


def _written(value: Any) -> str:
    """A value in Hydra's grammar."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    if isinstance(value, str):
        plain = _PLAIN_STRING.fullmatch(value) and value.lower() not in _KEYWORDS
        return value if plain else "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return str(value)
