"""The runs of a study as the page shows them: those that have records, and those that were planned only."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from bench.report.judge.metrics import HELD_OUT_LOSS, base_name, scale_of
from bench.report.page.rerun import GROUPS, rerun_command
from bench.report.read.load import METHOD_ORDER, Study
from bench.report.tables.render import DASH
from bench.runs.record import COMPLETED, FAILED, Record
from bench.runs.record_parts import ErrorFacts
from bench.study.plan_file import PlannedRun

MISSING, WAITING, REFUSED, UNREADABLE = "missing", "waiting", "refused", "unreadable"
# In the order of the filter.
STATUSES = (COMPLETED, FAILED, UNREADABLE, MISSING, WAITING, REFUSED)
NO_RATE_YET = "the learning rate of its stage is not chosen yet"


@dataclass(frozen=True)
class RunScore:
    """One score as printed, with the value to sort by."""

    name: str
    value: float | None
    text: str


@dataclass(frozen=True)
class PageRun:
    """One row; DASH or None where something does not apply or is not known.

    Attributes:
        stages: all that the run serves.
        settings: its configuration without the seed, or of a run without a record the overrides.
        seconds: of all phases together.
        reason: why it failed or cannot be run.
    """

    method: str
    label: str
    rank: str
    task: str
    model: str
    learning_rate: float | None
    settings: dict[str, Any]
    command: str
    seed: int | None
    stages: tuple[str, ...]
    status: str
    run_id: str | None
    scores: tuple[RunScore, ...] = ()
    seconds: float | None = None
    reason: str | None = None


def page_runs(study: Study) -> list[PageRun]:
    """Every run of every stage, in the order of stages, methods, tasks, models, ranks, learning rates and seeds."""
    planned = _planned_by_id(study)
    recorded = [_recorded(study, record, planned.get(record.run_id, [])) for _, record in study.members]
    seen = {run.run_id for run in recorded}
    known = _Known(recorded)
    unreadable = set(study.unreadable)
    runs = recorded + [
        _without_record(study, same, known, UNREADABLE if run_id in unreadable else MISSING)
        for run_id, same in planned.items()
        if run_id not in seen
    ]
    unchosen = [run for run in study.plan.runs if run.run_id is None] if study.plan else []
    runs += [_without_record(study, [run], known, WAITING) for run in unchosen]
    runs += [_nameless(name) for name in study.unreadable if name not in planned]
    return sorted(runs, key=lambda run: _order(study.stages, run))


def _planned_by_id(study: Study) -> dict[str, list[PlannedRun]]:
    """What was planned by run id; several stages, or seeds that a method ignores, can have the same run."""
    found: dict[str, list[PlannedRun]] = {}
    for run in study.plan.runs if study.plan else ():
        if run.run_id is not None:
            found.setdefault(run.run_id, []).append(run)
    return found


def _order(stages: tuple[str, ...], run: PageRun) -> tuple:
    stage = min((stages.index(name) for name in run.stages if name in stages), default=len(stages))
    method = METHOD_ORDER.index(run.method) if run.method in METHOD_ORDER else len(METHOD_ORDER)
    rank = [int(part) if part.isdigit() else -1 for part in re.split(r"(\d+)", run.rank)]
    rate = -1.0 if run.learning_rate is None else run.learning_rate
    seed = -1 if run.seed is None else run.seed
    where = (run.task, run.model, rank, run.rank, rate, seed)
    return stage, method, run.method, *where, STATUSES.index(run.status), run.run_id or "", run.command


def _recorded(study: Study, record: Record, planned: list[PlannedRun]) -> PageRun:
    config = record.config
    stages = tuple(dict.fromkeys(run.stage for run in planned))
    if not stages and (study.plan is None or len(study.stages) == 1):
        stages = study.stages
    command = study.plan.command(planned[0]) if study.plan and planned else rerun_command(record)
    seconds = [phase.seconds for phase in record.phases.values()]
    reason = None
    if record.status != COMPLETED:
        reason = str(record.error or ErrorFacts())
    return PageRun(
        method=config.method.name or DASH,
        label=record.label,
        rank=config.rank.name or DASH if "rank" in record.identity else DASH,
        task=config.task.name or DASH,
        model=config.model.name or DASH,
        learning_rate=config.train.learning_rate if "train" in record.identity else None,
        settings={key: value for key, value in config.model_dump().items() if key != "seed"},
        command=command,
        seed=config.seed if "seed" in record.identity else None,
        stages=stages,
        status=record.status if record.status in STATUSES else FAILED,
        run_id=record.run_id,
        scores=_scores(record),
        seconds=sum(seconds) if seconds else None,
        reason=reason,
    )


def _scores(record: Record) -> tuple[RunScore, ...]:
    """All of them, the dataset named where there are several; the held-out loss where nothing was scored."""
    several = len({score.task for score in record.scores}) > 1
    bases = [(score.task, base_name(score.metric)) for score in record.scores]
    found = []
    for score, base in zip(record.scores, bases, strict=True):
        metric = base[1] if bases.count(base) == 1 else score.metric
        found.append(_score(f"{score.task} {metric}" if several else metric, score.metric, score.value))
    loss = record.training.eval_loss if record.training else None
    if not found and loss is not None:
        found.append(_score("held-out loss", HELD_OUT_LOSS, loss))
    return tuple(found)


def _score(name: str, metric: str, value: float | None) -> RunScore:
    scale = scale_of(metric)
    if value is None or math.isnan(value):  # NaN: such as the correlation of a constant prediction
        return RunScore(name, None, DASH)
    return RunScore(name, scale.factor * value, f"{scale.text(value)} {scale.unit}".rstrip())


class _Known:
    """What records tell of the runs that have none: an override names a setting only where it is not the default."""

    def __init__(self, runs: Iterable[PageRun]) -> None:
        self._runs = list(runs)
        self.labels = {run.method: run.label for run in self._runs}

    def only(self, method: str, setting: str) -> Any:
        """The one value of a setting among the method's records, else among all; None where there are several."""
        for runs in ([run for run in self._runs if run.method == method], self._runs):
            values = {getattr(run, setting) for run in runs}
            if values:
                return values.pop() if len(values) == 1 else None
        return None


def _without_record(study: Study, same: list[PlannedRun], known: _Known, status: str) -> PageRun:
    first = same[0]
    settings = {key.lstrip("+"): value for key, _, value in (text.partition("=") for text in first.overrides)}
    method = settings.get("method") or known.only("", "method") or DASH
    rank, task, model = (settings.get(group) or known.only(method, group) or DASH for group in GROUPS[1:])
    if known.only(method, "rank") == DASH:  # the method has none, whatever the sweep says
        rank = DASH
    reason = {UNREADABLE: "its record cannot be read", WAITING: NO_RATE_YET}.get(status)
    refused = next((run.refused for run in same if run.refused), None)
    return PageRun(
        method=method,
        label=known.labels.get(method, method),
        rank=rank,
        task=task,
        model=model,
        learning_rate=_number(settings.get("train.learning_rate")),
        settings={key: value for key, value in settings.items() if key != "seed"},
        command=study.plan.command(first) if study.plan else "",
        seed=int(settings["seed"]) if settings.get("seed", "").isdigit() else None,
        stages=tuple(dict.fromkeys(run.stage for run in same)),
        status=REFUSED if refused else status,
        run_id=first.run_id,
        reason=refused or reason,
    )


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _nameless(folder: str) -> PageRun:
    """A folder of which only the name is known."""
    unknown = PageRun(DASH, DASH, DASH, DASH, DASH, None, {}, "", None, (), UNREADABLE, folder)
    return replace(unknown, reason="its record cannot be read")
