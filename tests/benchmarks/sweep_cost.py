"""What a grid costs: one process for all cells, which share what calibration and encoding made, against one a cell.

With --full 24 cells of the embedded tier: method {hu, lora_ga, lora_sb, lora_xs} x rank {r4, r8, r16} x seed {0, 1},
trained and scored as the demo is. Without, the 12 of seed 0, which share as much, on 20 steps and 32 scored items.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import ours
from process import NUM_THREADS, command
from repeat import Options, interleaved, say
from table import Goal, Report, Row

NAME = "sweep_cost"
GRID = {"method": ("hu", "lora_ga", "lora_sb", "lora_xs"), "rank": ("r4", "r8", "r16"), "seed": ("0", "1")}
CELL = ("model=tiny_llama", "task=gsm_tiny", "track=none")
REDUCED = ("train=demo", "train.max_steps=20", "score.limit=32")
FULL = ("train=demo", "score.limit=400")

Grid = dict[str, tuple[str, ...]]


def run(options: Options, grid: Grid | None = None) -> Report:
    """Both sides in turns, each repetition in empty folders of results and cache.

    Args:
        options: of the command line.
        grid: in place of the benchmark's own; a smaller one to try the benchmark itself.
    """
    settings, repetitions = (*CELL, *(FULL if options.full else REDUCED)), options.repetitions or 3
    grid = grid or (GRID if options.full else GRID | {"seed": ("0",)})
    contenders: dict[str, Callable[[], float]] = {
        "one process": lambda: _seconds(_one_process, grid, settings),
        "a process a cell": lambda: _seconds(_a_process_a_cell, grid, settings),
    }
    seconds = interleaved(NAME, contenders, repetitions)
    cells, peer = len(_cells(grid)), "a process a cell"
    return Report(
        name=NAME,
        rows=[Row(f"{cells} cells", "s", seconds["one process"], seconds[peer], peer, Goal(0.5))],
        shapes={"grid": grid, "cell": settings},
        samples=None,
        num_threads=NUM_THREADS,
        repetitions=repetitions,
        full=options.full,
    )


def _one_process(grid: Grid, settings: tuple[str, ...], folder: Path) -> None:
    words = [f"{group}={','.join(choices)}" for group, choices in grid.items()]
    command(NAME, *_bench_run(folder, "-m"), *words, *settings, *ours.cache_in(folder / "cache"))


def _a_process_a_cell(grid: Grid, settings: tuple[str, ...], folder: Path) -> None:
    cells = _cells(grid)
    for number, cell in enumerate(cells, start=1):
        if number % 8 == 0:
            say(f"{NAME}: cell {number} of {len(cells)}")
        command(NAME, *_bench_run(folder), *cell, *settings, *ours.no_cache())


def _bench_run(folder: Path, *flags: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "bench.run", *flags, "study=grid", f"results_dir={folder / 'results'}")


def _cells(grid: Grid) -> list[tuple[str, ...]]:
    groups = [[f"{group}={choice}" for choice in choices] for group, choices in grid.items()]
    return list(itertools.product(*groups))


def _seconds(side: Callable[[Grid, tuple[str, ...], Path], None], grid: Grid, settings: tuple[str, ...]) -> float:
    """Wall time of one side.

    Raises:
        RuntimeError: it left another number of finished runs than the grid has cells.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began = time.perf_counter()
        side(grid, settings, folder)
        seconds = time.perf_counter() - began
        finished = len(list(folder.glob("results/grid/*/record.json")))
    if finished != len(_cells(grid)):
        raise RuntimeError(f"{finished} runs of {len(_cells(grid))} cells")
    return seconds
