"""The choice of the best learning rate, from the records of a group's search on the validation split.

Each group (method, rank, task, model) chooses from its own records alone, by the loss of the validation split's targets
where the records have it. The best rate has the best mean over seeds, the smaller of equal ones; a rate at which a seed
failed is out. What is run on is the vertex of the parabola through it and its neighbours (bench.study.search).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, geometric_mean
from typing import Any, Literal, TypeVar

from bench.runs.record import COMPLETED, LOSS, Record
from bench.runs.record_parts import Score
from bench.study import search

# Means of equal scores differ in the last bit with their number; far below one item of any test set.
ROUNDING = 1e-9
EVAL_LOSS = "eval_loss"

Item = TypeVar("Item")


@dataclass(frozen=True)
class Point:
    """One learning rate: the value of each seed that completed, and the number of seeds that did not."""

    learning_rate: float
    values: tuple[float, ...]
    failed: int = 0

    @property
    def mean(self) -> float | None:
        """Mean over seeds; None if a seed failed or a value is not finite."""
        if self.failed or not self.values or not all(map(math.isfinite, self.values)):
            return None
        return fmean(self.values)


@dataclass(frozen=True)
class Rung:
    """The learning rates tried with one budget of optimiser steps, ascending."""

    steps: int
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Selection:
    """The learning rates of one group, ascending, with the values by which the best is chosen.

    Attributes:
        points: at the full budget.
        metric: name of the values: loss, a metric's name, "mean of 3 first metrics", or eval_loss.
        rungs: what was tried at smaller budgets, the smallest first.
    """

    group: tuple[str, ...]
    method: str
    label: str
    points: tuple[Point, ...]
    metric: str
    higher_is_better: bool
    rungs: tuple[Rung, ...] = ()

    @property
    def best(self) -> Point | None:
        """The point with the best mean, of equal ones the smaller rate; None if every rate failed."""
        sign = 1 if self.higher_is_better else -1
        found: Point | None = None
        for point in self.points:
            if point.mean is None:
                continue
            if found is None or sign * point.mean > sign * found.mean + ROUNDING:  # type: ignore[operator]
                found = point
        return found

    @property
    def at_edge(self) -> Literal["lower", "upper"] | None:
        """The end of the tried rates at which the best one lies, beyond which a better one may be; None if inside."""
        if self.best is self.points[0]:
            return "lower"
        return "upper" if self.best is self.points[-1] else None

    @property
    def lowered(self) -> dict[int, tuple[float, ...]]:
        """What is minimised, by place of the lattice of rates: the value of each seed, infinite where one failed."""
        return {
            search.place_of(point.learning_rate): tuple(lowered(value, self.higher_is_better) for value in point.values)
            if point.mean is not None
            else (math.inf,)
            for point in self.points
        }

    @property
    def vertex(self) -> float | None:
        """The learning rate at the vertex of the parabola through the best rate and its neighbours; None as `best`."""
        if self.best is None:
            return None
        means = {place: fmean(values) for place, values in self.lowered.items()}
        best = search.best_place(means)
        neighbours = [means.get(place, math.inf) for place in (best - 1, best + 1)]
        found = self.best.learning_rate
        return search.rate_of_vertex(search.vertex(means)) if all(map(math.isfinite, neighbours)) else found

    @property
    def plateau(self) -> tuple[float, float] | None:
        """The smallest and the largest rate within one standard error of the best one; None with one seed."""
        if self.best is None or max(len(point.values) for point in self.points) < 2:
            return None
        places = search.plateau(self.lowered)
        rates = sorted(p.learning_rate for p in self.points if search.place_of(p.learning_rate) in places)
        return rates[0], rates[-1]

    @property
    def num_fits(self) -> int:
        """Fine-tunings that the search took, failed ones included."""
        tried = [*self.points, *(point for rung in self.rungs for point in rung.points)]
        return sum(len(point.values) + point.failed for point in tried)

    @property
    def num_steps(self) -> int:
        """Optimiser steps of these fine-tunings at smaller budgets than the full one."""
        return sum(rung.steps * (len(p.values) + p.failed) for rung in self.rungs for p in rung.points)


def lowered(value: float, higher_is_better: bool) -> float:
    """What is minimised: the logarithm of a loss, or a score with its sign turned."""
    if higher_is_better:
        return -value
    return math.log(value) if value > 0 else -math.inf if value == 0 else math.nan


def select(group: tuple[str, ...], records: Sequence[Record], smaller: Sequence[Record] = ()) -> Selection:
    """Collects the values of one group's search from its records, failed runs included.

    The value of a run is the geometric mean of its datasets' losses on the scored split; without these the mean of
    their first metrics or, if it scores none, its eval loss.

    Args:
        group: of the study's plan.
        records: at the full budget.
        smaller: at smaller budgets.

    Raises:
        ValueError: of these metrics some are better when higher and others when lower.
    """
    metric, higher = _metric([record for record in records if record.status == COMPLETED])
    by_budget: dict[int, list[Record]] = defaultdict(list)
    for record in smaller:
        by_budget[record.config.train.max_steps].append(record)
    rungs = tuple(Rung(steps, _points(by_budget[steps])) for steps in sorted(by_budget))
    first = records[0]
    return Selection(group, first.method, first.label, _points(records), metric, higher, rungs)


def _points(records: Sequence[Record]) -> tuple[Point, ...]:
    by_rate: dict[float, list[Record]] = defaultdict(list)
    for record in records:
        by_rate[record.config.train.learning_rate or 0.0].append(record)
    points = []
    for rate in sorted(by_rate):
        runs = sorted(by_rate[rate], key=lambda record: record.config.seed)
        values = tuple(_value(run) for run in runs if run.status == COMPLETED)
        points.append(Point(rate, values, sum(run.status != COMPLETED for run in runs)))
    return tuple(points)


def minimised(records: Sequence[Record]) -> float:
    """The mean over seeds of what the search minimises at one rate and budget; infinite where a seed failed.

    Raises:
        ValueError: as `select`.
    """
    higher = _metric(records)[1]
    values = [lowered(_value(record), higher) if record.status == COMPLETED else math.inf for record in records]
    found = fmean(values)
    return found if math.isfinite(found) else math.inf


def first_of_each(items: Iterable[Item], dataset: Callable[[Item], Any]) -> list[Item]:
    """The first item of each dataset, such as its first metric, which stands for it in a choice or an average."""
    found: dict[Any, Item] = {}
    for item in items:
        found.setdefault(dataset(item), item)
    return list(found.values())


def _losses(record: Record) -> list[Score]:
    return [score for score in record.scores if score.metric == LOSS]


def _first_metrics(record: Record) -> list[Score]:
    return first_of_each(record.scores, lambda score: score.task)


def _metric(records: Iterable[Record]) -> tuple[str, bool]:
    scored = next((record for record in records if record.scores), None)
    if scored is None:
        return EVAL_LOSS, False
    if _losses(scored):
        return LOSS, False
    scores = _first_metrics(scored)
    directions = {score.higher_is_better for score in scores}
    if len(directions) > 1:
        names = ", ".join(f"{score.task} {score.metric}" for score in scores)
        raise ValueError(f"no learning rate can be chosen by metrics of both directions: {names}")
    name = scores[0].metric if len(scores) == 1 else f"mean of {len(scores)} first metrics"
    return name, directions.pop()


def _value(record: Record) -> float:
    if losses := _losses(record):
        return geometric_mean(math.nan if score.value is None else score.value for score in losses)
    values = [score.value for score in _first_metrics(record)] or [record.eval_loss]
    return fmean(math.nan if value is None else value for value in values)
