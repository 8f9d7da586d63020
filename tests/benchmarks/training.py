"""LoRA steps on SmolLM2-135M: the suite's cell against PEFT and Trainer as they come, in float32 and bfloat16.

Both take the same examples in the same batches. Time is counted from the end of the first step to that of the last.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import ours
import smollm2
import stock
import trees
from process import ROOT, Options, fresh, interleaved, on_threads
from products import Floor, floor
from table import Goal, Report, Row

CELL = ("method=hu", "rank=r8", "measure=none", "train.learning_rate=2e-4", "train.eval_steps=0", "task.eval_samples=4")
TASKS = {"arc_easy": ("task=commonsense/arc_easy",), "gsm8k": ("task=gsm8k",)}
# Rows of a batch, and steps.
FULL, REDUCED = ({"arc_easy": 16, "gsm8k": 16}, 7), ({"arc_easy": 16, "gsm8k": 4}, 2)
TIME, MEMORY = Goal(0.75), Goal(0.45)
BF16 = {"stock, fp32": Goal(0.50), "stock, bf16": Goal(0.80)}


def run(options: Options) -> Report | None:
    """All contenders in turns, a process each."""
    if smollm2.skipped("training"):
        return None
    sizes, num_steps = FULL if options.full else REDUCED
    repetitions = options.repetitions or (3 if options.full else 1)
    rows = []
    for named in on_threads(options):
        for task, words in TASKS.items():
            overrides = (*smollm2.overrides(options), *words, *CELL, "score.limit=2", "score.merged_samples=0")
            overrides += (f"train.batch_size={sizes[task]}", f"train.max_steps={num_steps}")
            precisions = ("fp32", "bf16") if task == "arc_easy" or options.full else ("fp32",)
            found = interleaved(_contenders(overrides, precisions), repetitions)
            least = {each: _floor(overrides, sizes[task], each) for each in precisions}
            rows += _rows(f"a step of {sizes[task]} {task} rows", named, num_steps, found, least, memory=not named)
    return Report(rows, {"batch_sizes": sizes, "steps": num_steps}, repetitions)


def _contenders(overrides: tuple[str, ...], precisions: tuple[str, ...]) -> dict[str, Callable[[], Any]]:
    made: dict[str, Callable[[], Any]] = {}
    for each in precisions:
        mine = (*overrides, f"train.precision={each}")
        made[f"ours, {each}"] = functools.partial(trees.ask, ROOT, "cell", *mine)
        made[f"stock, {each}"] = functools.partial(fresh, stock.train, overrides=overrides, precision=each)
    return made


def _rows(
    what: str, named: str, num_steps: int, found: dict[str, list[Any]], least: dict[str, Floor], memory: bool
) -> list[Row]:
    ends = {
        name: [
            [row["seconds"] for row in one["curve"]] if name.startswith("ours") else one.step_ends for one in repeated
        ]
        for name, repeated in found.items()
    }
    seconds = {name: [(end[-1] - end[0]) / (num_steps - 1) for end in each] for name, each in ends.items()}
    rows = [
        Row(
            f"{what}{named}",
            "s",
            seconds["ours, fp32"],
            seconds["stock, fp32"],
            "stock, fp32",
            TIME,
            least["fp32"].seconds,
        )
    ]
    if memory:
        peaks = [trees.over_weights(one, "train") for one in found["ours, fp32"]]
        peer = [one.cost.extra_bytes / 1e9 for one in found["stock, fp32"]]
        rows.append(Row(f"{what}: memory over the weights", "GB", peaks, peer, "stock, fp32", MEMORY))
    for peer, goal in BF16.items() if "bf16" in least else ():
        mine = seconds["ours, bf16"]
        rows.append(Row(f"{what}, bf16, to {peer}{named}", "s", mine, seconds[peer], peer, goal, least["bf16"].seconds))
    return rows


def _floor(overrides: tuple[str, ...], batch_size: int, precision: str) -> Floor:
    """Of a step of average rows: those of the second and later steps differ by chance."""
    tokens, labels = fresh(_counts, overrides=overrides)
    bf16 = precision == "bf16"
    whole = (round(tokens * batch_size),), (round(labels * batch_size),)
    return fresh(floor, config=smollm2.config(), tokens=whole[0], label_tokens=whole[1], training=True, bf16=bf16)


def _counts(overrides: tuple[str, ...]) -> tuple[float, float]:
    """Tokens and label tokens of a training example after the first step, on average."""
    from bench.train import order

    cfg = ours.composed(*overrides)
    with ours.silence():
        task = cfg.task.prepare(cfg.model.load(), cfg.seed, cfg.score.split)
    settings = cfg.train
    drawn = order(len(task.train), settings.max_steps * settings.batch_size, cfg.seed)[settings.batch_size :]
    rows = [task.train[index] for index in drawn]
    labels = sum(sum(label != -100 for label in row.labels) for row in rows)
    return sum(len(row.input_ids) for row in rows) / len(rows), labels / len(rows)
