"""The records of a study, as cells: the runs that differ in nothing but the seed."""

from __future__ import annotations

import functools
import json
import math
import re
import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.process.config_dirs import config_dir_words
from bench.report.palette import order
from bench.report.read.fits import refuse_unequal
from bench.report.read.members import Member, ReportError, read_members, refuse_mixture
from bench.runs.names import study_folder
from bench.runs.record import COMPLETED, Record
from bench.study import selection as rates
from bench.study.folders import experiment_file
from bench.study.plan_file import (
    ITEMS,
    RUN,
    SEARCH,
    SELECT,
    TUNED,
    CorruptPlanError,
    StudyPlan,
    no_study,
    read_plan,
)

BASELINE = "hu"  # LoRA, with which every method is compared
STUDY = "study"  # the axis of rows of several studies
SHARED = "the same runs"  # what keeps two rows from a comparison although every condition is equal


@dataclass(frozen=True)
class Cell:
    """Runs of one configuration under different seeds, in the seeds' order.

    Attributes:
        method: the name the command line knows, and that of a system behind a plus: "lora_ga+lora_pro".
        label: the method as its paper prints it.
        axes: the settings, beside task and model, in which the stage's cells differ; None where a method ignores one.
        group: what rows of different stages match by: the plan's common overrides; without a plan, method and axes.
        tried: of a tuned row the records of its selection, at the best rate and its neighbours.
        study: the study that a row beside those of other studies is of; "" where there is only one.
        conditions: what rows of different studies must have in common to be compared, in words.
    """

    method: str
    label: str
    axes: dict[str, Any]
    runs: list[Record]
    folders: list[Path]
    group: tuple[str, ...] = ()
    tried: tuple[Record, ...] = ()
    study: str = ""
    conditions: Mapping[str, str] = field(default_factory=dict)

    def unlike(self, other: Cell) -> tuple[str, ...]:
        """The conditions in which rows of two studies differ, or that they share runs; none of rows of one study."""
        if self.study == other.study:
            return ()
        if {run.run_id for run in self.runs} & {run.run_id for run in other.runs}:
            return (SHARED,)
        shared = self.conditions.keys() & other.conditions.keys()
        return tuple(
            name for name in self.conditions if name in shared and self.conditions[name] != other.conditions[name]
        )

    @property
    def learning_rate(self) -> float | None:
        """Peak of the schedule; None if nothing is trained."""
        return self.runs[0].config.train.learning_rate if self.trained else None

    @property
    def task_and_model(self) -> tuple[str, str]:
        """The names of task and model."""
        return _place(self.runs[0])

    @property
    def trained(self) -> bool:
        """Whether the method trains anything."""
        return bool(self.runs[0].training)

    @property
    def title(self) -> str:
        """Label and axes, for a legend; a study without a word before its name."""
        known = {name: value for name, value in self.axes.items() if value is not None}
        shown = [str(value) if name == STUDY else f"{name.rpartition('.')[2]} {value}" for name, value in known.items()]
        return ", ".join([self.label, *shown])


@dataclass(frozen=True)
class Study:
    """The records of a study, grouped into the cells of one stage; failed and unreadable runs are in no mean.

    Attributes:
        cells: of one stage.
        plan: what the study's sweeps have planned; None for single runs.
        members: every record that was read, failed ones too.
        beside: the studies that were put side by side in it; none in a study of its own.
        notes: what a reader of their common tables has to know, a line each.
    """

    name: str
    folder: Path
    cells: list[Cell]
    failed: list[Record] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    plan: StudyPlan | None = None
    stage: str = RUN
    members: list[Member] = field(default_factory=list)
    beside: tuple[Study, ...] = ()
    notes: tuple[str, ...] = ()

    @functools.cached_property
    def by_task_and_model(self) -> dict[tuple[str, str], Study]:
        """One study per (task, model), sorted; a table or figure never mixes two."""
        places = sorted({cell.task_and_model for cell in self.cells})
        return {place: replace(self, cells=[c for c in self.cells if c.task_and_model == place]) for place in places}

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages, in the order in which they are run."""
        return self.plan.stages if self.plan else (RUN,)

    @property
    def pairing(self) -> str:
        """What comparisons pair: the items, or runs under one seed as well."""
        return self.plan.pairing if self.plan else ITEMS

    def at(self, stage: str) -> Study:
        """The same study with the cells of another stage, of its completed runs."""
        members = _of_stage(self.members, self.plan, stage)
        completed = [member for member in members if member[1].status == COMPLETED]
        failed = [record for _, record in members if record.status != COMPLETED]
        tried = self._by_group(SELECT) if stage == TUNED else {}
        cells = [replace(one, tried=tuple(tried.get(one.group, ()))) for one in _cells(completed, self.plan, stage)]
        return replace(self, cells=cells, failed=failed, stage=stage)

    @functools.cached_property
    def selection(self) -> tuple[rates.Selection, ...]:
        """The scores at each learning rate of the selection stage, one Selection a group, in the methods' order."""
        full, smaller = (self._by_group(stage) for stage in (SELECT, SEARCH))
        found = [rates.select(group, records, smaller.get(group, ())) for group, records in full.items()]
        return tuple(
            sorted(found, key=lambda selection: (*order(selection.method), [natural(text) for text in selection.group]))
        )

    def _by_group(self, stage: str) -> dict[tuple[str, ...], list[Record]]:
        """The records of a stage that have a learning rate, by group."""
        groups: dict[tuple[str, ...], list[Record]] = defaultdict(list)
        known = _groups(self.plan, stage)
        for _, record in _of_stage(self.members, self.plan, stage) if stage in self.stages else []:
            if record.config.train.learning_rate is not None:
                groups[known[record.run_id]].append(record)
        return dict(groups)

    @functools.cached_property
    def selection_by_place(self) -> dict[tuple[str, str], list[rates.Selection]]:
        """The selections by names of task and model, sorted; those of failed runs, too."""
        known = _groups(self.plan, SELECT)
        places = {known[record.run_id]: _place(record) for _, record in self.members if record.run_id in known}
        found: dict[tuple[str, str], list[rates.Selection]] = defaultdict(list)
        for selection in self.selection:
            found[places[selection.group]].append(selection)
        return dict(sorted(found.items()))


def load_study(results_dir: Path, name: str, mix: bool = False) -> Study:
    """Reads the records of results_dir/name.

    Args:
        mix: put records of different software, hardware or schema version into one report, and rows whose learning
            rates were chosen among unequal numbers.

    Returns:
        The study at its stage "tuned" if there is one, else at the last that is not the selection.

    Raises:
        ReportError: no such folder, no completed run, or several stacks or schema versions or unequal searches without
            `mix`.
    """
    folder = existing_folder(results_dir, name)
    found, unreadable = read_members(folder)
    plan = planned(folder)
    completed = [record for _, record in found if record.status == COMPLETED]
    if not completed:
        made_by = f"; {_command(plan.experiment or name)} makes them" if plan else ""
        raise ReportError(f"no completed run in {folder}{made_by}")
    if not mix:
        refuse_mixture(folder, completed)
    study = Study(name, folder, [], [], unreadable, plan, members=found)
    scored = [stage for stage in study.stages if stage not in (SEARCH, SELECT)]
    study = study.at(TUNED if TUNED in scored else (scored or study.stages)[-1])
    if not mix and study.stage == TUNED:
        refuse_unequal(folder, plan, found, {cell.group for cell in study.cells})
    return study


def _command(experiment: str) -> str:
    return shlex.join(["python", "-m", "bench.run", *config_dir_words(), "-m", f"+experiments={experiment}"])


def existing_folder(results_dir: Path, name: str) -> Path:
    """The folder of a study.

    Raises:
        ReportError: there is none; the message names the command that makes it, and the studies that there are.
    """
    try:
        folder = study_folder(results_dir, name)
    except ValueError as error:
        raise ReportError(str(error)) from None
    if folder.is_dir():
        return folder
    if experiment_file(name) is not None:
        raise ReportError(f"{no_study(results_dir, name)}; {_command(name)} makes it")
    raise ReportError(no_study(results_dir, name))


def planned(folder: Path) -> StudyPlan | None:
    """The plan that a study's sweeps left; None for single runs.

    Raises:
        ReportError: the plan cannot be read.
    """
    try:
        return read_plan(folder)
    except CorruptPlanError as error:
        raise ReportError(str(error)) from None


def _groups(plan: StudyPlan | None, stage: str) -> dict[str, tuple[str, ...]]:
    """The group of each run of a stage, by run id."""
    return {run.run_id: run.group for run in plan.of(stage) if run.run_id} if plan else {}


def _of_stage(members: Iterable[Member], plan: StudyPlan | None, stage: str) -> list[Member]:
    """The records of a stage; all of them where there are no stages."""
    if plan is None or plan.stages == (RUN,):
        return list(members)
    known = _groups(plan, stage)
    return [member for member in members if member[1].run_id in known]


def _cells(found: list[Member], plan: StudyPlan | None, stage: str) -> list[Cell]:
    known = _groups(plan, stage)
    groups: dict[str, list[Member]] = defaultdict(list)
    for path, record in _once_each(found):
        identity = {key: value for key, value in record.identity.items() if key != "seed"}
        groups[json.dumps(_without_alignment(identity), sort_keys=True)].append((path, record))
    flat = {key: settings(members[0][1]) for key, members in groups.items()}
    # A row of these stages is its group; which learning rate it has is a column.
    chosen = plan is not None and stage not in (RUN, SELECT)
    axes = [axis for axis in axes_of(flat) if not (chosen and axis == RATE)]
    cells = []
    for key, members in groups.items():
        members.sort(key=lambda member: member[1].config.seed)
        first = members[0][1]
        values = {axis: flat[key].get(axis) for axis in axes}
        paths, runs = zip(*members, strict=True)
        method = first.method
        own = (f"method={method}", *(f"{axis}={value}" for axis, value in values.items() if value is not None))
        group = known.get(first.run_id, own)
        cells.append(Cell(method, first.label, values, list(runs), list(paths), group))
    return sorted(cells, key=_rank)


def _without_alignment(identity: dict[str, Any]) -> dict[str, Any]:
    """The settings that a score depends on: the steps at which alignment is measured are none."""
    return identity | {"measure": {**identity.get("measure", {}), "alignment_steps": None}}


def _once_each(found: Iterable[Member]) -> Iterable[Member]:
    """Of runs that differ in the steps at which alignment is measured alone the one that measured most often."""
    kept: dict[str, Member] = {}
    for member in sorted(found, key=lambda member: _alignment_steps(member[1]) or math.inf):
        kept.setdefault(json.dumps(_without_alignment(member[1].identity), sort_keys=True), member)
    return kept.values()


def _alignment_steps(record: Record) -> int:
    return record.identity.get("measure", {}).get("alignment_steps") or 0


def natural(text: str) -> list[str | int]:
    """Sorts texts with the numbers in them as numbers: r8 before r16."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", text)]


def _place(record: Record) -> tuple[str, str]:
    return record.config.task.name, record.config.model.name


def _rank(cell: Cell) -> tuple:
    return *order(cell.method), [(str(type(value)), value is not None and value) for value in cell.axes.values()]


RATE = "train.learning_rate"
_PLACE, _METHOD = "place", "method_name"  # beside the settings of an identity, none of which is called so


def settings(record: Record) -> dict[str, Any]:
    """What of a run's configuration can change its scores, but the seed: printable values by dotted name."""
    identity = {key: value for key, value in record.identity.items() if key != "seed"}
    return _flatten(_without_alignment(identity)) | {_PLACE: _place(record), _METHOD: record.method}


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted names and printable values."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            flat[prefix + key] = ",".join(map(str, value))
        elif isinstance(value, str) and re.fullmatch("[0-9a-f]{40,}", value):
            flat[prefix + key] = value[:8]  # a hash, of which nobody reads more
        else:
            flat[prefix + key] = value
    return flat


def axes_of(flat: Mapping[Any, dict[str, Any]]) -> list[str]:
    """The `settings` that differ between cells to which they apply, without those that another one implies.

    Task and model head the tables, and what they imply (their data, their files) is no axis.
    """
    every = list(flat.values())
    keys = {key for values in every for key in values} - {_PLACE, _METHOD}
    axes = [_PLACE]
    # lora_alpha follows the rank, and each row's own learning rate what is swept, not the other way round.
    for key in sorted(keys, key=lambda key: (key == RATE, not key.endswith(".name"), key != "rank.r", key)):
        # The fields of a method and of a system, and the learning rate, set cells apart only within both.
        within = [_METHOD] if key.startswith(("method.", "system.")) or key == RATE else []
        if not _fixed(every, within, key) and not any(_fixed(every, [axis], key) for axis in axes):
            axes.append(key)
    return axes[1:]


def _fixed(every: list[dict[str, Any]], by: list[str], key: str) -> bool:
    """Whether equal values of the settings `by` give one value of `key` in every cell that has it."""
    seen: dict[tuple, set] = defaultdict(set)
    for values in every:
        if key in values:
            seen[tuple(values.get(name) for name in by)].add(values[key])
    return all(len(values) == 1 for values in seen.values())
