"""What a study's plan, records and leases say of its runs; starts and writes nothing."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tabulate import tabulate

from bench.process.config_dirs import config_dir_words
from bench.process.places import RUNS
from bench.runs.folder import RunFolder
from bench.runs.lease import Holder
from bench.runs.names import study_folder
from bench.runs.progress import STOPPED_AT
from bench.runs.record import FAILED, INTERRUPTED, RECORD
from bench.runs.state import DONE, NEW, RECORDED, RUNNING, STALE, STOPPED, State, state
from bench.study.plan_file import RUN, StudyPlan, into, no_study, read_plan

COLUMNS = (DONE, RUNNING, STOPPED, INTERRUPTED, STALE, FAILED, RECORDED, NEW)
NAMED = (RUNNING, STOPPED, STALE, INTERRUPTED, FAILED)  # states whose runs are named
WAITING = "waiting"
SHOWN = 10  # runs of a state that are named, unless all are asked for


@dataclass(frozen=True)
class Status:
    """A study: its plan, and the state of each run that was planned or begun, by run id."""

    name: str
    plan: StudyPlan
    states: Mapping[str, State]
    results_dir: Path = RUNS

    @property
    def stages(self) -> dict[str, Counter[str]]:
        """By stage, how many different runs are in each state; runs that no plan names come last."""
        counts: dict[str, Counter[str]] = {}
        named = set()
        for stage in self.plan.stages:
            planned = {run.run_id for run in self.plan.of(stage) if run.run_id is not None}
            named |= planned
            counts[stage] = Counter(self.states[run_id].name for run_id in planned)
            counts[stage][WAITING] = sum(run.run_id is None for run in self.plan.of(stage))
        if others := self.states.keys() - named:
            counts["not planned" if self.plan.runs else RUN] = Counter(self.states[run_id].name for run_id in others)
        return counts


def status(results_dir: Path, name: str) -> Status:
    """Looks at every run of a study.

    Raises:
        ValueError: there is no such study, its name leads elsewhere, or its plan is torn; one line.
    """
    folder = study_folder(results_dir, name)
    if not folder.is_dir():
        raise ValueError(f"{no_study(results_dir, name)}; a sweep makes it: python -m bench.run")
    plan = read_plan(folder) or StudyPlan(None, (RUN,), ())
    planned = {run.run_id for run in plan.runs if run.run_id is not None}
    begun = {path.parent.name for path in folder.glob(f"*/{RECORD}")} | {path.name for path in folder.glob(".*-*/")}
    names = sorted(planned | {one.removeprefix(".") for one in begun if not one.endswith(".copy")})
    states = {run_id: state(RunFolder(results_dir, name, run_id)) for run_id in names}
    return Status(name, plan, states, results_dir)


def text(found: Status, everything: bool) -> str:
    """A table of stages and states, the runs that are not simply done or new, and how to continue.

    Args:
        found: the study.
        everything: name all runs of a state, not only SHOWN.
    """
    total: Counter[str] = sum(found.stages.values(), Counter())
    columns = [one for one in (*COLUMNS, WAITING) if one in (DONE, NEW) or total[one]]
    rows = [[stage, sum(count.values()), *(count[one] for one in columns)] for stage, count in found.stages.items()]
    aligned = ("left", *["right"] * (len(columns) + 1))
    table = tabulate(rows, ["stage", "runs", *columns], "pipe", disable_numparse=True, colalign=aligned)
    lines = [f"{found.name}:", "", table]
    commands = {run.run_id: found.plan.command(run, found.results_dir, here=True) for run in found.plan.runs}
    for name in NAMED:
        runs = {run_id: one for run_id, one in found.states.items() if one.name == name}
        shown = list(runs) if everything else list(runs)[:SHOWN]
        lines += ["", f"{name}:"] if runs else []
        for run_id in shown:
            lines.append(f"  {run_id}: {_described(runs[run_id])}")
            if name == FAILED and run_id in commands:
                lines.append(f"    {commands[run_id]} run.retry_failed=true")
        if len(shown) < len(runs):
            lines.append(f"  and {len(runs) - len(shown)} more; --all names them")
    lines.append("")
    if total[WAITING]:
        lines.append(f"waiting for a learning rate that an earlier stage chooses: {total[WAITING]}")
    if total[RECORDED]:
        lines.append("recorded: a result without its weights, as a repository keeps it; a sweep does it again")
    if any(total[name] for name in (STALE, STOPPED, INTERRUPTED, NEW)):
        experiment = [f"+experiments={found.plan.experiment}"] if found.plan.experiment else []
        named = [*experiment, *found.plan.arguments, *into(found.results_dir)]
        sweep = shlex.join(["python", "-m", "bench.run", *config_dir_words(), "-m", *named])
        lines.append(f"to continue: {sweep if experiment or found.plan.arguments else 'the command that began it'}")
    return "\n".join(lines).rstrip("\n")


def plain(found: Status) -> dict[str, Any]:
    """For machines: counts by stage, and every run that is not done with what is known of it."""
    runs: dict[str, dict[str, Any]] = {}
    for run_id, one in found.states.items():
        if one.name != DONE:
            runs[run_id] = {"state": one.name} | (vars(one.holder) if one.holder is not None else {})
            runs[run_id] |= one.stop or {}
        if one.name == FAILED and one.record is not None:
            runs[run_id]["error"] = one.record.error and one.record.error.model_dump()
    return {"study": found.name, "stages": {stage: dict(count) for stage, count in found.stages.items()}, "runs": runs}


def _described(one: State) -> str:
    error = None if one.record is None else one.record.error
    if one.name == INTERRUPTED:
        return "killed; it will be resumed from its checkpoint" if error is None else f"by {error.type}"
    if one.name == FAILED:
        return str(error)
    if one.stop is not None:
        return f"at step {one.stop[STOPPED_AT]} of {one.stop['num_steps']}, eval loss {one.stop['eval_loss']:.3f}"
    assert one.holder is not None
    who = f"process {one.holder.pid} on {one.holder.host}"
    if one.name == STALE:
        return f"{who} sent its last heartbeat at {_clock(one.holder.beat)}{_progress(one.holder)}"
    return f"{who}, since {_clock(one.holder.since)}{_progress(one.holder)}"


def _progress(found: Holder) -> str:
    told = found.progress
    parts = [str(told["phase"])] if "phase" in told else []
    if told.get("phase") == "train" and "step" in told:
        parts.append(f"step {told['step']} of {told['num_steps']}")
        parts.append(f"{_duration(told['seconds_left'])} left to train")
    return "".join(f", {part}" for part in parts)


def _clock(seconds: float) -> str:
    shown = datetime.fromtimestamp(seconds)
    return shown.strftime("%H:%M:%S" if abs(time.time() - seconds) < 43200 else "%Y-%m-%d %H:%M")


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
