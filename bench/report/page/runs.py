"""The runs of a study as rows of the page: those that have a record, and those that were only planned."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.report.judge.metrics import base_name, scale_of
from bench.report.page.rerun import rerun_command
from bench.report.palette import order
from bench.report.read.frames import eval_loss_score
from bench.report.read.load import Study
from bench.report.tables.render import DASH
from bench.runs.record import COMPLETED, FAILED, Record
from bench.runs.record_parts import ErrorFacts
from bench.study.plan_file import PlannedRun

MISSING, WAITING, REFUSED, UNREADABLE = "missing", "waiting", "refused", "unreadable"
STATUSES = (COMPLETED, FAILED, UNREADABLE, MISSING, WAITING, REFUSED)
REASONS = {UNREADABLE: "its record cannot be read", WAITING: "the learning rate of its stage is not chosen yet"}


@dataclass(frozen=True)
class PageRun:
    """One row of the list of runs; DASH, None or "" where something does not apply or is not known.

    Attributes:
        run_id: None for a planned run whose learning rate is not chosen.
        method: the name in conf/method, with a system's as in "lora_ga+lora_pro"; `label` is what its paper prints.
        stages: all stages that use the run.
        scores: metric and value as printed.
        score: the first value, in the unit that is printed; the list is sorted by it.
        seconds: sum over all phases.
        reason: why the run failed or cannot be run.
        command: the shell command that reruns it.
        config: the configuration; of a run without a record the planned overrides.
    """

    status: str
    run_id: str | None
    method: str = DASH
    label: str = DASH
    rank: str = DASH
    task: str = DASH
    model: str = DASH
    seed: int | None = None
    stages: tuple[str, ...] = ()
    learning_rate: float | None = None
    scores: tuple[tuple[str, str], ...] = ()
    score: float | None = None
    seconds: float | None = None
    reason: str = ""
    command: str = ""
    config: dict[str, Any] = field(default_factory=dict)


def page_runs(study: Study) -> list[PageRun]:
    """Every run of every stage, sorted by stage, method, task, model, rank, learning rate and seed."""
    planned: dict[str | None, list[PlannedRun]] = defaultdict(list)
    for run in study.plan.runs if study.plan else ():
        planned[run.run_id].append(run)  # several stages, or seeds that a method ignores, can share a run
    unchosen = planned.pop(None, [])
    recorded = [_recorded(study, record, planned.pop(record.run_id, [])) for _, record in study.members]
    runs = [*recorded, *(_without_record(study, [run], recorded, WAITING) for run in unchosen)]
    for run_id, same in planned.items():
        runs.append(_without_record(study, same, recorded, UNREADABLE if run_id in study.unreadable else MISSING))
    unplanned = [name for name in study.unreadable if name not in planned]
    runs += [PageRun(UNREADABLE, name, reason=REASONS[UNREADABLE]) for name in unplanned]
    return sorted(runs, key=lambda run: _order(study.stages, run))


def _order(stages: tuple[str, ...], run: PageRun) -> tuple:
    stage = min((stages.index(name) for name in run.stages if name in stages), default=len(stages))
    rank = [int(digits) for digits in re.findall(r"\d+", run.rank)]
    rate, seed = run.learning_rate or -1.0, -1 if run.seed is None else run.seed
    where = (run.task, run.model, rank, run.rank, rate, seed)
    return stage, *order(run.method), *where, STATUSES.index(run.status), run.run_id or "", run.command


def _recorded(study: Study, record: Record, planned: Sequence[PlannedRun]) -> PageRun:
    config, identity = record.config, record.identity
    stages = tuple(dict.fromkeys(run.stage for run in planned))
    if not stages and (study.plan is None or len(study.stages) == 1):
        stages = study.stages
    reason = ""
    if record.status != COMPLETED:
        reason = str(record.error or ErrorFacts())
    scores = _scores(record)
    seconds = [phase.seconds for phase in record.phases.values()]
    return PageRun(
        status=record.status if record.status in STATUSES else FAILED,
        run_id=record.run_id,
        method=record.method or DASH,
        label=record.label,
        rank=config.rank.name or DASH if "rank" in identity else DASH,
        task=config.task.name or DASH,
        model=config.model.name or DASH,
        seed=config.seed if "seed" in identity else None,
        stages=stages,
        learning_rate=config.train.learning_rate if "train" in identity else None,
        scores=tuple((name, text) for name, text, _ in scores),
        score=scores[0][2] if scores else None,
        seconds=sum(seconds) if seconds else None,
        reason=reason,
        command=study.plan.command(planned[0]) if study.plan and planned else rerun_command(record),
        config=config.model_dump(),
    )


def _scores(record: Record) -> list[tuple[str, str, float | None]]:
    """Metric, text and value of each score; the dataset is named where there are several; without scores the loss."""
    several = len({score.task for score in record.scores}) > 1
    bases = [(score.task, base_name(score.metric)) for score in record.scores]
    found = []
    for score, base in zip([*record.scores] or eval_loss_score(record), bases or [("", "eval loss")], strict=False):
        name = base[1] if bases.count(base) < 2 else score.metric
        scale = scale_of(score.metric)
        value = math.nan if score.value is None else score.value  # NaN: the correlation of a constant prediction
        number = None if math.isnan(value) else scale.factor * value
        text = DASH if number is None else f"{scale.text(value)} {scale.unit}".rstrip()
        found.append((f"{score.task} {name}" if several else name, text, number))
    return found


def _without_record(study: Study, same: Sequence[PlannedRun], recorded: Sequence[PageRun], status: str) -> PageRun:
    """A planned run; settings that its overrides leave at their defaults are taken from records of the same method."""
    pairs = (text.partition("=") for text in same[0].overrides)
    settings = {key.lstrip("+"): value for key, _, value in pairs}
    system = settings.get("system", "none")
    if "method" in settings and system != "none":
        settings["method"] += f"+{system}"
    names: dict[str, Any] = {}
    alike = recorded
    for group in ("method", "rank", "task", "model"):
        values = {getattr(run, group) for run in alike}
        names[group] = settings.get(group) or (values.pop() if len(values) == 1 else DASH)
        if group == "method":
            alike = [run for run in recorded if run.method == names["method"]] or recorded
            if {run.rank for run in alike} == {DASH}:
                settings.pop("rank", None)  # the method has none, whatever the sweep says
    refused = next((run.refused for run in same if run.refused), None)
    labels = {run.label for run in recorded if run.method == names["method"]}
    rate = settings.get("train.learning_rate", "")
    return PageRun(
        status=REFUSED if refused else status,
        run_id=same[0].run_id,
        label=labels.pop() if len(labels) == 1 else names["method"],
        seed=int(settings["seed"]) if settings.get("seed", "").isdigit() else None,
        stages=tuple(dict.fromkeys(run.stage for run in same)),
        learning_rate=float(rate) if re.fullmatch(r"[\d.]+(e[+-]?\d+)?", rate) else None,
        reason=refused or REASONS.get(status, ""),
        command=study.plan.command(same[0]) if study.plan else "",
        config=settings,
        **names,
    )
