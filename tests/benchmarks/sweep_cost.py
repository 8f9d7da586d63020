"""What a grid costs: one process for all cells, which share what calibration and encoding made, against one a cell.

With --full 24 cells of the embedded tier: method {hu, lora_ga, lora_sb, lora_xs} x rank {r4, r8, r16} x seed {0, 1},
trained and scored as the demo is. Without, the 12 of seed 0, which share as much, on 20 steps and 32 scored items.
"""

from __future__ import annotations

import functools
import itertools
import tempfile
import time
from pathlib import Path

from process import Options, interleaved, output
from table import Goal, Report, Row

GRID = {"method": ("hu", "lora_ga", "lora_sb", "lora_xs"), "rank": ("r4", "r8", "r16"), "seed": ("0", "1")}
CELL = ("model=tiny_llama", "task=gsm_tiny", "track=none")
REDUCED = ("train=demo", "train.max_steps=20", "score.limit=32")
FULL = ("train=demo", "score.limit=400")
PEER = "a process a cell"


def run(options: Options) -> Report:
    """Both sides in turns, each repetition in empty folders of results and cache."""
    settings, repetitions = (*CELL, *(FULL if options.full else REDUCED)), options.repetitions or 3
    grid = GRID if options.full else GRID | {"seed": ("0",)}
    swept = ("-m", "launch=basic", *(f"{group}={','.join(choices)}" for group, choices in grid.items()))
    cells = [*itertools.product(*([f"{group}={choice}" for choice in choices] for group, choices in grid.items()))]
    contenders = {
        "one process": functools.partial(_seconds, [swept], settings, len(cells)),
        PEER: functools.partial(_seconds, [(*cell, "cache.enabled=false") for cell in cells], settings, len(cells)),
    }
    seconds = interleaved(contenders, repetitions)
    rows = [Row(f"{len(cells)} cells", "s", seconds["one process"], seconds[PEER], PEER, Goal(0.5))]
    return Report(rows, {"grid": grid, "cell": settings}, repetitions)


def _seconds(commands: list[tuple[str, ...]], settings: tuple[str, ...], num_cells: int) -> float:
    """Wall time of the commands one after another.

    Raises:
        RuntimeError: they left another number of finished runs than the grid has cells.
    """
    with tempfile.TemporaryDirectory() as folder:
        places = ("study=grid", f"results_dir={folder}/results", f"cache.dir={folder}/cache")
        began = time.perf_counter()
        for words in commands:
            output("-m", "bench.run", *words, *settings, *places)
        seconds = time.perf_counter() - began
        finished = len(list(Path(folder).glob("results/grid/*/record.json")))
    if finished != num_cells:
        raise RuntimeError(f"{finished} runs of {num_cells} cells")
    return seconds
