"""A machine that others use: LoRA steps of two threads, alone and beside four processes that do nothing but compute.

Ours is what the package sets: threads that wait for one another spin for a bounded time. The peer is libgomp's own
300,000 turns, which on a busy machine keep the awaited thread from the core that it needs.
"""

from __future__ import annotations

import functools
import itertools
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate.utils import patch_environment

import bench
import ours
from process import Options, fresh, interleaved
from table import Goal, Report, Row

CELL = ("method=hu", "rank=r8", "task=gsm_tiny", "measure=none", "train.eval_steps=0", "score.limit=2")
NUM_STEPS, NUM_BUSY = 30, 4
LIBRARY = {"GOMP_SPINCOUNT": "300000"}


def run(options: Options) -> Report:
    """Both settings in turns, then ours beside the busy processes, where the library's would take hours."""
    repetitions = options.repetitions or 3
    ours_alone = functools.partial(_seconds, bench.BOUNDED_SPINNING)
    seconds = interleaved({"ours": ours_alone, "library": functools.partial(_seconds, LIBRARY)}, repetitions)
    with _busy(NUM_BUSY):
        seconds |= interleaved({"beside others": ours_alone}, repetitions)
    rows = [
        Row("a step, alone", "s", seconds["ours"], seconds["library"], "libgomp's spinning", Goal(1.05)),
        Row(f"a step, beside {NUM_BUSY} processes", "s", seconds["beside others"], seconds["ours"], "alone", Goal(4.0)),
    ]
    return Report(rows, {"run": CELL, "steps": NUM_STEPS, "threads": 2, "busy": NUM_BUSY}, repetitions)


def _seconds(variables: dict[str, str]) -> float:
    with patch_environment(omp_num_threads="2", **{name.lower(): value for name, value in variables.items()}):
        return fresh(_median_step)


def _median_step() -> float:
    with tempfile.TemporaryDirectory() as folder:
        curve = ours.run_cell(Path(folder), *CELL, f"train.max_steps={NUM_STEPS}").curve
    ends = [row["seconds"] for row in curve]
    return statistics.median(end - begin for begin, end in itertools.pairwise(ends[4:]))


@contextmanager
def _busy(number: int) -> Iterator[None]:
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()
