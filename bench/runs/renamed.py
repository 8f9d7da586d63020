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
    "hydra.launcher.n_jobs": "hydra.launcher.jobs",
}
VALUES = {
    "score.split": {"selection": "validation"},
    "launch": {"process": "workers", "joblib": "workers"},
}
_TRAINING = {"held_out_loss": "eval_loss"}  # of a record's training, and of a row of curve.jsonl

_HASHED_SPLITS = {new: old for old, new in VALUES["score.split"].items()}
_HASHED_KEYS = {new.rpartition(".")[2]: old.rpartition(".")[2] for old, new in KEYS.items()} | _HASHED_SPLITS


def modern(config: Mapping[str, Any], above: str = "") -> tuple[dict[str, Any], list[str]]:
    """A configuration under this version's names.

    Args:
        config: plain containers, as Hydra composes them, a record keeps them or an experiment's file has them. A key
            may also be written in full, as in hydra.sweeper.params and on a command line: "train.eval_steps".
        above: the keys above `config`, with a dot behind each.

    Returns:
        The configuration, and what was renamed: "train.held_out_steps is called train.eval_steps now".
    """
    found: dict[str, Any] = {}
    notes: list[str] = []
    for key, value in config.items():
        full = next((name for name in (f"{above}{key}", str(key)) if name in KEYS or name in VALUES), str(key))
        now = KEYS.get(full, full)
        if now != full:
            notes.append(f"{full} is called {now} now")
        name = key if now == full else now if str(key) == full else now.rpartition(".")[2]
        if isinstance(value, Mapping):
            found[name], below = modern(value, f"{above}{key}.")
            notes += below
        elif full in VALUES and isinstance(value, str):
            words = {word: VALUES[full].get(word.strip(), word) for word in value.split(",")}
            notes += [f"{full}={old} is called {full}={new} now" for old, new in words.items() if new != old]
            found[name] = ",".join(words.values())
        else:
            found[name] = value
    return found, notes


def modern_override(text: str) -> tuple[str, list[str]]:
    """The same of one override of a command line, such as "+train.held_out_steps=5" or "score.split=selection,test"."""
    left, equals, value = text.partition("=")
    key = left.lstrip("+~")
    found, notes = modern({key: value})
    ((now, given),) = found.items()
    return f"{left[: len(left) - len(key)]}{now}{equals}{given}", notes


def modern_row(row: dict[str, Any]) -> dict[str, Any]:
    """A record's training, or a row of curve.jsonl, under this version's names."""
    if not isinstance(row, dict) or _TRAINING.keys().isdisjoint(row):
        return row
    return {_TRAINING.get(key, key): value for key, value in row.items()}


def hashed_split(split: str) -> str:
    """A value of score.split under the name from which run ids are hashed."""
    return _HASHED_SPLITS.get(split, split)


def as_hashed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Part of an identity under the names from which run ids are hashed, nested dicts included."""
    return {
        _HASHED_KEYS.get(key, key): as_hashed(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
    }
