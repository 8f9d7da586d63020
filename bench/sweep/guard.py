"""Hydra's callback: what is refused before a run or a sweep starts, and what is said when it has ended.

Hydra takes a mistyped key as a new one, a YAML list of sweep values as one value, and an experiment without -m as a
single run; each of these is an error here. A whole sweep is validated before its first run.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from bench.process.places import RUNS
from bench.runs.folder import RunFolder
from bench.study.plan_file import RUN, PlannedRun, StudyPlan
from bench.study.registration import registration
from bench.sweep.arguments import refuse
from bench.sweep.compose import as_given
from bench.sweep.expansion import PlannedCell, portable, repeating
from bench.sweep.resolvers import experiment
from bench.sweep.sweep import Sweep

if TYPE_CHECKING:
    from bench.config import Run
    from bench.runs.job import Origin

POSITION = "LORA_INIT_BENCH_POSITION"  # tells the process of a cell which one it is, such as "[3/21]"
RETRY, MOST_NAMED = "run.retry_failed=true", 5


class Guard(Callback):
    """Validates a run or a whole sweep before it starts."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Refuses an experiment's axes and launch=slurm without -m; Hydra would ignore both without a word."""
        given = as_given(config.hydra)
        keys = {text.partition("=")[0] for text in given}
        if swept := [key for key in config.hydra.sweeper.params or {} if key not in keys]:
            refuse(f"this experiment sweeps {', '.join(swept)}: add -m")
        if "launch=slurm" in given and POSITION not in os.environ:
            refuse("launch=slurm submits the cells of a sweep: add -m")

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Composes and validates every cell, so that a wrong one is known before hours have passed."""
        if config.hydra.runtime.choices.get("launch") == "slurm" and shutil.which("sbatch") is None:
            refuse("launch=slurm needs sbatch, which is not here: start the sweep on a machine that submits to Slurm")
        try:
            sweep = Sweep.current = Sweep(config, as_given(config.hydra))
        except ValueError as error:
            refuse(str(error))
        sweep.plan()
        distinct = {run.run_id: run for run in sweep.runs}
        done = sum(RunFolder.of(run).done for run in distinct.values())
        waiting = len(sweep.planned) - len(sweep.runs)
        later = f", {waiting} wait for learning rates" if waiting else ""
        print(f"{len(sweep.runs)} cells, {len(distinct)} different runs, {done} done before{later}", flush=True)
        if found := hint(list(distinct.values())):
            print(found, flush=True)


def position() -> str:
    """Which run of how many, as "[3/21]"; "[1/1]" without a sweep."""
    hydra = HydraConfig.get()
    if given := os.environ.get(POSITION):
        return given
    if hydra.mode is not RunMode.MULTIRUN:
        return "[1/1]"
    number, total = hydra.job.num + 1, Sweep.current.num_launched if Sweep.current else 0
    return f"[{number}/{max(total, number)}]"


def _commits(config: DictConfig, run: Run) -> Iterator[str]:
    """What pins a Hub revision that was given as a branch or a tag."""
    if run.model.revision != config.model.revision:
        yield f"model.revision={run.model.revision}"
    for name, dataset in run.task.datasets.items():
        if dataset.hub is not None and dataset.hub.revision != config.task.datasets[name].hub.revision:
            yield f"task.datasets.{name}.hub.revision={dataset.hub.revision}"


def origin(overrides: Sequence[str], config: DictConfig, run: Run) -> Origin:
    """The command line that makes exactly this run, without folders of this machine, and what its study registered.

    Args:
        overrides: of the run, with the experiment.
        config: composed from them.
        run: built from it; it has found the commits of branches and tags.
    """
    pinned = portable([*overrides, *_commits(config, run)])
    from bench.runs import job

    command = StudyPlan(experiment(), (), ()).command(PlannedRun(RUN, (), pinned, None))
    return job.Origin(command, registration(experiment()))


def hint(runs: list[Run]) -> str | None:
    """The svd.rank at which all ranks of a sweep can share one calibration; None if they do already."""
    widths: dict[str, set[int]] = {}
    for run in runs:
        if run.method.decomposes:
            needed = run.method.num_singular(run.rank.r)
            widths.setdefault(run.method_name, set()).add(max(run.svd.rank, needed))
    apart = {name: max(found) for name, found in sorted(widths.items()) if len(found) > 1}
    said = f"some ranks need calibrations of their own; svd.rank={max(apart.values(), default=0)} lets all share one"
    return f"{', '.join(apart)}: {said}" if apart else None


def _places(planned: Sequence[PlannedCell]) -> Iterator[str]:
    """Where the runs of a sweep lie, and the command that reports them."""
    for root, study in sorted({(run.results_dir, run.study) for cell in planned if (run := cell.run) is not None}):
        words = ["python", "-m", "bench.report", study, *([] if root == RUNS else ["--results-dir", str(root)])]
        yield f"runs: {root / study}; report: {shlex.join(words)}"


def _offline(paths: Sequence[Path]) -> Iterator[str]:
    """How to upload the W&B runs that were kept offline."""
    for folder in sorted({path.parent for path in paths}):
        count = sum(path.parent == folder for path in paths)
        yield f"W&B runs kept offline: {count}; to upload them: wandb sync {folder}/offline-run-*; for none: track=none"


def finish() -> int:
    """Prints where the runs lie, what to upload, what failed, and what has not ended; returns the exit status.

    A launcher that starts processes of its own reports nothing to this one: the runs' records say how they ended.
    """
    if Sweep.current is None and "bench.runs.job" not in sys.modules:  # --help: neither a sweep nor a run
        return 0
    from bench.runs import job
    from bench.runs.record import FAILED

    planned = [] if Sweep.current is None else [cell for cell in Sweep.current.planned if not cell.waits]
    for line in (*_places(planned), *_offline(job.offline)):
        job.say(line)
    plan = StudyPlan(experiment(), (), ())
    failed, unrecorded = dict.fromkeys(job.failures, ""), []
    for run in {cell.planned.run_id: cell.run for cell in planned}.values():
        assert run is not None
        record = RunFolder.of(run).record
        if record is not None and record.status == FAILED:
            failed[run.run_id] = f": {record.error}"
        elif record is None and run.run_id not in failed:
            unrecorded.append(run)
    left = [run.run_id for run in unrecorded if job.stopped(run) is None]
    if stopped := len(unrecorded) - len(left):
        job.say(f"{stopped} runs have come to run.stop_at_step; the same command without it goes on with them")
    if left:
        names = ", ".join(left[:MOST_NAMED]) + (", ..." if len(left) > MOST_NAMED else "")
        job.say(f"{len(left)} runs have not ended ({names}); the same command resumes them", sys.stderr)
    if failed:
        job.say(f"{len(failed)} runs failed; each again, or all with the same command and {RETRY}:", sys.stderr)
    given = {cell.planned.run_id: replace(cell.planned, overrides=repeating(cell.overrides)) for cell in planned}
    for run_id, why in failed.items():
        again = f"\n    {plan.command(given[run_id])} {RETRY}" if run_id in given else ""
        job.say(f"{run_id}{why}{again}", sys.stderr)
    return 1 if failed or left else 0
