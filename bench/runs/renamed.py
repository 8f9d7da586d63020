"""Names that earlier versions gave to keys: they are still read, and run ids are still hashed from them.

A run's id is a hash of its identity. An identity that said `eval_steps` would give another id to every run that was
done when the key was `held_out_steps`; so an identity keeps the names under which it was first hashed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Configuration key of an earlier version -> key of this one. Read for one release, with one line of warning.
KEYS = {
    "train.held_out_steps": "train.eval_steps",
    "task.held_out_samples": "task.eval_samples",
    "task.selection_samples": "task.validation_samples",
    "run.lease_seconds": "run.heartbeat_timeout_seconds",
}
VALUES = {"score.split": {"selection": "validation"}}
_TRAINING = {"held_out_loss": "eval_loss"}  # of a record's training, and of a row of curve.jsonl

_HASHED_KEYS = {new.rpartition(".")[2]: old.rpartition(".")[2] for old, new in KEYS.items()} | {
    "validation": "selection"
}


HASHED_SPLITS = {"test": "test", "validation": "selection"}  # values of score.split


def modern(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A configuration under this version's names.

    Args:
        config: plain containers, as Hydra composes it or a record keeps it.

    Returns:
        The configuration, and what was renamed: "train.held_out_steps is called train.eval_steps now".
    """
    found, notes = dict(config), []
    for old, new in KEYS.items():
        section, key = old.split(".")
        values = found.get(section)
        if isinstance(values, Mapping) and key in values:
            found[section] = {k: v for k, v in values.items() if k != key} | {new.split(".")[1]: values[key]}
            notes.append(f"{old} is called {new} now")
    for name, renamed in VALUES.items():
        section, key = name.split(".")
        values = found.get(section)
        if isinstance(values, Mapping) and values.get(key) in renamed:
            found[section] = dict(values) | {key: renamed[values[key]]}
            notes.append(f"{name}={values[key]} is called {name}={renamed[values[key]]} now")
    return found, notes


def modern_row(row: dict[str, Any]) -> dict[str, Any]:
    """A record's training, or a row of curve.jsonl, under this version's names."""
    if not isinstance(row, dict) or _TRAINING.keys().isdisjoint(row):
        return row
    return {_TRAINING.get(key, key): value for key, value in row.items()}


def as_hashed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Part of an identity under the names from which run ids are hashed, nested dicts included."""
    return {
        _HASHED_KEYS.get(key, key): as_hashed(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
    }
