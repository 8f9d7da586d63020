"""An answer of the records to a question, and the cells of a study that the question is about.

A group names overrides, such as {"method": "lora_sb", "rank": "r8"}, and selects the cells whose group in the study's
plan has them. Overrides that no group of the study sets are ignored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.report.judge.metrics import Scale
from bench.report.judge.statistics import ROUNDING
from bench.report.read.load import Cell, ReportError, Study
from bench.report.tables.render import DASH
from bench.study.selection import Selection

Group = Mapping[str, str]
YES, NO, EQUIVALENT, NOT_LEARNED, UNDECIDED = "yes", "no", "equivalent", "not learned", "undecided"
UNBOUNDED = Scale(low=-math.inf, high=math.inf)


class NotRunError(ReportError):
    """The study has no run that the question needs."""


@dataclass(frozen=True)
class Answer:
    """The answer of the records to one question.

    Attributes:
        text: yes, no, equivalent, not learned, undecided, or why the records give no answer.
        details: the numbers behind it, on one line.
        estimate: in `unit`; None if there is none, as when a target loss was not reached.
        low, high: its 95 % interval; infinite where what was run does not bound it.
        n: number of seeds, or of widths.
        p, p_holm: of a question about scores, before and after the correction for all of them.
        seeds_needed: that an undecided question takes; None where it is decided or no number of seeds is known to.
        runs: ids of the runs that answer.
    """

    text: str
    details: str = ""
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    n: int | None = None
    p: float | None = None
    p_holm: float | None = None
    seeds_needed: int | None = None
    runs: frozenset[str] = frozenset()

    @property
    def interval(self) -> str:
        """Estimate, bounds and unit as printed; a dash without an estimate."""
        if self.estimate is None:
            return DASH
        sign = "+" if self.unit in ("points", "in slope", "") else ""
        bounds = "" if self.low is None or self.high is None else f" [{self.low:{sign}.3g}, {self.high:{sign}.3g}]"
        return f"{self.estimate:{sign}.3g}{bounds} {self.unit}".rstrip()


def side(low: float | None, high: float | None, threshold: float) -> str:
    """YES if an interval is above a threshold, NO if below, UNDECIDED if it contains it."""
    if low is None or high is None:
        return UNDECIDED
    if low > threshold + ROUNDING:
        return YES
    return NO if high < threshold - ROUNDING else UNDECIDED


def one_group(groups: Sequence[tuple[str, ...]], wanted: Group, where: str) -> int:
    """Index of the group with the wanted overrides; those that no group of the study sets are ignored.

    Raises:
        NotRunError: there is none.
        ReportError: there are several.
    """
    found = all_groups(groups, wanted)
    text = " ".join(f"{key}={value}" for key, value in wanted.items())
    if not found:
        raise NotRunError(f"no completed run of {text} in {where}")
    if len(found) > 1:
        named = "; ".join(sorted(" ".join(groups[index]) for index in found))
        raise ReportError(f"{text} fits several groups of {where}: {named}; name what sets them apart")
    return found[0]


def all_groups(groups: Sequence[tuple[str, ...]], wanted: Group) -> list[int]:
    """Indices of the groups with the wanted overrides."""
    swept = {override.partition("=")[0] for group in groups for override in group}
    needed = {f"{key}={value}" for key, value in wanted.items() if key in swept}
    return [index for index, group in enumerate(groups) if needed <= set(group)]


def stage_cells(study: Study, stage: str | None) -> list[Cell]:
    """The cells of a stage; None for the study's own."""
    if stage is not None and stage not in study.stages:
        raise NotRunError(f"{study.name} has no stage {stage!r}; there are: {', '.join(study.stages)}")
    return study.cells if stage in (None, study.stage) else study.at(str(stage)).cells


def cells_of(study: Study, stage: str | None, *wanted: Group) -> list[Cell]:
    """One cell of a stage for each of the wanted groups."""
    cells = stage_cells(study, stage)
    groups = [cell.group for cell in cells]
    return [cells[one_group(groups, group, f"{study.name}, stage {stage or study.stage}")] for group in wanted]


def selection_of(study: Study, wanted: Group) -> Selection:
    """The learning rates that were tried for a group."""
    found = [selection for selection in study.selection if selection.best is not None]
    return found[one_group([selection.group for selection in found], wanted, f"the selection of {study.name}")]


def name_of(cell: Cell) -> str:
    """Label and rank."""
    rank = next((override for override in cell.group if override.startswith("rank=")), "")
    return f"{cell.label} {rank.removeprefix('rank=')}".rstrip()


def run_ids(*cells: Cell) -> frozenset[str]:
    """The ids of all runs of some cells."""
    return frozenset(run.run_id for cell in cells for run in cell.runs)
