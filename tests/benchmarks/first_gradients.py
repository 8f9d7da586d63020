"""Calibration for LoRA-GA and the alignment probe on SmolLM2-135M: this tree against the one of commit 72d1a51."""

from __future__ import annotations

import functools

import smollm2
import trees
from process import ROOT, Options, interleaved, on_threads
from table import Goal, Report, Row

# A step of one row, so that the phase of training peaks in its two probes.
CELL = ("method=lora_ga", "rank=r8", "task=commonsense/arc_easy", "train.learning_rate=2e-4", "train.max_steps=1")
CELL += ("train.batch_size=1", "measure.alignment_steps=1", "score.limit=2")
TIME, MEMORY = Goal(0.75), Goal(0.5)
PHASES = {"calibrate": "calibration", "measure": "two probes"}


def run(options: Options) -> Report | None:
    """Both trees in turns."""
    if smollm2.skipped("first_gradients") or trees.skipped("first_gradients"):
        return None
    num_samples = options.samples or (64 if options.full else 16)
    repetitions = options.repetitions or (3 if options.full else 1)
    overrides = (*smollm2.overrides(options), *CELL, f"task.calibration_samples={num_samples}")
    rows = []
    for named in on_threads(options):
        contenders = {"ours": ROOT, trees.COMMIT: trees.earlier()}
        asked = {name: functools.partial(trees.ask, tree, "cell", *overrides) for name, tree in contenders.items()}
        found = interleaved(asked, repetitions)
        for phase, what in PHASES.items():
            seconds = ([one["phases"][phase]["seconds"] for one in side] for side in found.values())
            rows.append(Row(f"{what}{named}", "s", *seconds, trees.COMMIT, TIME))
            if not named:
                peaks = ([trees.over_weights(one, phase) for one in side] for side in found.values())
                rows.append(Row(f"{what}: memory over the weights", "GB", *peaks, trees.COMMIT, MEMORY))
    return Report(rows, {"cell": CELL}, repetitions, num_samples)
