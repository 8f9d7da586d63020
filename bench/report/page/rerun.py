"""The command of a run that is in no study.json, built from its record."""

from __future__ import annotations

import re
import shlex
from typing import Any

from bench.runs.record import Record

GROUPS = ("method", "system", "rank", "task", "model")
# Sections that an override can change; one that is not in the identity cannot change the result.
_SECTIONS = ("method", "system", "rank", "adapter", "task", "model", "train", "measure", "score", "svd")
_SET_BY_GROUP = ("name", "_target_")
# What Hydra's grammar reads as a string without quotes (https://hydra.cc/docs/advanced/override_grammar/basic/).
_PLAIN_STRING = re.compile(r"(?!(?:null|true|false|nan|inf)$)[A-Za-z_./][\w./-]*", re.IGNORECASE)


def rerun_command(record: Record) -> str:
    """The shell command that makes the run again, with every setting written out."""
    config = record.config.model_dump()
    chosen = [f"{group}={_written(config[group]['name'])}" for group in GROUPS if config.get(group, {}).get("name")]
    chosen += [f"{key}={_written(config[key])}" for key in ("seed", "study") if config.get(key) is not None]
    settings = [
        f"++{section}.{key}={_written(value)}"  # ++: whether conf/ names the key or leaves it to its default
        for section in _SECTIONS
        if section in record.identity
        for key, value in config.get(section, {}).items()
        if key not in _SET_BY_GROUP and not _nested(value)
    ]
    return shlex.join(["python", "-m", "bench.run", *chosen, *settings])


def _nested(value: Any) -> bool:
    """Dictionaries, and lists of them, are set by the name of the task or model."""
    return isinstance(value, dict) or (isinstance(value, list) and any(map(_nested, value)))


def _written(value: Any) -> str:
    """A value in the grammar of Hydra's overrides."""
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    if isinstance(value, str) and not _PLAIN_STRING.fullmatch(value):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    if isinstance(value, str):
        return value
    return "null" if value is None else str(value).lower()
