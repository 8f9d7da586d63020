"""The runs as JSON for the script: what seeds and configurations share is written once."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from bench.report.page.runs import STATUSES, PageRun
from bench.report.read.load import Study

SEED = "\0"  # stands for the seed in a command; no shell command can hold it


def runs_data(study: Study, runs: Sequence[PageRun]) -> dict[str, Any]:
    """Statuses and stages in their order, cells, and runs that name their cell by its place."""
    cells = _Once()
    settings, sections = _Once(), _Once()
    rows = []
    for run in runs:
        shared = {
            "method": run.method,
            "label": run.label,
            "rank": run.rank,
            "task": run.task,
            "model": run.model,
            "rate": run.learning_rate,
            "stages": run.stages,
            "settings": settings.place({name: sections.place(value) for name, value in run.settings.items()}),
            "command": _without_seed(run),
        }
        own = {
            "cell": cells.place(shared),
            "seed": run.seed,
            "status": run.status,
            "id": run.run_id,
            "scores": [[score.name, score.value, score.text] for score in run.scores],
            "seconds": None if run.seconds is None else round(run.seconds, 2),
            "reason": run.reason,
        }
        rows.append({key: value for key, value in own.items() if value not in (None, [])})
    found = {run.status for run in runs}
    return {
        "statuses": [status for status in STATUSES if status in found],
        "stages": list(study.stages),
        "sections": sections.values,
        "settings": settings.values,
        "cells": cells.values,
        "runs": rows,
    }


class _Once:
    """Values, each kept once, found again by its place."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._places: dict[str, int] = {}

    def place(self, value: Any) -> int:
        key = json.dumps(value)
        if key not in self._places:
            self._places[key] = len(self.values)
            self.values.append(value)
        return self._places[key]


def _without_seed(run: PageRun) -> str:
    if run.seed is None:
        return run.command
    return re.sub(rf"(?<= seed=){run.seed}(?= |$)", SEED, run.command, count=1)
