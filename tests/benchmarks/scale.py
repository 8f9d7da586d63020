"""How long planning, status and report of 1,200 runs take, each command in a process of its own.

bench.plan of 16 methods, 5 ranks, 5 learning rates and 3 seeds; of 16 methods, 5 ranks, 3 tasks and 5 models; and of
the first study when all but one of its runs are done, which bench.status and bench.report read, too.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from process import ENVIRONMENT, NUM_THREADS
from repeat import Options, say
from table import Goal, Report, Row

sys.path.append(str(Path(__file__).parent.parent))
from synthetic import METHODS, RANKS, RATES, make_study

NAME = "scale"
NUM_CELLS = 1_200
STUDY = "schemes"
SECONDS = {"plan": 20.0, "status": 5.0, "report": 30.0}
PEAK_GIB = 1.0


@dataclass(frozen=True)
class Measured:
    """One command."""

    seconds: float
    peak_gib: float


def run(options: Options) -> Report:
    """Times each command once; its goal is an upper bound.

    Args:
        options: of the command line; only `out` counts.
    """
    with tempfile.TemporaryDirectory() as scratch:
        results = Path(scratch) / "results"
        say(f"{NUM_CELLS:,} synthetic runs ...")
        make_study(results / STUDY, NUM_CELLS, experiment=STUDY)
        shutil.rmtree(next((results / STUDY).glob("hu-r4-*-s0-*")))
        empty = f"results_dir={scratch}/empty"
        methods, ranks = f"method={','.join(METHODS)}", f"rank={','.join(f'r{r}' for r in RANKS)}"
        rates = f"train.learning_rate={','.join(f'{rate:g}' for rate in RATES)}"
        places = ["task=gsm_tiny,commonsense_tiny,gsm8k"]
        places += ["model=tiny_llama,tiny_llama_w32,tiny_llama_w64,llama2_7b,smollm2_135m", "seed=0"]
        commands = {
            "plan, new: rates and seeds": ["plan", STUDY, empty, methods, ranks, rates, _seeds(3)],
            "plan, new: tasks and models": ["plan", STUDY, empty, methods, ranks, *places],
            "plan, mostly done": ["plan", STUDY, f"results_dir={results}", methods, ranks, rates, _seeds(3)],
            "status": ["status", STUDY, "--results-dir", str(results)],
            "report": ["report", STUDY, "--results-dir", str(results)],
        }
        measured = {name: _measure(command) for name, command in commands.items()}
    rows = []
    for name, found in measured.items():
        limit = SECONDS[commands[name][0]]
        rows.append(Row(name, "s", [found.seconds], goal=Goal(limit, absolute=True)))
        rows.append(Row(f"{name}, peak", "GiB", [found.peak_gib], goal=Goal(PEAK_GIB, absolute=True)))
    shapes = {"cells": NUM_CELLS}
    return Report(NAME, rows, shapes, None, NUM_THREADS, 1, options.full)


def _seeds(count: int) -> str:
    return f"seed={','.join(map(str, range(count)))}"


def _measure(command: list[str]) -> Measured:
    """A command of the suite in a process of its own, from its start to its end."""
    say(f"bench.{' '.join(command)[:80]} ...")
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", f"bench.{command[0]}", *command[1:]],
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    _, status, usage = _wait(process)
    if status != 0:
        raise RuntimeError(f"{' '.join(command)[:200]} ended with {status}")
    return Measured(time.perf_counter() - began, usage.ru_maxrss / 2**20)


def _wait(process: subprocess.Popen[Any]) -> tuple[int, int, resource.struct_rusage]:
    """Of this child alone: RUSAGE_CHILDREN would be the largest of all."""
    assert process.stderr is not None
    process.stderr.read()
    return os.wait4(process.pid, 0)
