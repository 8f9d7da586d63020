"""The scores of cells by column: a column is one metric of one scored dataset, or the held-out loss without scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from bench.record import Record
from bench.report.load import Cell
from bench.report.metrics import HELD_OUT_LOSS, SHARE, Scale, base_name, scale_of
from bench.report.statistics import Estimate, estimate

AVERAGED_FROM = 3  # datasets of one unit make an average


@dataclass(frozen=True)
class Column:
    """What a column of a table is of; `dataset` is None for the held-out loss."""

    dataset: str | None
    metric: str
    higher_is_better: bool

    @property
    def scale(self) -> Scale:
        """Bounds and unit of the metric."""
        return scale_of(self.metric)


@dataclass(frozen=True)
class Found:
    """What a cell reached in one column.

    Attributes:
        majority: the metric of answering every item with the most frequent class; None where that has no meaning.
        num_examples: scored items of one run.
    """

    estimate: Estimate
    majority: float | None
    above_majority: bool | None
    num_examples: int | None


@dataclass(frozen=True)
class Scores:
    """Every column of a table, and for each cell what it reached in those that it has."""

    columns: tuple[Column, ...]
    found: tuple[dict[Column, Found], ...]

    @property
    def first_metrics(self) -> tuple[Column, ...]:
        """The first metric of each dataset."""
        return tuple({column.dataset: column for column in reversed(self.columns)}.values())[::-1]

    @property
    def averaged(self) -> tuple[Column, ...]:
        """The first metrics that an average is made of: shares and correlations, of at least three datasets."""
        same = tuple(c for c in self.first_metrics if c.scale.unit == SHARE.unit and c.higher_is_better)
        return same if len(same) >= AVERAGED_FROM else ()


def collect(cells: Sequence[Cell]) -> Scores:
    """Columns in the order in which the records name them."""
    scored = any(run.scores for cell in cells for run in cell.runs)
    by_cell = []
    for cell in cells:
        entries: dict[Column, list[dict[str, Any]]] = {}
        for run in cell.runs:
            for score in run.scores if scored else _held_out(run):
                column = Column(score["task"], score["metric"], score["higher_is_better"])
                entries.setdefault(column, []).append(score)
        by_cell.append({column: _found(column, scores) for column, scores in entries.items()})
    return Scores(tuple(dict.fromkeys(column for found in by_cell for column in found)), tuple(by_cell))


def average(cell: Cell, columns: Sequence[Column]) -> Estimate | None:
    """The mean over columns, its interval over seeds alone; None for a cell that lacks one of them."""
    values = []
    for run in cell.runs:
        scores = {(score["task"], score["metric"]): _value(score) for score in run.scores}
        if any((column.dataset, column.metric) not in scores for column in columns):
            return None
        values.append(mean(scores[column.dataset, column.metric] for column in columns))
    return estimate(values, None, Scale(low=mean(column.scale.low for column in columns)))


def clear_best(estimates: Sequence[Estimate | None], higher_is_better: bool) -> int | None:
    """Which of the estimates is the best, if its interval leaves the mean of the runner-up out."""
    sign = 1 if higher_is_better else -1
    defined = ((e, i) for i, e in enumerate(estimates) if e is not None and not math.isnan(e.mean))
    ranked = sorted(defined, key=lambda pair: (sign * pair[0].mean, pair[1]), reverse=True)
    if len(ranked) < 2:
        return None
    (leader, index), (runner_up, _) = ranked[:2]
    return index if leader.clear_of(runner_up.mean, higher_is_better) else None


def heading(column: Column, columns: Sequence[Column]) -> str:
    """Dataset, metric and unit; with lm-eval's filter where the metric comes under several."""
    if column.dataset is None:
        return "held-out loss"
    name = base_name(column.metric)
    several = sum(c.dataset == column.dataset and base_name(c.metric) == name for c in columns) > 1
    filtered = column.metric.partition(",")[2]
    parts = (column.dataset, name, f"({filtered})" if several and filtered else "", column.scale.unit)
    return " ".join(part for part in parts if part)


def _found(column: Column, scores: list[dict[str, Any]]) -> Found:
    estimated = estimate([_value(score) for score in scores], scores[0]["stderr"], column.scale)
    majorities = [score["majority"] for score in scores if score["majority"] is not None]
    majority = mean(majorities) if majorities else None
    above = None if majority is None else _above(estimated, majority, column.higher_is_better)
    return Found(estimated, majority, above, scores[0]["num_examples"])


def _above(found: Estimate, majority: float, higher_is_better: bool) -> bool:
    """Whether the interval, or the mean where none is known, is better than the majority class."""
    if found.low is None:
        found = Estimate(found.mean, found.mean, found.mean, found.n, found.over)
    return found.clear_of(majority, higher_is_better)


def _value(score: dict[str, Any]) -> float:
    return math.nan if score["value"] is None else score["value"]


def _held_out(run: Record) -> list[dict[str, Any]]:
    """The held-out loss in a score's form, for tasks that score nothing."""
    loss = run.training.get("held_out_loss")
    entry = {"task": None, "metric": HELD_OUT_LOSS, "value": loss, "stderr": None, "num_examples": None}
    return [] if loss is None else [entry | {"higher_is_better": False, "majority": None}]
