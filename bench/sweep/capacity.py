"""How many runs this machine does side by side: one a GPU, or one a core, as many as memory allows.

A second thread makes a step of a small model a third faster, a second process does two of them in the same time: so
each run has one thread, and there are as many as cores. Its bits then do not depend on how many those are.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.process.memory import available_bytes
from bench.sweep import size
from bench.sweep.gpus import gpus

if TYPE_CHECKING:
    from bench.config import Run

THREADS = "OMP_NUM_THREADS"


@dataclass(frozen=True)
class Capacity:
    """How many runs are done at a time, and why not more; it prints as a line."""

    at_a_time: int
    why: str

    def __str__(self) -> str:
        return f"{self.at_a_time} {'cell' if self.at_a_time == 1 else 'cells'} at a time: {self.why}"


def threads() -> int:
    """Threads of a run that is done beside others: OMP_NUM_THREADS where the user has set it, else one."""
    first = os.environ.get(THREADS, "").partition(",")[0]  # of nested parallel regions the outer
    return max(1, int(first)) if first.strip().isdecimal() else 1


def capacity(runs: Sequence[Run], jobs: int | None) -> Capacity:
    """How many of these runs are done at a time.

    Args:
        runs: not empty.
        jobs: asked for (hydra.launcher.jobs); None: what this machine can do.
    """
    if jobs is not None:
        return Capacity(jobs, "hydra.launcher.jobs")
    if found := gpus():
        return Capacity(len(found), "one a GPU")
    each = threads()
    cores = len(os.sched_getaffinity(0)) // each or 1  # what a job of Slurm may use, not what the machine has
    said = f"one a core, with one thread ({cores})" if each == 1 else f"{THREADS}={each} threads each"
    if min(cores, len(runs)) == 1:
        return Capacity(1, said)
    unknown = next((run.model.name for run in runs if size.is_unknown(run)), None)
    if unknown is not None:
        return Capacity(1, f"the size of model={unknown} is not known; hydra.launcher.jobs=N if memory allows more")
    needed = max(size.PROCESS_BYTES + size.peak_bytes(run) for run in runs)
    fitting = max(1, available_bytes() // needed)
    if fitting < min(cores, len(runs)):
        free = available_bytes() / 2**30
        return Capacity(fitting, f"{free:.1f} GiB are free, and a cell may take {needed / 2**30:.1f}")
    return Capacity(min(cores, len(runs)), said)
