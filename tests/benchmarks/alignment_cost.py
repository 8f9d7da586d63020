"""What the alignment measures add to a run of the demo: measure=default against measure=none, in this process."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import ours
from process import Options, interleaved
from table import Goal, Report, Row

METHODS = {"lora_ga": "LoRA-GA", "hu": "LoRA"}
DEMO = ("train=demo", "model=tiny_llama", "task=gsm_tiny", "score.limit=400")


def run(options: Options) -> Report:
    """Runs with and without the measures in turns."""
    repetitions = options.repetitions or 3
    contenders = {
        f"{method}, measure={measure}": functools.partial(_costs, f"method={method}", f"measure={measure}", *DEMO)
        for method in METHODS
        for measure in ("default", "none")
    }
    _costs("method=hu", "train.max_steps=2", "score.limit=2")  # libraries that start lazily start here
    costs = interleaved(contenders, repetitions)
    rows = [row for method in METHODS for row in _rows(method, costs)]
    return Report(rows, {"run": DEMO}, repetitions, details={"seconds": costs})


def _costs(*overrides: str) -> dict[str, float]:
    """Seconds of one run: of its phases, and of the whole."""
    with tempfile.TemporaryDirectory() as folder:
        cell = ours.run_cell(Path(folder), *overrides)
    return {name: phase.seconds for name, phase in cell.phases.items()} | {"run": cell.seconds}


def _rows(method: str, costs: dict[str, list[dict[str, Any]]]) -> list[Row]:
    with_measures, without = costs[f"{method}, measure=default"], costs[f"{method}, measure=none"]
    training = [cost["train"] for cost in with_measures]
    both = [cost["train"] + cost["measure"] for cost in with_measures]
    runs = [cost["run"] for cost in with_measures], [cost["run"] for cost in without]
    goal, label = Goal(1.10), METHODS[method]
    return [
        Row(f"{label}: training with its measures", "s", both, training, "training alone", goal),
        Row(f"{label}: the whole run", "s", *runs, "measure=none", goal),
    ]
