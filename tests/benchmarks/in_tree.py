"""python in_tree.py TREE QUESTION JSON: asks one tree of the suite, this one or an earlier one, and prints its answer.

A tree is asked through its own tests/benchmarks/ours.py, which does a cell in this process.
"""

from __future__ import annotations

import inspect
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def cell(ours: Any, overrides: list[str]) -> dict[str, Any]:
    """Does a cell: bytes held with its weights and its rows alone, its phases, and the rows of its curve."""
    import lm_eval.models.huggingface  # noqa: F401  what a cell imports is none of its phases' memory
    import transformers.trainer  # noqa: F401

    cfg = ours.composed(*overrides)
    with ours.silence():
        loaded = cfg.model.load(cfg.task.num_labels, cfg.seed)
        task = prepared(cfg, loaded)
    sum(parameter.abs().sum().item() for parameter in loaded.model.parameters())  # brings mapped weights in
    held = resident_bytes()
    del loaded, task
    with tempfile.TemporaryDirectory() as folder:
        done = ours.run_cell(Path(folder), *overrides)
    phases = {name: dict(cost) for name, cost in done.phases.items()}  # mappings, or pydantic's models
    return {"held_bytes": held, "phases": phases, "curve": done.curve}


def rows(ours: Any, overrides: list[str]) -> dict[str, Any]:
    """Reads and encodes a task's rows; seconds, without those of imports and of the model."""
    import bench.tasks.definition  # noqa: F401  which imports lm-eval

    cfg = ours.composed(*overrides)
    with ours.silence():
        loaded = cfg.model.load(cfg.task.num_labels, cfg.seed)
        began = time.perf_counter()
        task = prepared(cfg, loaded)
        seconds = time.perf_counter() - began
    return {"seconds": seconds, "rows": len(task.train)}


def prepared(cfg: Any, loaded: Any) -> Any:
    """The cell's task for its model, read and encoded as the spine of the tree does it."""
    kept = [cfg.cache] if "cache" in inspect.signature(cfg.task.prepare).parameters else []
    if hasattr(cfg.task, "read"):
        cfg.task.read(cfg.score.split, cfg.trains, *kept)
    return cfg.task.prepare(loaded, cfg.seed, cfg.score.split, cfg.trains, *kept)


def resident_bytes() -> int:
    """Of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


if __name__ == "__main__":
    tree, question, words = sys.argv[1:]
    sys.path[:0] = [tree, str(Path(tree, "tests", "benchmarks"))]
    import bench.run  # noqa: F401  with it come the tree's plugins of Hydra
    import ours

    print(json.dumps({"cell": cell, "rows": rows}[question](ours, json.loads(words))))
