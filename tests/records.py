"""Records made of plain dicts, and their parts."""

import json
from pathlib import Path
from typing import Any

from bench.runs.record import Record

ENVIRONMENT = {
    "fingerprint": "f1",
    "versions": {"torch": "2", "transformers": "5"},
    "hardware": {"gpu": None, "cpu": "c", "num_threads": 1},
}


def make_record(
    run_id: str = "hu-1",
    status: str = "completed",
    label: str = "LoRA",
    config: dict[str, Any] | None = None,
    identity: dict[str, Any] | None = None,
    environment: dict[str, Any] | None = None,
    **parts: Any,
) -> Record:
    """A record; the names of method, task and model may be left out of the configuration."""
    names = {group: {"name": group[0]} for group in ("method", "task", "model")}
    given = {"run_id": run_id, "status": status, "label": label, "config": names | (config or {})}
    return Record.model_validate(given | {"identity": identity or {}, "environment": environment or {}} | parts)


def a_config(
    method: str = "hu", seed: int = 0, rate: float = 0.01, task: str = "t", model: str = "m"
) -> dict[str, Any]:
    """The parts of a configuration that reports read."""
    names = {"method": {"name": method}, "task": {"name": task}, "model": {"name": model}}
    return names | {"seed": seed, "train": {"learning_rate": rate}}


def a_score(value: float | None = 0.5, task: str = "t", metric: str = "acc", **changes: Any) -> dict[str, Any]:
    """A score over ten items, better if higher."""
    about = {"stderr": 0.1, "num_examples": 10, "higher_is_better": True, "majority": None}
    return {"task": task, "metric": metric, "value": value} | about | changes


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows as a run writes them, one a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
