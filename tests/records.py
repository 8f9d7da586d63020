"""Records made of plain dicts."""

from typing import Any

from bench.runs.record import Record


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
