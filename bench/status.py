"""How a study stands: `python -m bench.status STUDY`. Which runs are done, running (where, since when, how far), failed
(why), interrupted, or left by a process that is gone.

Reads study.json, records and leases; starts and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from bench.process.redact import redacted
from bench.runs.folder import RunFolder
from bench.runs.lease import Holder
from bench.runs.names import study_folder
from bench.runs.record import FAILED, INTERRUPTED, RECORD
from bench.runs.state import DONE, NEW, RECORDED, RUNNING, STALE, State, state
from bench.study.plan_file import RUN, CorruptPlanError, StudyPlan, read_plan

COLUMNS = (DONE, RUNNING, INTERRUPTED, STALE, FAILED, RECORDED, NEW)
WAITING = "waiting"
SHOWN = 10  # runs of a kind that are named, unless all are asked for


@dataclass(frozen=True)
class Status:
    """A study: its plan, and the state of each run that was planned or begun, by run id."""

    name: str
    plan: StudyPlan
    states: Mapping[str, State]

    @property
    def stages(self) -> dict[str, Counter[str]]:
        """By stage, how many different runs are in which state; what no plan names is in the last one."""
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

    def of(self, name: str) -> dict[str, State]:
        """The runs in one state."""
        return {run_id: found for run_id, found in self.states.items() if found.name == name}


def status(results_dir: Path, name: str) -> Status:
    """Looks at every run of a study.

    Raises:
        ValueError: there is no such study, its name leads elsewhere, or its plan is torn; one line.
    """
    folder = study_folder(results_dir, name)
    if not folder.is_dir():
        raise ValueError(f"no study {name} in {results_dir}; a sweep makes it: python -m bench.run")
    plan = read_plan(folder) or StudyPlan(None, (RUN,), ())
    planned = {run.run_id for run in plan.runs if run.run_id is not None}
    begun = {path.parent.name for path in folder.glob(f"*/{RECORD}")} | {path.name for path in folder.glob(".*-*/")}
    names = sorted(planned | {one.removeprefix(".") for one in begun if not one.endswith(".copy")})
    return Status(name, plan, {run_id: state(RunFolder(results_dir, name, run_id)) for run_id in names})


def text(found: Status, everything: bool) -> str:
    """For a reader."""
    rows = [
        {"stage": stage, "runs": sum(count.values())} | {column: count[column] for column in (*COLUMNS, WAITING)}
        for stage, count in found.stages.items()
    ]
    table = pd.DataFrame(rows)
    kept = table.columns[:2].tolist() + [c for c in table.columns[2:] if c in (DONE, NEW) or table[c].any()]
    aligned = ["left"] + ["right"] * (len(kept) - 1)
    lines = [f"{found.name}:", "", table[kept].to_markdown(index=False, disable_numparse=True, colalign=aligned)]
    commands = {run.run_id: found.plan.command(run) for run in found.plan.runs}
    for name, described in ((RUNNING, _running), (STALE, _gone), (INTERRUPTED, _interrupted), (FAILED, _failed)):
        runs = found.of(name)
        shown = list(runs) if everything else list(runs)[:SHOWN]
        if runs:
            lines += ["", f"{name}:"]
        for run_id in shown:
            lines.append(f"  {run_id}: {described(runs[run_id])}")
            if name == FAILED and run_id in commands:
                lines.append(f"    {commands[run_id]} run.retry_failed=true")
        if len(shown) < len(runs):
            lines.append(f"  and {len(runs) - len(shown)} more; --all names them")
    return redacted("\n".join([*lines, *_remarks(found)]))


def _remarks(found: Status) -> list[str]:
    lines = [""]
    counts: Counter[str] = sum(found.stages.values(), Counter())
    if counts[WAITING]:
        lines.append(f"waiting for a learning rate that an earlier stage chooses: {counts[WAITING]}")
    if counts[RECORDED]:
        lines.append("recorded: a result without its weights, as a repository keeps it; a sweep does it again")
    if counts[STALE] or counts[INTERRUPTED] or counts[NEW]:
        lines.append(f"to go on: {_command(found)}")
    return lines if len(lines) > 1 else []


def _command(found: Status) -> str:
    experiment = found.plan.experiment
    return "the command that began it" if experiment is None else f"python -m bench.run -m +experiments={experiment}"


def _running(found: State) -> str:
    assert found.holder is not None
    return f"{_where(found.holder)}, since {_clock(found.holder.since)}{_progress(found.holder)}"


def _gone(found: State) -> str:
    assert found.holder is not None
    return f"{_where(found.holder)} gave its last sign at {_clock(found.holder.beat)}{_progress(found.holder)}"


def _interrupted(found: State) -> str:
    error = None if found.record is None else found.record.error
    return "killed; it goes on from its checkpoint" if error is None else f"by {error.type}"


def _failed(found: State) -> str:
    return str(found.record.error if found.record else None)


def _where(found: Holder) -> str:
    return f"process {found.pid} on {found.host}"


def _progress(found: Holder) -> str:
    told = found.progress
    parts = [str(told["phase"])] if "phase" in told else []
    if told.get("phase") == "train" and "step" in told:
        parts.append(f"step {told['step']} of {told.get('num_steps')}")
        if isinstance(told.get("seconds_left"), int | float):
            parts.append(f"{_duration(told['seconds_left'])} left to train")
    return "".join(f", {part}" for part in parts)


def _clock(seconds: float) -> str:
    shown = datetime.fromtimestamp(seconds)
    return shown.strftime("%H:%M:%S" if abs(time.time() - seconds) < 43200 else "%Y-%m-%d %H:%M")


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def plain(found: Status) -> dict[str, Any]:
    """For machines: counts by stage, and every run that is not done with what is known of it."""
    runs: dict[str, dict[str, Any]] = defaultdict(dict)
    for run_id, one in found.states.items():
        if one.name != DONE:
            runs[run_id]["state"] = one.name
        if one.holder is not None:
            runs[run_id] |= vars(one.holder)
        if one.name == FAILED and one.record is not None:
            runs[run_id]["error"] = one.record.error and one.record.error.model_dump()
    return {"study": found.name, "stages": {stage: dict(count) for stage, count in found.stages.items()}, "runs": runs}


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the status; exit status 2 with one line on stderr for what is no study."""
    parser = argparse.ArgumentParser(prog="python -m bench.status", description=(__doc__ or "").split(":")[0])
    parser.add_argument("study", help="the folder below the results folder, such as demo")
    parser.add_argument("--results-dir", type=Path, default=Path("results"), help="default: results")
    parser.add_argument("--all", action="store_true", help=f"name every run, not {SHOWN} of a kind")
    parser.add_argument("--json", action="store_true", help="for machines")
    given = parser.parse_args(arguments)
    try:
        found = status(given.results_dir, given.study)
    except (ValueError, OSError, CorruptPlanError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(redacted(json.dumps(plain(found), indent=1)) if given.json else text(found, given.all))
    return 0


if __name__ == "__main__":
    sys.exit(main())
