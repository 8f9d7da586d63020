"""What an experiment file would do, before anything starts: `python -m bench.plan STUDY [key=value ...] [--json]`.

Says for each stage how many runs there are, which are done, what is refused and why, what waits for a learning rate,
and how long the rest will take (bench.estimate). Takes the overrides that `bench.run` takes; starts and writes nothing.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shlex
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tabulate import tabulate

from bench import rates, states
from bench.folders import CONF
from bench.record import FAILED, INTERRUPTED, quiet_environment
from bench.run_folder import RunFolder
from bench.states import DONE, NEW, RECORDED, RUNNING, STALE
from bench.study import SELECT, PlannedRun, group_text

if TYPE_CHECKING:
    from bench.config import Run
    from bench.estimate import Estimate
    from bench.record import Record

Entry = tuple[PlannedRun, "Run | None"]  # the run is None where it is refused, or waits and cannot be composed yet
Planner = Callable[[str, Sequence[str]], list[Entry]]
Estimator = Callable[["Run"], "Estimate"]

TOTAL = "total"
RETRIED = "retried"
ENDED = (DONE, FAILED)  # what the same command does not start again
GROUPS_SHOWN = 4


@dataclass(frozen=True)
class Stage:
    """One row of the table.

    Attributes:
        cells: as planned; two that come to the same run are one of `runs`.
        to_do: what a sweep would start now: all that is neither done, failed, nor waiting.
        failed: runs that are left as they are, unless run.retry_failed=true.
        retried: of those to do, how many have failed before, with run.retry_failed=true.
        begun: of those to do, how many were interrupted or killed, and go on from their checkpoints.
        running: of those to do, how many another process has; a sweep leaves them to it.
        recorded: of those to do, how many have a result here without weights, as a repository keeps it.
        waiting: runs whose learning rate is not chosen yet.
        seconds: of what is to do and what waits; None where nothing of that is known.
        unknown: how many runs `seconds` leaves out.
        peak_bytes: the highest of those runs.
    """

    name: str
    cells: int
    runs: int
    done: int
    to_do: int
    failed: int
    retried: int
    begun: int
    running: int
    recorded: int
    waiting: int
    refused: int
    seconds: float | None
    unknown: int
    peak_bytes: int | None


@dataclass(frozen=True)
class Refusal:
    """Why some cells cannot be run."""

    reason: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Overview:
    """All that is said.

    Attributes:
        total: over the stages; a run of two stages is counted once.
        sources: what the estimates come from -> number of runs.
        edges: method and group of each grid of learning rates whose best one is its smallest or largest.
        command: starts the study.
    """

    study: str
    stages: tuple[Stage, ...]
    total: Stage
    refusals: tuple[Refusal, ...]
    sources: Mapping[str, int]
    edges: tuple[str, ...]
    command: str


def state(run: Run) -> str:
    """How a run stands: a name of bench.states."""
    return states.state(RunFolder(run.results_dir, run.study, run.run_id)).name


def overview(study: str, overrides: Sequence[str], cells: Sequence[Entry], estimator: Estimator) -> Overview:
    """Counts and estimates.

    Args:
        cells: those of all stages, in order.
        estimator: asked once for each run that is to be done.
    """
    found = {run.run_id: run for _, run in cells if run is not None}
    known = {run_id: _now(run, state(run)) for run_id, run in found.items()}
    left = {_key(*entry): entry[1] for entry in cells if entry[1] is not None and _is_left(*entry, known)}
    estimates = {key: estimator(run) for key, run in left.items()}
    names = dict.fromkeys(planned.stage for planned, _ in cells)
    rows = [_stage(name, [e for e in cells if e[0].stage == name], known, estimates) for name in names]
    return Overview(
        study=study,
        stages=tuple(rows),
        total=_stage(TOTAL, cells, known, estimates),
        refusals=_refusals(planned for planned, _ in cells),
        sources=dict(sorted(Counter(estimate.source for estimate in estimates.values()).items())),
        edges=_edges(cells),
        command=shlex.join(["python", "-m", "bench.run", "-m", f"+experiments={study}", *overrides]),
    )


def _key(planned: PlannedRun, run: Run | None) -> tuple[str, ...]:
    """What makes two cells the same run; one that waits may become any."""
    if planned.run_id is not None:
        return (planned.run_id,)
    return (planned.stage, *planned.overrides)


def _is_left(planned: PlannedRun, run: Run | None, states: Mapping[str, str]) -> bool:
    if planned.refused is not None:
        return False
    return planned.run_id is None or run is None or states[run.run_id] not in ENDED


def _now(run: Run, name: str) -> str:
    """What the state comes to in this command."""
    return RETRIED if name == FAILED and run.run.retry_failed else name


def _stage(
    name: str, cells: Sequence[Entry], states: Mapping[str, str], estimates: Mapping[tuple[str, ...], Estimate]
) -> Stage:
    distinct = {_key(*entry): entry for entry in cells if entry[0].refused is None}
    waiting = sum(planned.run_id is None for planned, _ in distinct.values())
    found = Counter(states.get(planned.run_id, NEW) for planned, _ in distinct.values() if planned.run_id is not None)
    left = [key for key, entry in distinct.items() if _is_left(*entry, states)]
    seconds = [estimates[key].seconds for key in left if key in estimates]
    known = [value for value in seconds if value is not None]
    peaks = [estimates[key].peak_bytes for key in left if key in estimates]
    return Stage(
        name=name,
        cells=len(cells),
        runs=len(distinct),
        done=found[DONE],
        to_do=sum(count for name, count in found.items() if name not in ENDED),
        failed=found[FAILED],
        retried=found[RETRIED],
        begun=found[INTERRUPTED] + found[STALE],
        running=found[RUNNING],
        recorded=found[RECORDED],
        waiting=waiting,
        refused=len(cells) - sum(planned.refused is None for planned, _ in cells),
        seconds=sum(known) if known or not left else None,
        unknown=len(left) - len(known),
        peak_bytes=max((peak for peak in peaks if peak is not None), default=None),
    )


def _refusals(planned: Iterable[PlannedRun]) -> tuple[Refusal, ...]:
    by_reason: dict[str, list[str]] = defaultdict(list)
    for cell in planned:
        if cell.refused is not None:
            by_reason[cell.refused].append(f"{cell.stage}: {group_text(cell.group)}")
    return tuple(Refusal(reason, tuple(cells)) for reason, cells in by_reason.items())


def _record(run: Run) -> Record | None:
    return RunFolder(run.results_dir, run.study, run.run_id).record


def _edges(cells: Sequence[Entry]) -> tuple[str, ...]:
    """The groups whose grid is complete and whose best learning rate is its smallest or largest."""
    by_group: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for planned, run in cells:
        if planned.stage == SELECT and run is not None:
            by_group[planned.group].append(run)
    found = []
    for group, runs in by_group.items():
        records = (_record(run) for run in runs)
        complete = list(itertools.takewhile(lambda record: record is not None, records))
        if len(complete) == len(runs):
            selection = rates.select(group, [record for record in complete if record is not None])
            if selection.at_edge and selection.best:
                rate = selection.best.learning_rate
                found.append(f"{selection.method} ({group_text(group)}; {selection.at_edge} end, {rate:g})")
    return tuple(found)


def text(found: Overview) -> str:
    """For a reader."""
    rows = [_cells(row) for row in (*found.stages, found.total)]
    aligned = ["left"] + ["right"] * (len(rows[0]) - 1)
    printed = tabulate(rows, headers="keys", tablefmt="pipe", disable_numparse=True, colalign=aligned)
    lines = [f"{found.study}: {found.total.cells} cells, {found.total.runs} different runs", "", printed, ""]
    lines += [_refusal_line(refusal) for refusal in found.refusals]
    lines += [f"{note}: {count}" for name, note in _NOTES.items() if (count := getattr(found.total, name))]
    lines += [f"estimated {source}: {_count(count, 'run')}" for source, count in found.sources.items()]
    if any("sizes" in source for source in found.sources):
        lines.append("From sizes: every example as long as task.max_length and every answer as long as allowed, so "
                     "mostly too high; activations and speed are guessed (bench/estimate).")  # fmt: skip
    lines += [f"best rate at the edge: {e}; python -m bench.extend {found.study} adds points" for e in found.edges]
    return "\n".join([*lines, "", f"start: {found.command}"])


def _cells(row: Stage) -> dict[str, str]:
    hours = "–" if row.seconds is None else ("≥ " if row.unknown else "") + _hours(row.seconds / 3600)
    return {
        "stage": row.name,
        **{name.replace("_", " "): f"{getattr(row, name):,}" for name in _COUNTS},
        "hours": hours,
        "peak GiB": "–" if row.peak_bytes is None else f"{row.peak_bytes / 2**30:.1f}",
    }


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _hours(hours: float) -> str:
    return f"{hours:.2g}" if hours < 10 else f"{hours:,.0f}"


_NOTES = {
    "failed": "failed before, and not started again; run.retry_failed=true does",
    "retried": "failed before, and started again",
    "begun": "begun before; goes on from the last checkpoint",
    "running": "running in another process, to which it is left",
    "recorded": "recorded, a result without its weights, such as a committed one; done again",
    "waiting": "waiting for a learning rate that an earlier stage chooses",
}
_COUNTS = ("cells", "runs", "done", "to_do", "failed", "recorded", "waiting", "refused")


def _refusal_line(refusal: Refusal) -> str:
    shown = "; ".join(refusal.cells[:GROUPS_SHOWN])
    more = f"; and {len(refusal.cells) - GROUPS_SHOWN} more" if len(refusal.cells) > GROUPS_SHOWN else ""
    return f"refused, {_count(len(refusal.cells), 'cell')}: {refusal.reason} ({shown}{more})"


def entries(study: str, overrides: Sequence[str]) -> list[Entry]:
    """The cells of an experiment, composed and validated as a sweep does it; a refused one does not stop the others.

    Raises:
        ValueError: the experiment itself cannot be composed, or a stage says nothing of its learning rates.
    """
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from hydra.types import RunMode

    from bench import stages, sweep

    arguments = [f"+experiments={study}", *overrides]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            config = GlobalHydra.instance().hydra.compose_config("config", arguments, RunMode.MULTIRUN)  # type: ignore[union-attr]
            given = list(config.hydra.overrides.task)
            if not stages.is_staged(config.hydra.sweeper):
                return [_checked(*cell) for cell in sweep.cells_of(config, given)]
            expanded = sweep.expansion(config, given)
            return [
                _checked(planned, run)
                for stage in expanded.definition.asked
                for planned, _, run in expanded.planned(stage)
            ]
        except HydraException as error:
            raise ValueError(" ".join(str(error).split())) from None
        finally:
            HydraConfig.instance().cfg = None


def _checked(planned: PlannedRun, run: Run | None) -> Entry:
    """Refuses also what only a model's layers tell."""
    from bench.estimate import refusal

    reason = None if run is None else refusal(run)
    return (planned, run) if reason is None else (replace(planned, run_id=None, refused=reason), None)


def main(arguments: Sequence[str] | None = None, planner: Planner = entries) -> int:
    """Prints the overview; exit status 2 with one line on stderr for what cannot be planned."""
    parser = argparse.ArgumentParser(prog="python -m bench.plan", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("study", help="an experiment, such as demo: experiments/STUDY.yaml")
    parser.add_argument("overrides", nargs="*", help="as bench.run takes them: key=value")
    parser.add_argument("--json", action="store_true", help="for machines")
    given = parser.parse_intermixed_args(arguments)
    quiet_environment()
    from bench.arguments import check_arguments, refuse
    from bench.estimate import estimator

    if stray := [text for text in given.overrides if "=" not in text and not text.startswith("~")]:
        refuse(f"{stray[0]} is no override; write key=value")
    check_arguments([f"+experiments={given.study}", *given.overrides])
    try:
        cells = planner(given.study, given.overrides)
        results_dir = next((run.results_dir for _, run in cells if run is not None), Path("results"))
        found = overview(given.study, given.overrides, cells, estimator(results_dir))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(asdict(found), indent=1) if given.json else text(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
