"""How long planning, status and report of 1,200 runs take, each command in a process of its own.

bench.plan of 16 methods, 5 ranks, 5 learning rates and 3 seeds; of 16 methods, 5 ranks, 3 tasks and 5 models; and of
the first study when all but one of its runs are done, which bench.status and bench.report read, too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from process import Options, say
from table import Goal, Report, Row

sys.path.append(str(Path(__file__).parent.parent))
from synthetic import METHODS, RANKS, RATES, make_study

NUM_CELLS = 1_200
STUDY = "schemes"
SECONDS = {"plan": 20.0, "status": 5.0, "report": 30.0}
PEAK_GIB = 1.0


def run(options: Options) -> Report:
    """Times each command once; its goal is an upper bound."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        results = Path(scratch) / "results"
        say(f"{NUM_CELLS:,} synthetic runs ...")
        make_study(results / STUDY, NUM_CELLS, experiment=STUDY)
        shutil.rmtree(next((results / STUDY).glob("hu-r4-*-s0-*")))
        empty, made = f"results_dir={scratch}/empty", f"results_dir={results}"
        cells = [f"method={','.join(METHODS)}", f"rank={','.join(f'r{r}' for r in RANKS)}"]
        rates = [f"train.learning_rate={','.join(f'{rate:g}' for rate in RATES)}", "seed=0,1,2"]
        places = ["task=gsm_tiny,commonsense_tiny,gsm8k"]
        places += ["model=tiny_llama,tiny_llama_w32,tiny_llama_w64,llama2_7b,smollm2_135m", "seed=0"]
        commands = {
            "plan, new: rates and seeds": ["plan", STUDY, empty, *cells, *rates],
            "plan, new: tasks and models": ["plan", STUDY, empty, *cells, *places],
            "plan, mostly done": ["plan", STUDY, made, *cells, *rates],
            "status": ["status", STUDY, "--results-dir", str(results)],
            "report": ["report", STUDY, "--results-dir", str(results)],
        }
        for name, command in commands.items():
            seconds, peak_gib = _measure(*command)
            rows.append(Row(name, "s", [seconds], goal=Goal(SECONDS[command[0]], absolute=True)))
            rows.append(Row(f"{name}, peak", "GiB", [peak_gib], goal=Goal(PEAK_GIB, absolute=True)))
    return Report(rows, {"cells": NUM_CELLS}, repetitions=1)


def _measure(name: str, *words: str) -> tuple[float, float]:
    """Seconds of a command of the suite from its start to its end, and the GiB of its peak."""
    say(f"bench.{name} {' '.join(words)[:80]} ...")
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", f"bench.{name}", *words], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)  # of this child alone: RUSAGE_CHILDREN would be the largest of all
    if status != 0:
        raise RuntimeError(f"bench.{name} {' '.join(words)[:200]} ended with {status}")
    return time.perf_counter() - began, usage.ru_maxrss / 2**20
