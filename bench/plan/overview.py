"""The cells of an experiment counted: what is done, what is left and how long that takes, and what is refused."""

from __future__ import annotations

import itertools
import shlex
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.runs.folder import RunFolder
from bench.runs.record import FAILED, INTERRUPTED
from bench.runs.state import DONE, NEW, RECORDED, RUNNING, STALE, state
from bench.study import selection as rates
from bench.study.plan_file import SELECT, PlannedRun, group_text

if TYPE_CHECKING:
    from bench.config import Run
    from bench.plan.estimate import Estimate
    from bench.runs.record import Record

Entry = tuple[PlannedRun, "Run | None"]  # the run is None where it is refused, or waits and cannot be composed yet
Estimator = Callable[["Run"], "Estimate"]

TOTAL = "total"
RETRIED = "retried"
ENDED = (DONE, FAILED)  # what the same command does not start again


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


def overview(study: str, overrides: Sequence[str], cells: Sequence[Entry], estimator: Estimator) -> Overview:
    """Counts and estimates.

    Args:
        cells: those of all stages, in order.
        estimator: asked once for each run that is to be done.
    """
    found = {run.run_id: run for _, run in cells if run is not None}
    known = {run_id: _now(run, state(RunFolder.of(run)).name) for run_id, run in found.items()}
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
    return RunFolder.of(run).record


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
