"""A LoRA-GA cell on ARC-Easy with SmolLM2-135M, from its command to its record, in float32 and bfloat16.

Against it, in one process: PEFT's preprocess_loraga, transformers.Trainer, lm_eval.simple_evaluate. Both calibrate,
compute the loss of held-out rows three times and score; ours also probes alignment three times. Without
--full there are half as many steps, measured twice as often, and a quarter of everything else: rows of a batch and of a
probe, calibration samples, held-out rows, scored items.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable

import smollm2
import stock
from process import Options, fresh, interleaved, on_threads, output
from table import Goal, Report, Row

# At full size everything but steps, batch, items and the learning rate is a cell's default.
FULL = {"num_steps": 60, "batch_size": 16, "num_items": 200}
REDUCED = {"num_steps": 30, "batch_size": 4, "num_items": 50}
GOALS = {"fp32": Goal(0.45), "bf16": Goal(0.33)}


def run(options: Options) -> Report | None:
    """All contenders in turns."""
    if smollm2.skipped("whole_cell"):
        return None
    repetitions = options.repetitions or 1
    sizes = FULL if options.full else REDUCED
    what, rows = "LoRA-GA, {num_steps} steps of {batch_size}, {num_items} items".format(**sizes), []
    for named in on_threads(options):
        found = interleaved(_contenders(options, **sizes), repetitions)
        for precision, goal in GOALS.items():
            row = f"{what}, {precision}{named}", "s", found[f"ours, {precision}"], found["stock"]
            rows.append(Row(*row, "stock, fp32", goal))
    return Report(rows, sizes, repetitions)


def _contenders(options: Options, num_steps: int, batch_size: int, num_items: int) -> dict[str, Callable[[], float]]:
    given = smollm2.overrides(options)
    folders = {word.partition("=")[0]: word.partition("=")[2] for word in given}
    peer = functools.partial(
        fresh,
        stock.cell,
        folder=folders["model.path"],
        data_root=folders["data.root"],
        num_steps=num_steps,
        batch_size=batch_size,
        num_items=num_items,
        precision="fp32",
    )
    cell = ("method=lora_ga", "rank=r8", "task=commonsense/arc_easy", "train.learning_rate=2e-4")
    cell += (f"train.max_steps={num_steps}", f"train.batch_size={batch_size}", f"score.limit={num_items}")
    cell += (f"train.eval_steps={num_steps // 3}", f"measure.alignment_steps={num_steps // 2}")
    cell += (f"task.calibration_samples={4 * batch_size}", f"task.calibration_batch_size={batch_size}")
    cell += (f"task.probe_samples={batch_size}", f"task.eval_samples={4 * batch_size}")
    made = {f"ours, {each}": functools.partial(_ours, *given, *cell, f"train.precision={each}") for each in GOALS}
    return made | {"stock": lambda: _seconds(peer)}


def _ours(*overrides: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        places = (f"results_dir={folder}/results", f"cache.dir={folder}/cache")
        return _seconds(lambda: output("-m", "bench.run", *overrides, *places))


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
