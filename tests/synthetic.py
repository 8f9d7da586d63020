"""Studies of any number of completed runs, none of which was run: for what has to stay usable at a thousand.

Each record is one of results/schemes, a run of the demo's size, with another rank, learning rate, seed, loss and score;
its run_id is the one that `+experiments=schemes` gives that cell. Scores and outcomes agree.
"""

from __future__ import annotations

import functools
import gzip
import itertools
import json
import math
import random
from pathlib import Path
from typing import Any

from bench.runs.record import (
    ALIGNMENT,
    CURVE,
    LOSS,
    OUTCOMES,
    SCHEMA_VERSION,
    WEIGHTS,
    Record,
    describe_files,
    identity_digest,
    read_record,
    read_rows,
    write_record,
)
from bench.study.plan_file import RUN, PlannedRun, StudyPlan, write_plan

TEMPLATES = Path(__file__).parent.parent / "results" / "schemes"
METHODS = (
    "hu", "reversed", "orthogonal", "asymmetry_b", "asymmetry_a", "pissa", "milora", "olora", "mica", "corda", "eva",
    "lora_ga", "lora_ga_peft", "lora_one", "lora_xs", "lora_sb",
)  # fmt: skip
RANKS = (4, 8, 16, 32, 64)
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
Rows = list[dict[str, Any]]


def make_study(
    folder: Path,
    num_runs: int,
    *,
    experiment: str | None = None,
    alignment: bool = True,
    outcomes: bool = True,
    weights: bool = True,
) -> list[PlannedRun]:
    """Writes study.json and completed runs: 16 methods, 5 ranks and 5 learning rates a seed.

    Args:
        folder: of the study, as results/STUDY.
        num_runs: how many.
        experiment: which study.json names.
        alignment, outcomes, weights: whether these files are written; of the weights, an empty file.

    Returns:
        What the study's plan says.
    """
    seeds = range(math.ceil(num_runs / (len(METHODS) * len(RANKS) * len(RATES))))
    axes = itertools.islice(itertools.product(seeds, METHODS, RANKS, RATES), num_runs)
    kinds = {ALIGNMENT: alignment, OUTCOMES: outcomes, WEIGHTS: weights}
    runs = tuple(_write_run(folder, *values, [name for name, wanted in kinds.items() if wanted]) for values in axes)
    write_plan(folder, StudyPlan(experiment, (RUN,), runs))
    return list(runs)


def _write_run(folder: Path, seed: int, method: str, r: int, rate: float, kinds: list[str]) -> PlannedRun:
    record, rows = _template(method)[0].model_copy(deep=True), _template(method)[1]
    identity = record.identity
    record.config.seed = identity["seed"] = seed
    record.config.train.learning_rate = identity["train"]["learning_rate"] = rate
    identity["rank"] = {"r": r, "lora_alpha": 2.0 * r}
    record.config.rank = record.config.rank.model_copy(update={"name": f"r{r}", **identity["rank"]})
    record.run_id = f"{method}-r{r}-gsm_tiny-tiny_llama-s{seed}-{identity_digest(identity)}"
    draw = random.Random(record.run_id)
    num_items = len(rows[OUTCOMES])
    right = round(num_items * min(1.0, max(0.0, draw.gauss(_accuracy(method, r, rate), 0.03))))
    value = right / num_items
    record.scores[0].value, record.scores[0].stderr = value, math.sqrt(value * (1 - value) / (num_items - 1))
    assert record.training is not None
    record.training.eval_loss = 1.5 - value
    group = ("task=gsm_tiny", "model=tiny_llama", f"method={method}", f"rank=r{r}", f"train.learning_rate={rate:g}")
    planned = PlannedRun(RUN, group, (*group, f"seed={seed}"), record.run_id)
    record.command = " ".join(["python", "-m", "bench.run", *planned.overrides])
    path = folder / record.run_id
    path.mkdir(parents=True)
    _write_rows(path / CURVE, [_scaled(row, ("loss", "eval_loss"), 1.5 - value) for row in rows[CURVE]])
    if ALIGNMENT in kinds:
        _write_rows(path / ALIGNMENT, [_scaled(row, ("value",), value) for row in rows[ALIGNMENT]])
    if OUTCOMES in kinds:
        answered = set(draw.sample(range(num_items), right))
        text = "".join(
            json.dumps(item | {"metrics": dict.fromkeys(item["metrics"], float(place in answered))}) + "\n"
            for place, item in enumerate(rows[OUTCOMES])
        )
        (path / OUTCOMES).write_bytes(gzip.compress(text.encode(), compresslevel=1, mtime=0))
    if WEIGHTS in kinds:
        (path / WEIGHTS).touch()
    record.schema_version = SCHEMA_VERSION
    record.files = describe_files(path)
    write_record(path, record)
    return planned


def _accuracy(method: str, r: int, rate: float) -> float:
    """Best near the method's own learning rate, and somewhat better at higher ranks."""
    off = math.log10(rate / RATES[METHODS.index(method) % 3 + 1])
    return 0.55 + 0.02 * METHODS.index(method) % 0.2 + 0.03 * math.log2(r / 8) - 0.1 * off**2


def _scaled(row: dict[str, Any], keys: tuple[str, ...], factor: float) -> dict[str, Any]:
    return row | {key: row[key] * factor for key in keys if row.get(key) is not None}


def _write_rows(path: Path, rows: Rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@functools.cache
def _template(method: str) -> tuple[Record, dict[str, Rows]]:
    (folder,) = TEMPLATES.glob(f"{method}-r8-*-s0-*")
    record, rows = read_record(folder), {name: read_rows(folder / name) for name in (CURVE, ALIGNMENT, OUTCOMES)}
    record.scores = [score for score in record.scores if score.metric != LOSS]
    return record, rows | {OUTCOMES: [row for row in rows[OUTCOMES] if row["filter"] != LOSS]}
