"""The demo's sweep of tiny_llama on two cores: this tree against that of 72d1a51, as its `make demo` runs it.

With --full all three seeds, 19 cells; without, the first seed's seven.
"""

from __future__ import annotations

import functools
import os
import tempfile
import time
from pathlib import Path

import trees
from process import ROOT, Options, interleaved, output
from table import Goal, Report, Row

GOAL = Goal(0.55)


def run(options: Options) -> Report | None:
    """Both trees in turns, each repetition in empty folders of results and cache."""
    if trees.skipped("demo_sweep"):
        return None
    repetitions = options.repetitions or 1
    words, num_cells = ((), 19) if options.full else (("hydra.sweeper.params.seed=0",), 7)
    contenders = {
        "ours": functools.partial(_seconds, ROOT, None, num_cells, *words),
        trees.COMMIT: functools.partial(_seconds, trees.earlier(), "2", num_cells, *words),
    }
    seconds = interleaved(contenders, repetitions)
    row = Row(f"the demo's sweep, {num_cells} cells", "s", *seconds.values(), f"{trees.COMMIT}, `make demo`", GOAL)
    return Report([row], {"cells": num_cells, "cores": os.cpu_count()}, repetitions)


def _seconds(tree: Path, num_threads: str | None, num_cells: int, *words: str) -> float:
    """Wall time of the sweep.

    Args:
        tree: the suite's.
        num_threads: what the tree's Makefile fixes; None: nothing.
        num_cells: finished runs that are expected.
        words: further ones of the command line.

    Raises:
        RuntimeError: the number of finished runs is another.
    """
    before = os.environ.pop("OMP_NUM_THREADS", None)
    if num_threads is not None:
        os.environ["OMP_NUM_THREADS"] = num_threads
    try:
        with tempfile.TemporaryDirectory() as folder:
            places = (f"results_dir={folder}/results", f"cache.dir={folder}/cache")
            began = time.perf_counter()
            output("-m", "bench.run", "-m", "+experiments=demo", *words, *places, folder=tree)
            seconds = time.perf_counter() - began
            finished = len(list(Path(folder).glob("results/demo/*/record.json")))
    finally:
        os.environ.pop("OMP_NUM_THREADS", None)
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before
    if finished != num_cells:
        raise RuntimeError(f"{finished} runs of {num_cells} cells")
    return seconds
