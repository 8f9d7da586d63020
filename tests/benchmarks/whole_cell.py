"""A LoRA-GA cell on ARC-Easy with SmolLM2-135M, from its command to its record, in float32 and bfloat16.

Against it, in one process: PEFT's preprocess_loraga, transformers.Trainer, lm_eval.simple_evaluate. Both calibrate,
compute the loss of 64 held-out rows every 20 steps and score; ours also probes alignment three times. Without --full
everything is a quarter: rows of a batch and of a probe, calibration samples, scored items.
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

NUM_STEPS = 60
GOALS = {"fp32": Goal(0.45), "bf16": Goal(0.33)}


def run(options: Options) -> Report | None:
    """All contenders in turns, on one thread and, with --full, on two."""
    if smollm2.skipped("whole_cell"):
        return None
    repetitions = options.repetitions or 1
    batch_size, num_items = (16, 200) if options.full else (4, 50)
    rows = []
    for threads, named in on_threads():
        if threads > 1 and not options.full:
            continue
        found = interleaved(_contenders(options, batch_size, num_items), repetitions)
        what = f"LoRA-GA, {NUM_STEPS} steps of {batch_size}, {num_items} items"
        for precision, goal in GOALS.items():
            row = f"{what}, {precision}{named}", "s", found[f"ours, {precision}"], found["stock"]
            rows.append(Row(*row, "stock, fp32", goal))
    return Report(rows, {"steps": NUM_STEPS, "batch_size": batch_size, "items": num_items}, repetitions)


def _contenders(options: Options, batch_size: int, num_items: int) -> dict[str, Callable[[], float]]:
    given = smollm2.overrides(options)
    folders = {word.partition("=")[0]: word.partition("=")[2] for word in given}
    sizes = {"num_steps": NUM_STEPS, "batch_size": batch_size, "num_items": num_items}
    peer = functools.partial(fresh, stock.cell, folder=folders["model.path"], data_root=folders["data.root"], **sizes)
    cell = ("method=lora_ga", "rank=r8", "task=commonsense/arc_easy", f"train.max_steps={NUM_STEPS}")
    cell += (f"train.batch_size={batch_size}", "train.learning_rate=2e-4", f"score.limit={num_items}")
    if batch_size < stock.CALIBRATION_BATCH_SIZE:
        cell += (f"task.calibration_batch_size={batch_size}", f"task.calibration_samples={4 * batch_size}")
        cell += (f"task.probe_samples={batch_size}",)
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
